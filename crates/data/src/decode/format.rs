//! Telling an image's format from its first bytes.

use crate::{Error, Result};

/// A format that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JPEG, baseline or progressive; grey, RGB, YCbCr, CMYK or YCCK.
    Jpeg,
    /// PNG.
    Png,
    /// WebP; the first frame of an animation.
    WebP,
    /// GIF; the first frame of an animation.
    Gif,
    /// Windows bitmap.
    Bmp,
    /// TIFF; the first page.
    Tiff,
    /// Netpbm: PBM, PGM, PPM, plain or raw.
    Pnm,
}

impl Format {
    /// How many bytes from the start of a file [`Format::sniff`] looks at.
    pub const SNIFF_BYTES: usize = 32;

    /// The format of a file that starts with `bytes`, from its magic number.
    ///
    /// # Errors
    /// [`Error::NotAnImage`] with what the content looks like instead.
    pub fn sniff(bytes: &[u8]) -> Result<Self> {
        let at = |offset: usize, magic: &[u8]| bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic));
        Ok(match bytes {
            [0xff, 0xd8, 0xff, ..] => Self::Jpeg,
            _ if at(0, b"\x89PNG\r\n\x1a\n") => Self::Png,
            _ if at(0, b"RIFF") && at(8, b"WEBP") => Self::WebP,
            _ if at(0, b"GIF87a") || at(0, b"GIF89a") => Self::Gif,
            _ if at(0, b"II*\0") || at(0, b"MM\0*") => Self::Tiff,
            // "BM" alone may start a text; the length of the header that follows is one of a few.
            [b'B', b'M', ..] if matches!(bytes.get(14..18), Some([12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0])) => {
                Self::Bmp
            }
            [b'P', b'1'..=b'6', b' ' | b'\t' | b'\r' | b'\n' | b'#', ..] => Self::Pnm,
            _ => return Err(Error::NotAnImage { found: describe(bytes) }),
        })
    }

    /// The format's usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Tiff => "TIFF",
            Self::Pnm => "PNM",
        }
    }
}

/// What unsupported content looks like, for the message.
fn describe(bytes: &[u8]) -> &'static str {
    let at = |offset: usize, magic: &[u8]| bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    match bytes {
        [] => "an empty file",
        _ if at(4, b"ftypavif") => "an AVIF picture",
        _ if at(4, b"ftyphei") || at(4, b"ftypmif1") || at(4, b"ftyphev") => "a HEIC picture",
        _ if at(4, b"ftyp") => "a video",
        _ if at(0, b"\xff\x0a") || at(4, b"JXL ") => "a JPEG XL picture",
        _ if at(4, b"jP  ") || at(0, b"\xff\x4f\xff\x51") => "a JPEG 2000 picture",
        _ if at(0, b"8BPS") => "a Photoshop file",
        _ if at(0, b"%PDF") => "a PDF document",
        _ if at(0, b"PK\x03\x04") => "a ZIP archive",
        _ if at(0, b"<svg") => "an SVG drawing",
        _ if bytes.iter().all(|&b| b == 0) => "nothing but zero bytes",
        _ if bytes.iter().all(|&b| (0x20..0x7f).contains(&b) || b.is_ascii_whitespace()) => "a text or HTML file",
        _ => "unknown content",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_starts_like_an_image_is_not_one() {
        for text in ["BMW makes cars, among other things", "P7 is not it", "GIF", "Portable"] {
            assert!(matches!(Format::sniff(text.as_bytes()), Err(Error::NotAnImage { found: "a text or HTML file" })));
        }
    }

    #[test]
    fn unsupported_formats_are_called_by_their_names() {
        let found = |bytes: &[u8]| match Format::sniff(bytes) {
            Err(Error::NotAnImage { found }) => found,
            other => panic!("{other:?}"),
        };
        assert_eq!(found(b"\0\0\0\x18ftypheic\0\0\0\0"), "a HEIC picture");
        assert_eq!(found(b"\0\0\0\x1cftypavif\0\0\0\0"), "an AVIF picture");
        assert_eq!(found(b""), "an empty file");
        assert_eq!(found(&[0; 32]), "nothing but zero bytes");
        assert_eq!(found(b"\x7fELF\x02\x01"), "unknown content");
    }
}

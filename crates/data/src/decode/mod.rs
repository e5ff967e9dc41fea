//! Bytes of an image file to RGB pixels, as PIL's `Image.open(...).convert("RGB")` gives them.
//!
//! The format is told from the content, never from the file's name. JPEG goes through libjpeg-turbo's
//! code (as PIL does, so the pixels are the same to the bit); the other formats through the `image`
//! crate. Where the result is not plainly PIL's:
//!
//! - **EXIF orientation** is applied by default ([`DecodeOptions::exif_orientation`]), so that a photo
//!   taken upright arrives upright. torchvision's `ImageFolder` ignores it and trains on sideways
//!   pictures.
//! - **16-bit grey** keeps the high byte. PIL clips at 255 instead, which turns nearly everything white.
//! - **Transparency** is dropped and the colour beneath it kept, as PIL does.
//! - **Large JPEGs** are decoded at a reduced scale if [`DecodeOptions::min_side`] is set: see there.
//! - **A cut-short file** is an error, as in PIL. Damage inside a JPEG that libjpeg can step over is
//!   stepped over, as in PIL.

mod format;
mod jpeg;
mod other;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

pub use format::Format;

use crate::{Error, Image, Result};

// A libjpeg error unwinds through C code to `catch_unwind` below; aborting instead would let one damaged
// photo end the process.
#[cfg(panic = "abort")]
compile_error!("regraft-data needs panic = \"unwind\": libjpeg reports damaged files by unwinding");

/// PIL's limit on the number of pixels (twice `Image.MAX_IMAGE_PIXELS`), beyond which it refuses.
pub const MAX_PIXELS: u64 = 178_956_970;

/// How to decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Turn the picture upright according to its EXIF orientation. Default: true.
    pub exif_orientation: bool,
    /// The shorter side, in pixels, that the transforms resize to. With it a JPEG is decoded at 1/2,
    /// 1/4 or 1/8 of its size as long as its shorter side stays at least twice this long, so a photo is
    /// touched only if its shorter side is at least four times as long: 1024 pixels for a resize to 256.
    /// Memory shrinks by the square of the scale, time to about half or less. The price, measured after a
    /// resize to 256: a photo just beyond the limit (1300 by 1030 pixels with sensor-like noise) differs from
    /// its full decode by at most 12 of 255 levels, 0.6 on average; larger ones (2000 by 1500, 4000 by 3000)
    /// by at most 5, 0.4 on average. `None`, the default, always decodes in full and equals PIL.
    pub min_side: Option<u32>,
    /// Refuse pictures with more pixels, before anything is allocated. Default: [`MAX_PIXELS`].
    pub max_pixels: u64,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { exif_orientation: true, min_side: None, max_pixels: MAX_PIXELS }
    }
}

impl DecodeOptions {
    /// Checks a picture's size against the limit.
    fn check_size(&self, width: u64, height: u64) -> Result<()> {
        if width.saturating_mul(height) > self.max_pixels {
            return Err(Error::TooLarge { width, height, max_pixels: self.max_pixels });
        }
        Ok(())
    }
}

/// Decodes the bytes of an image file.
///
/// # Errors
/// [`Error::NotAnImage`], [`Error::Truncated`], [`Error::Damaged`], [`Error::UnsupportedVariant`] or
/// [`Error::TooLarge`]. Never panics and prints nothing, whatever the bytes.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Image> {
    let format = Format::sniff(bytes)?;
    let decoded = catch_unwind(AssertUnwindSafe(|| match format {
        Format::Jpeg => jpeg::decode(bytes, options),
        _ => other::decode(bytes, format, options),
    }));
    let (image, orientation) = decoded.unwrap_or_else(|panic| Err(damaged(format, panic)))?;
    Ok(if options.exif_orientation { image.upright(orientation) } else { image })
}

/// Decodes an image file; errors name it.
///
/// # Errors
/// As [`decode`], and [`Error::NotFound`] or [`Error::Read`].
pub fn decode_file(path: &Path, options: &DecodeOptions) -> Result<Image> {
    let bytes = std::fs::read(path).map_err(|source| Error::read(path, source))?;
    decode(&bytes, options).map_err(|error| error.in_file(path))
}

/// The message with which a decoder unwound, as an error.
fn damaged(format: Format, panic: Box<dyn std::any::Any + Send>) -> Error {
    let reason = panic_message(&*panic);
    let reason = reason.strip_prefix("libjpeg fatal error: ").unwrap_or(&reason).to_owned();
    Error::Damaged { format: format.name(), reason }
}

/// The text of a caught panic.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the decoder stopped").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PGM: &[u8] = b"P5 2 3 255\n\x01\x02\x03\x04\x05\x06";

    #[test]
    fn grey_becomes_three_equal_channels() {
        let image = decode(PGM, &DecodeOptions::default()).unwrap();
        assert_eq!((image.width(), image.height()), (2, 3));
        assert_eq!(image.pixels()[..6], [1, 1, 1, 2, 2, 2]);
    }

    #[test]
    fn too_many_pixels_are_refused_before_allocation() {
        let error = decode(b"P5 60000 60000 255\n", &DecodeOptions::default()).unwrap_err();
        assert!(matches!(error, Error::TooLarge { width: 60000, height: 60000, .. }), "{error}");
        let error = decode(PGM, &DecodeOptions { max_pixels: 5, ..Default::default() }).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = decode_file(Path::new("/nowhere/a.jpg"), &DecodeOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), "/nowhere/a.jpg does not exist; check the path");
    }

    #[test]
    fn a_file_that_is_no_image_is_named_with_what_it_is() {
        let file = tempfile::NamedTempFile::with_suffix(".jpg").unwrap();
        std::fs::write(file.path(), "<html>404</html>").unwrap();
        let error = decode_file(file.path(), &DecodeOptions::default()).unwrap_err().to_string();
        assert!(error.contains(".jpg: not an image that can be read: a text or HTML file"), "{error}");
    }
}

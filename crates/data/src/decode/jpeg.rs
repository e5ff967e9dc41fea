//! JPEG through libjpeg-turbo's C code (as mozjpeg carries it, built by a C compiler alone): slow
//! integer inverse DCT and smooth chroma upsampling, the defaults that PIL uses too.

use std::cell::Cell;
use std::io::{self, BufRead, Read};

use mozjpeg::{ColorSpace, Decompress, Marker};

use super::DecodeOptions;
use crate::{Error, Image, Result};

/// A progressive JPEG of many scans decodes the whole picture once for each; real ones have about ten.
/// libjpeg-turbo's own fuzzers stop here.
const MAX_SCANS: usize = 500;

/// Decodes; returns the EXIF orientation beside the picture (1 if there is none).
///
/// Unwinds with a message (without a call of the panic hook) where libjpeg finds a fatal error.
pub(super) fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<(Image, u8)> {
    let scans = bytes.windows(2).filter(|pair| pair == &[0xff, 0xda]).count();
    if scans > MAX_SCANS {
        let reason = format!("{scans} scans, where at most {MAX_SCANS} are allowed");
        return Err(Error::Damaged { format: "JPEG", reason });
    }
    let exhausted = Cell::new(false);
    let source = Source { bytes, exhausted: &exhausted };
    let mut decoder =
        Decompress::with_markers(&[Marker::APP(1)]).from_reader(source).map_err(|error| failed(&exhausted, &error))?;

    let (width, height) = (decoder.width() as u64, decoder.height() as u64);
    options.check_size(width, height)?;
    decoder.scale(8 / reduction(width.min(height), options.min_side));
    let orientation = orientation(&decoder);

    let decoder = match decoder.components().len() {
        1 | 3 => decoder.rgb(),
        4 => decoder.to_colorspace(ColorSpace::JCS_CMYK),
        n => {
            return Err(Error::UnsupportedVariant { format: "JPEG", what: format!("{n} colour components") });
        }
    };
    let mut decoder = decoder.map_err(|error| failed(&exhausted, &error))?;
    let (width, height) = (decoder.width() as u32, decoder.height() as u32);
    let cmyk = decoder.color_space() == ColorSpace::JCS_CMYK;
    let pixels: Vec<u8> = decoder.read_scanlines().map_err(|error| failed(&exhausted, &error))?;
    // Reads on to the end marker, without which PIL calls a file truncated.
    decoder.finish().map_err(|error| failed(&exhausted, &error))?;
    if exhausted.get() {
        return Err(Error::Truncated { format: "JPEG" });
    }
    let pixels = if cmyk { inverted_cmyk_to_rgb(&pixels) } else { pixels };
    Ok((Image::new(width, height, pixels), orientation))
}

/// By how much to divide the size: 8, 4, 2 or 1.
fn reduction(shorter_side: u64, min_side: Option<u32>) -> u8 {
    let Some(min_side) = min_side else { return 1 };
    [8, 4, 2].into_iter().find(|&n| shorter_side / u64::from(n) >= 2 * u64::from(min_side)).unwrap_or(1)
}

/// The orientation from the first EXIF segment, 1 if there is none.
fn orientation<R>(decoder: &Decompress<R>) -> u8 {
    let exif = decoder.markers().find_map(|marker| marker.data.strip_prefix(b"Exif\0\0"));
    exif.and_then(image::metadata::Orientation::from_exif_chunk).map_or(1, image::metadata::Orientation::to_exif)
}

/// The error for a failed step: that the bytes ran out explains it best, if they did.
fn failed(exhausted: &Cell<bool>, error: &io::Error) -> Error {
    if exhausted.get() {
        Error::Truncated { format: "JPEG" }
    } else {
        Error::Damaged { format: "JPEG", reason: error.to_string() }
    }
}

/// PIL's conversion. CMYK in JPEG files is stored inverted (Adobe's convention, which PIL assumes of
/// every such file), so a stored 255 means no ink.
fn inverted_cmyk_to_rgb(cmyk: &[u8]) -> Vec<u8> {
    let (pixels, _) = cmyk.as_chunks::<4>();
    pixels
        .iter()
        .flat_map(|&[c, m, y, not_k]| {
            [c, m, y].map(|stored| {
                let product = u32::from(255 - stored) * u32::from(not_k) + 128;
                let ink = ((product >> 8) + product) >> 8;
                not_k - ink.min(u32::from(not_k)) as u8
            })
        })
        .collect()
}

/// The bytes, and a note of whether libjpeg asked for more than there are.
struct Source<'a> {
    bytes: &'a [u8],
    exhausted: &'a Cell<bool>,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(buffer)
    }
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.bytes.is_empty() {
            self.exhausted.set(true);
        }
        Ok(self.bytes)
    }

    fn consume(&mut self, amount: usize) {
        self.bytes.consume(amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_keeps_twice_the_side_that_is_needed() {
        assert_eq!(reduction(1023, Some(256)), 1);
        assert_eq!(reduction(1024, Some(256)), 2);
        assert_eq!(reduction(3000, Some(256)), 4);
        assert_eq!(reduction(6000, Some(256)), 8);
        assert_eq!(reduction(100_000, Some(256)), 8);
        assert_eq!(reduction(6000, None), 1);
    }
}

//! PNG, WebP, GIF, BMP, TIFF and PNM through the `image` crate.

use std::io::Cursor;

use image::error::{ImageError, LimitErrorKind};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::{DecodeOptions, Format};
use crate::{Error, Image, Result};

/// Decodes; returns the EXIF orientation beside the picture (1 if there is none).
pub(super) fn decode(bytes: &[u8], format: Format, options: &DecodeOptions) -> Result<(Image, u8)> {
    let library_format = match format {
        Format::Png => ImageFormat::Png,
        Format::WebP => ImageFormat::WebP,
        Format::Gif => ImageFormat::Gif,
        Format::Bmp => ImageFormat::Bmp,
        Format::Tiff => ImageFormat::Tiff,
        Format::Pnm => ImageFormat::Pnm,
        Format::Jpeg => unreachable!("JPEG has a decoder of its own"),
    };
    let failed = |error: ImageError| explain(error, format, options);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), library_format);
    // The size is checked below; this bounds what a decoder allocates besides the picture, at up to
    // 8 bytes a pixel (16-bit RGBA) and as much again in between.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(options.max_pixels.saturating_mul(16));
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    options.check_size(width.into(), height.into())?;
    if width == 0 || height == 0 {
        return Err(Error::Damaged { format: format.name(), reason: format!("{width}x{height} pixels") });
    }
    let orientation = decoder.orientation().map_or(1, image::metadata::Orientation::to_exif);
    let picture = DynamicImage::from_decoder(decoder).map_err(failed)?;
    let pixels = rgb8(picture).map_err(|what| Error::UnsupportedVariant { format: format.name(), what })?;
    Ok((Image::new(width, height, pixels), orientation))
}

/// The colours without transparency, the high byte of each where there are two.
fn rgb8(picture: DynamicImage) -> Result<Vec<u8>, String> {
    let high = |value: u16| (value >> 8) as u8;
    Ok(match picture {
        DynamicImage::ImageRgb8(p) => p.into_raw(),
        DynamicImage::ImageLuma8(p) => p.iter().flat_map(|&v| [v; 3]).collect(),
        DynamicImage::ImageLumaA8(p) => p.pixels().flat_map(|p| [p.0[0]; 3]).collect(),
        DynamicImage::ImageRgba8(p) => p.pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2]]).collect(),
        DynamicImage::ImageLuma16(p) => p.iter().flat_map(|&v| [high(v); 3]).collect(),
        DynamicImage::ImageLumaA16(p) => p.pixels().flat_map(|p| [high(p.0[0]); 3]).collect(),
        DynamicImage::ImageRgb16(p) => p.iter().map(|&v| high(v)).collect(),
        DynamicImage::ImageRgba16(p) => p.pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2]].map(high)).collect(),
        other => return Err(format!("the pixel type {:?}", other.color())),
    })
}

/// The library's error in this crate's terms.
fn explain(error: ImageError, format: Format, options: &DecodeOptions) -> Error {
    let name = format.name();
    match error {
        ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Error::Truncated { format: name },
        ImageError::Unsupported(e) => Error::UnsupportedVariant { format: name, what: e.to_string() },
        ImageError::Limits(e) if matches!(e.kind(), LimitErrorKind::InsufficientMemory) => Error::Damaged {
            format: name,
            reason: format!("it asks for more memory than {} pixels need", options.max_pixels),
        },
        other => Error::Damaged { format: name, reason: other.to_string() },
    }
}

//! Bilinear resampling with antialias, as PIL's `Image.resize(..., BILINEAR)`.
//!
//! `fast_image_resize` rounds its weights to 16 bits where PIL keeps 22, so a channel may differ from
//! PIL's by one level.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ImageView, ResizeAlg, ResizeOptions, Resizer};

use crate::{CropBox, Image};

/// Working memory of the transforms, to be reused from one picture to the next on the same thread.
#[derive(Default)]
pub struct Scratch {
    resizer: Resizer,
}

/// Which part of a resized picture to compute, in pixels of the resized picture.
pub(crate) struct Window {
    /// Size that the whole picture would have.
    pub full: (u32, u32),
    /// Left and top corner.
    pub corner: (u32, u32),
    /// Width and height.
    pub size: (u32, u32),
}

impl Scratch {
    /// Resizes `image` and keeps a window of the result, without computing the rest.
    pub(crate) fn resize_window(&mut self, image: &Image, window: &Window) -> Image {
        let span = |side: u32, full: u32, corner: u32, size: u32| {
            let scale = f64::from(side) / f64::from(full);
            let start = f64::from(corner) * scale;
            (start, (f64::from(size) * scale).min(f64::from(side) - start))
        };
        let (left, width) = span(image.width(), window.full.0, window.corner.0, window.size.0);
        let (top, height) = span(image.height(), window.full.1, window.corner.1, window.size.1);
        // The library's crop box bounds what is computed; pixels around it still take part, as they do
        // when the whole picture is resized.
        self.run(&view(image), window.size, &options().crop(left, top, width, height))
    }

    /// Cuts `crop` out of `image`, then resizes it to a square of `size` pixels: nothing outside the crop
    /// takes part.
    ///
    /// # Panics
    /// If the crop does not lie inside the picture.
    pub(crate) fn resized_crop(&mut self, image: &Image, crop: &CropBox, size: u32) -> Image {
        let part = TypedCroppedImage::new(view(image), crop.left, crop.top, crop.width, crop.height)
            .expect("a crop box lies inside its picture");
        self.run(&part, (size, size), &options())
    }

    // Typed views, because the library's untyped ones compile its code for every pixel type there is.
    fn run(&mut self, source: &impl ImageView<Pixel = U8x3>, size: (u32, u32), options: &ResizeOptions) -> Image {
        let mut result = Image::filled(size.0, size.1, [0; 3]);
        let mut target = TypedImage::<U8x3>::from_buffer(size.0, size.1, result.pixels_mut())
            .expect("an image holds three bytes a pixel");
        self.resizer.resize_typed(source, &mut target, options).expect("the crop box lies inside the picture");
        result
    }
}

fn view(image: &Image) -> TypedImageRef<'_, U8x3> {
    TypedImageRef::from_buffer(image.width(), image.height(), image.pixels())
        .expect("an image holds three bytes a pixel")
}

fn options() -> ResizeOptions {
    ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(width: u32, height: u32) -> Image {
        let pixel = |x: u32, y: u32| [(x * 7 % 256) as u8, (y * 5 % 256) as u8, ((x * y) % 256) as u8];
        let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect();
        Image::new(width, height, pixels)
    }

    #[test]
    fn a_window_equals_the_same_part_of_the_whole() {
        let image = gradient(301, 203);
        let full = (127, 86);
        let mut scratch = Scratch::default();
        let whole = scratch.resize_window(&image, &Window { full, corner: (0, 0), size: full });
        let part = scratch.resize_window(&image, &Window { full, corner: (31, 11), size: (64, 63) });
        for y in 0..63usize {
            let row = &whole.pixels()[((y + 11) * 127 + 31) * 3..][..64 * 3];
            for (x, (&a, &b)) in part.pixels()[y * 64 * 3..][..64 * 3].iter().zip(row).enumerate() {
                // The weights are computed from a shifted origin: their last bit may round otherwise.
                assert!(a.abs_diff(b) <= 1, "row {y}, byte {x}: {a} and {b}");
            }
        }
    }

    #[test]
    fn nothing_outside_a_crop_bleeds_in() {
        let mut image = Image::filled(40, 40, [255; 3]);
        for y in 10..30 {
            image.pixels_mut()[(y * 40 + 10) * 3..(y * 40 + 30) * 3].fill(9);
        }
        let crop = CropBox { left: 10, top: 10, width: 20, height: 20 };
        let resized = Scratch::default().resized_crop(&image, &crop, 7);
        assert_eq!(resized, Image::filled(7, 7, [9; 3]));
    }
}

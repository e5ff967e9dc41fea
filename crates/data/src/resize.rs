//! Resampling with antialias: PIL's `Image.resize` with `BILINEAR` or `BICUBIC`, to the bit.
//!
//! Each output pixel is a weighted mean of the input pixels beneath a triangle, whose width is that of two
//! output pixels (two input pixels when enlarging), or beneath a cubic spline twice as wide. The two axes
//! are done one after the other, with weights in 22-bit fixed point and a picture of 8-bit levels in between,
//! in PIL's order and rounding. Libraries that are faster round otherwise: by one level only, but a change of hue or contrast afterwards makes
//! several of it. (PIL skips an axis that keeps its size; the weights are then 1 and 0, so nothing changes.)

use std::ops::Range;

use regraft_kernels::simd::dispatch;

use crate::{CropBox, Image, Interpolation};

/// Working memory of the transforms, to be reused from one picture to the next on the same thread.
#[derive(Default)]
pub struct Scratch {
    /// Some rows of the input, their pixels side by side, each in four bytes: that is one store.
    interleaved: Vec<[[u8; 4]; LANES]>,
    /// The picture after the first axis.
    between: Vec<u8>,
    /// Sums of one output row.
    sums: Vec<i32>,
}

/// How many rows are resampled at once along the first axis, so that a compiler can use wide registers.
const LANES: usize = 16;

/// PIL's fixed point: 32 bits, less 8 for the level and 2 to spare.
const FRACTION_BITS: u32 = 22;

/// A half, which makes the final shift round.
const HALF: i32 = 1 << (FRACTION_BITS - 1);

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
    pub(crate) fn resize_window(&mut self, image: &Image, window: &Window, interpolation: Interpolation) -> Image {
        let whole = CropBox { left: 0, top: 0, width: image.width(), height: image.height() };
        self.resize(image, &whole, window, interpolation)
    }

    /// Cuts `crop` out of `image`, then resizes it to a square of `size` pixels: nothing outside the crop
    /// takes part.
    ///
    /// # Panics
    /// If the crop does not lie inside the picture.
    pub(crate) fn resized_crop(
        &mut self,
        image: &Image,
        crop: &CropBox,
        size: u32,
        interpolation: Interpolation,
    ) -> Image {
        let inside =
            |start: u32, length: u32, side: u32| length > 0 && u64::from(start) + u64::from(length) <= side.into();
        assert!(
            inside(crop.left, crop.width, image.width()) && inside(crop.top, crop.height, image.height()),
            "{crop:?} does not lie inside a picture of {}x{} pixels",
            image.width(),
            image.height(),
        );
        let window = Window { full: (size, size), corner: (0, 0), size: (size, size) };
        self.resize(image, crop, &window, interpolation)
    }

    /// [`Self::resize_plain`], compiled for the vector instructions of this CPU. Integers: the result is the same.
    fn resize(&mut self, image: &Image, crop: &CropBox, window: &Window, interpolation: Interpolation) -> Image {
        dispatch(
            #[inline(always)]
            || self.resize_plain(image, crop, window, interpolation),
        )
    }

    #[inline(always)]
    fn resize_plain(&mut self, image: &Image, crop: &CropBox, window: &Window, interpolation: Interpolation) -> Image {
        let columns = Axis::new(crop.width, window.full.0, window.corner.0, window.size.0, interpolation);
        let lines = Axis::new(crop.height, window.full.1, window.corner.1, window.size.1, interpolation);
        // Only these rows and columns of the crop take part.
        let (used_x, used_y) = (columns.used(), lines.used());
        let stride = image.width() as usize * 3;
        let row = |y: usize| {
            let start = (crop.top as usize + y) * stride + (crop.left as usize + used_x.start) * 3;
            &image.pixels()[start..start + used_x.len() * 3]
        };

        let width_bytes = window.size.0 as usize * 3;
        self.between.resize(used_y.len() * width_bytes, 0);
        for (block, target) in self.between.chunks_mut(LANES * width_bytes).enumerate() {
            let first = used_y.start + block * LANES;
            let rows = target.chunks_exact_mut(width_bytes);
            self.interleaved.resize(used_x.len(), [[0; 4]; LANES]);
            for lane in 0..rows.len() {
                let (pixels, _) = row(first + lane).as_chunks::<3>();
                self.interleaved.iter_mut().zip(pixels).for_each(|(lanes, &[r, g, b])| lanes[lane] = [r, g, b, 0]);
            }
            columns.resample_lanes(&self.interleaved, used_x.start, rows);
        }

        let mut result = Image::filled(window.size.0, window.size.1, [0; 3]);
        self.sums.resize(width_bytes, 0);
        for (target, (start, weights)) in result.pixels_mut().chunks_exact_mut(width_bytes).zip(lines.taps()) {
            self.sums.fill(HALF);
            let rows = self.between[(start - used_y.start) * width_bytes..].chunks_exact(width_bytes);
            for (row, &weight) in rows.zip(weights) {
                self.sums.iter_mut().zip(row).for_each(|(sum, &level)| *sum += i32::from(level) * weight);
            }
            target.iter_mut().zip(&self.sums).for_each(|(level, &sum)| *level = round(sum));
        }
        result
    }
}

/// The resampling along one axis: which input pixels make up each output pixel, and with what weights.
struct Axis {
    /// For each output pixel: its first input pixel and how many weights it has.
    spans: Vec<(usize, usize)>,
    /// The weights of all output pixels, one after the other, in fixed point.
    weights: Vec<i32>,
}

impl Axis {
    /// The output pixels `corner..corner + size` of `full`, made from `side` input pixels.
    fn new(side: u32, full: u32, corner: u32, size: u32, interpolation: Interpolation) -> Self {
        let scale = f64::from(side) / f64::from(full);
        let (filter, radius): (fn(f64) -> f64, f64) = match interpolation {
            Interpolation::Bilinear => (triangle, 1.0),
            Interpolation::Bicubic => (cubic, 2.0),
        };
        let unit = scale.max(1.0);
        let support = radius * unit;
        let (mut spans, mut weights) = (Vec::with_capacity(size as usize), Vec::new());
        let mut values = Vec::new();
        for at in corner..corner + size {
            let center = (f64::from(at) + 0.5) * scale;
            // `as` truncates, as C does, and keeps negative values at 0.
            let start = (center - support + 0.5) as u32;
            let end = ((center + support + 0.5) as u32).min(side);
            values.clear();
            values.extend((start..end).map(|x| filter(((f64::from(x) - center + 0.5) * (1.0 / unit)).abs())));
            let total: f64 = values.iter().sum();
            let one = f64::from(1u32 << FRACTION_BITS);
            // To the nearest, halves away from 0.
            let fixed = |weight: f64| (weight * one + 0.5f64.copysign(weight)) as i32;
            weights.extend(values.iter().map(|value| fixed(value / total)));
            spans.push((start as usize, values.len()));
        }
        Self { spans, weights }
    }

    /// The input pixels that any output pixel is made from.
    fn used(&self) -> Range<usize> {
        let (first, (last, count)) = (self.spans[0].0, self.spans[self.spans.len() - 1]);
        first..last + count
    }

    /// For each output pixel: its first input pixel, and the weights of that one and those that follow.
    fn taps(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let mut rest = self.weights.as_slice();
        self.spans.iter().map(move |&(start, count)| {
            let (weights, others) = rest.split_at(count);
            rest = others;
            (start, weights)
        })
    }

    /// Resamples rows along this axis: `input` holds their pixels side by side, from pixel `first` on, and
    /// `rows` receives them.
    #[inline(always)]
    fn resample_lanes<'a>(&self, input: &[[[u8; 4]; LANES]], first: usize, rows: impl Iterator<Item = &'a mut [u8]>) {
        let mut rows: Vec<&mut [u8]> = rows.collect();
        for (x, (start, weights)) in self.taps().enumerate() {
            let mut sums = [HALF; 4 * LANES];
            for (lanes, &weight) in input[start - first..].iter().zip(weights) {
                for (sum, &level) in sums.iter_mut().zip(lanes.as_flattened()) {
                    *sum += i32::from(level) * weight;
                }
            }
            let levels = sums.map(round);
            let (pixels, _) = levels.as_chunks::<4>();
            for (row, pixel) in rows.iter_mut().zip(pixels) {
                row[x * 3..x * 3 + 3].copy_from_slice(&pixel[..3]);
            }
        }
    }
}

/// The weight at a distance, in output pixels: PIL's `BILINEAR`.
fn triangle(distance: f64) -> f64 {
    (1.0 - distance).max(0.0)
}

/// PIL's `BICUBIC`: Keys' cubic convolution (1981) with a = -0.5.
fn cubic(distance: f64) -> f64 {
    const A: f64 = -0.5;
    let x = distance;
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// A sum in fixed point as a level. Weights add up to one; those of a cubic may be negative, so a sum may lie beyond
/// either end, by less than a quarter of the range: `i32` holds it.
fn round(sum: i32) -> u8 {
    (sum >> FRACTION_BITS).clamp(0, 255) as u8
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
        for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic] {
            let (all, some) = (Window { full, corner: (0, 0), size: full }, (64, 63));
            let whole = scratch.resize_window(&image, &all, interpolation);
            let window = Window { full, corner: (31, 11), size: some };
            let part = scratch.resize_window(&image, &window, interpolation);
            for y in 0..63usize {
                let row = &whole.pixels()[((y + 11) * 127 + 31) * 3..][..64 * 3];
                assert_eq!(&part.pixels()[y * 64 * 3..][..64 * 3], row, "{interpolation:?}, row {y}");
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
        for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic] {
            let resized = Scratch::default().resized_crop(&image, &crop, 7, interpolation);
            assert_eq!(resized, Image::filled(7, 7, [9; 3]));
        }
    }
}

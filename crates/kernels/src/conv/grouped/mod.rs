//! Convolution in groups of few channels, such as ResNeXt's 32 groups of 4. Matrix products of such width would leave most
//! lanes of a vector empty.
//!
//! Here a vector holds the outputs of several groups. Each output needs the inputs of its own group, so the inputs are
//! [spread](SourceRegion::spread) first: with `width` channels per group, a vector of channels becomes `width` vectors, and
//! the `i`-th holds in every lane input `i` of the lane's group. The convolution is then a lane-by-lane sum of products. The
//! spread values of a few lines and one vector of channels lie in cache, padding included, so there are no borders.

mod sums;
mod weight_gradient;

use std::ops::Range;

use pulp::Simd;

pub(super) use sums::{backward_input, forward, pack_backward, pack_forward};
pub(super) use weight_gradient::backward_weight;

use super::Shape;
use super::patches::Patches;
use crate::prefetch;

/// Supported numbers of channels per group. More channels fill the lanes of a matrix product.
const WIDTHS: [usize; 3] = [2, 4, 8];

/// Approximate elements of the spread lines, which fit the second-level cache.
const SPREAD: usize = 64 * 1024;

/// Whether these kernels can compute the shape.
///
/// Spread lines include their padding and everything between the taps, so the shape must be
/// [compact](Shape::is_compact) to bound their memory.
pub(super) fn fits(shape: &Shape) -> bool {
    let width = shape.in_per_group();
    let is_narrow = shape.groups > 1 && width == shape.out_per_group() && WIDTHS.contains(&width);
    is_narrow && shape.stride[1] <= 2 && shape.is_compact()
}

/// Lines of positions per strip: their spread lines are about [`SPREAD`] elements, and one image has strips for several
/// threads.
fn lines_per_strip(patches: &Patches, width: usize, lanes: usize) -> usize {
    let reach = |axis: usize| {
        let offsets = || patches.offsets.iter().map(|offset| offset[axis]);
        (offsets().max().unwrap_or(0) - offsets().min().unwrap_or(0)).unsigned_abs()
    };
    let [lines, columns] = patches.positions;
    let line_len = (columns * patches.step[1] + reach(1)) * width * lanes;
    let fitting = (SPREAD / line_len).saturating_sub(reach(0)) / patches.step[0];
    fitting.clamp(1, lines.div_ceil(4).max(2))
}

/// The region of a map that some positions read, padding included.
struct SourceRegion {
    /// First line and column in the map; negative in the padding.
    first: [isize; 2],
    /// Number of lines and columns.
    size: [usize; 2],
}

impl SourceRegion {
    /// The region that the given lines of positions read through their patches.
    fn of<'a>(parts: impl Iterator<Item = (&'a Patches, Range<usize>)>) -> Self {
        let mut first = [isize::MAX; 2];
        let mut last = [isize::MIN; 2];
        for (patches, lines) in parts.filter(|(_, lines)| !lines.is_empty()) {
            for (axis, positions) in [lines, 0..patches.positions[1]].into_iter().enumerate() {
                for offset in patches.offsets.iter().map(|offset| offset[axis]) {
                    first[axis] = first[axis].min((positions.start * patches.step[axis]) as isize + offset);
                    last[axis] = last[axis].max(((positions.end - 1) * patches.step[axis]) as isize + offset);
                }
            }
        }
        // Without taps the region is empty.
        let size = [0, 1].map(|axis| if first[axis] > last[axis] { 0 } else { last[axis].abs_diff(first[axis]) + 1 });
        Self { first, size }
    }

    /// Loads the region's lines of an image into the cache, because reading one vector of channels at a time is a bad order
    /// for memory.
    fn fetch(&self, image: &[f32], patches: &Patches) {
        let line =
            |y: isize| y.clamp(0, patches.map[0] as isize).unsigned_abs() * patches.map[1] * patches.map_channels;
        prefetch::touch(&image[line(self.first[0])..line(self.first[0] + self.size[0] as isize)]);
    }

    /// Number of pixels.
    fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// The pixel of the region that the position at `line` and `column` reads through the tap at `offset`.
    fn pixel(&self, patches: &Patches, [line, column]: [usize; 2], offset: [isize; 2]) -> usize {
        let at = |axis: usize, position: usize| {
            ((position * patches.step[axis]) as isize + offset[axis] - self.first[axis]).unsigned_abs()
        };
        at(0, line) * self.size[1] + at(1, column)
    }

    /// Spreads one vector of channels, from `channel` on, of the region of an image: `[pixels, W]` vectors, zero in the
    /// padding.
    #[inline(always)]
    fn spread<S: Simd, const W: usize>(&self, image: &[f32], patches: &Patches, channel: usize, out: &mut [f32]) {
        let ([height, width], channels) = (patches.map, patches.map_channels);
        let vectors = W * S::F32_LANES;
        // A vector narrower than a group needs the inputs of the whole group.
        let start = channel / W * W;
        let count = S::F32_LANES.max(W).min(channels - start);
        for (line, out) in out.chunks_exact_mut(self.size[1] * vectors).take(self.size[0]).enumerate() {
            let y = self.first[0] + line as isize;
            if y < 0 || y as usize >= height {
                out.fill(0.0);
                continue;
            }
            let left = (-self.first[1]).clamp(0, self.size[1] as isize).unsigned_abs();
            let right = (width as isize - self.first[1]).clamp(left as isize, self.size[1] as isize).unsigned_abs();
            out[..left * vectors].fill(0.0);
            out[right * vectors..].fill(0.0);
            let line = y as usize * width;
            for pixel in left..right {
                let x = (self.first[1] + pixel as isize).unsigned_abs();
                let values = &image[(line + x) * channels + start..][..count];
                let out = &mut out[pixel * vectors..][..vectors];
                match S::F32_LANES {
                    16 => spread_pixel::<W, 16>(values, out),
                    8 => spread_pixel::<W, 8>(values, out),
                    4 => spread_pixel::<W, 4>(values, out),
                    2 => spread_pixel::<W, 2>(values, out),
                    _ => spread_pixel::<W, 1>(values, out),
                }
            }
        }
    }
}

/// Spreads the values of one pixel: vector `i` of `out` holds in each lane value `i` of the lane's group of `W`.
#[inline(always)]
fn spread_pixel<const W: usize, const LANES: usize>(values: &[f32], out: &mut [f32]) {
    if values.len() == LANES.max(W) {
        // Constant lengths let the compiler drop the bounds checks.
        spread_groups::<W, LANES>(&values[..LANES.max(W)], &mut out[..W * LANES]);
    } else {
        out.fill(0.0);
        spread_groups::<W, LANES>(values, out);
    }
}

/// [`spread_pixel`] for the groups in `values`; leaves the other lanes as they are.
#[inline(always)]
fn spread_groups<const W: usize, const LANES: usize>(values: &[f32], out: &mut [f32]) {
    for group in 0..values.len() / W {
        for i in 0..W {
            let value = values[group * W + i];
            // A vector may be narrower than a group.
            for lane in 0..W.min(LANES) {
                out[i * LANES + group * W + lane] = value;
            }
        }
    }
}

//! Depthwise convolution, where each channel has one filter of its own and there is no matrix product.
//!
//! A line of the result is a sum of shifted source lines, each times a tap. There are few operations per byte, so each line
//! of a map is fetched once, in order. Then a [`SlidingWindow`] moves along the line, once per vector of channels, and keeps
//! the pixels under it in registers.

mod sums;
mod weight_gradient;

use std::ops::Range;

use pulp::Simd;

pub(super) use sums::{backward_input, forward};
pub(super) use weight_gradient::backward_weight;

use super::Shape;
use crate::prefetch;
use crate::vector::load;

/// The source pixels of one line of the result: position `p` reads pixel `offset + p * step` of every row in `rows`, for
/// every offset in `columns`.
struct Line {
    /// First pixel of each source row, and the row's first tap. Rows in the padding are left out.
    rows: Vec<(usize, usize)>,
    /// Pixel that position 0 reads, which may lie outside the row, and the tap's index in its row.
    columns: Vec<(isize, usize)>,
    step: usize,
    /// Pixels of a source row.
    source_len: usize,
    /// Number of positions.
    count: usize,
}

impl Line {
    /// The columns of a [`SlidingWindow`] for this line, if there is one.
    fn window_width(&self) -> Option<usize> {
        let dense = self.columns.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1);
        let some = !self.rows.is_empty() && !self.columns.is_empty();
        [2, 3, 5].into_iter().find(|&width| some && dense && self.columns.len() <= width)
    }

    /// The pixel of a row that `position` reads through the column at `offset`; `None` in the padding.
    fn reads(&self, offset: isize, position: usize) -> Option<usize> {
        let pixel = offset + (position * self.step) as isize;
        (pixel >= 0 && (pixel as usize) < self.source_len).then_some(pixel as usize)
    }

    /// Loads the source rows into the cache, except pixels before `fetched`, which are there; returns the new `fetched`.
    fn fetch(&self, source: &[f32], channels: usize, fetched: usize) -> usize {
        let first = self.rows.iter().map(|row| row.0).min().unwrap_or(fetched).max(fetched);
        let end = self.rows.iter().map(|row| row.0 + self.source_len).max().unwrap_or(fetched).max(fetched);
        prefetch::touch(&source[first * channels..end * channels]);
        end
    }
}

/// A window of `R` rows and `K` columns on the source, for one vector of channels, kept in registers.
///
/// It moves `STEP` columns per position.
struct SlidingWindow<'a, S: Simd, const R: usize, const K: usize, const STEP: usize> {
    rows: [&'a [f32]; R],
    source_len: usize,
    channels: usize,
    channel: usize,
    lanes: usize,
    /// The pixels in the window, column by column.
    pixels: [[S::f32s; R]; K],
    /// The pixel of the next column to read, which may lie outside the row.
    next: isize,
}

impl<'a, S: Simd, const R: usize, const K: usize, const STEP: usize> SlidingWindow<'a, S, R, K, STEP> {
    /// The window before position 0, with all but its last `STEP` columns read.
    ///
    /// In place of missing rows it reads the first row; their taps must be zero.
    #[inline(always)]
    fn new(
        simd: S,
        line: &Line,
        rows: &[(usize, usize)],
        source: &'a [f32],
        [channels, channel, lanes]: [usize; 3],
    ) -> Self {
        assert!(channel + lanes <= channels);
        let len = line.source_len * channels;
        let mut slices = [&source[..0]; R];
        for row in 0..R {
            let (start, _) = *rows.get(row).unwrap_or(&rows[0]);
            slices[row] = &source[start * channels..][..len];
        }
        let pixels = [[simd.splat_f32s(0.0); R]; K];
        let next = line.columns[0].0;
        let mut window = Self { rows: slices, source_len: line.source_len, channels, channel, lanes, pixels, next };
        for column in STEP..K {
            window.pixels[column] = window.column(simd);
        }
        window
    }

    /// The positions, of the next `count`, whose new columns all lie inside the row.
    fn inside(&self, count: usize) -> Range<usize> {
        let start = (-self.next).max(0).unsigned_abs().div_ceil(STEP).min(count);
        let end = (self.source_len as isize - self.next).max(0).unsigned_abs() / STEP;
        start..end.clamp(start, count)
    }

    /// Moves to the next position. `INSIDE` asserts that its new columns all lie inside the row.
    #[inline(always)]
    fn slide<const INSIDE: bool>(&mut self, simd: S) {
        for column in STEP..K {
            self.pixels[column - STEP] = self.pixels[column];
        }
        for column in K - STEP..K {
            self.pixels[column] = if INSIDE { self.column_inside(simd) } else { self.column(simd) };
        }
    }

    /// Reads the next column, which is zero outside the row.
    #[inline(always)]
    fn column(&mut self, simd: S) -> [S::f32s; R] {
        if self.next >= 0 && (self.next as usize) < self.source_len {
            return self.column_inside(simd);
        }
        self.next += 1;
        [simd.splat_f32s(0.0); R]
    }

    /// Reads the next column, which must lie inside the row.
    #[inline(always)]
    fn column_inside(&mut self, simd: S) -> [S::f32s; R] {
        debug_assert!(self.next >= 0 && (self.next as usize) < self.source_len);
        let at = self.next as usize * self.channels + self.channel;
        let mut pixels = [simd.splat_f32s(0.0); R];
        for row in 0..R {
            // SAFETY: `at..at + lanes` must lie in the row. `new` has cut the rows to `source_len` pixels and asserted that a
            // pixel has these lanes. `next` is below `source_len`: `column` checks it, and `slide::<true>` is called only
            // for positions in `inside`.
            #[allow(unsafe_code)]
            let pixel = unsafe { self.rows[row].get_unchecked(at..at + self.lanes) };
            pixels[row] = load(simd, pixel, 0, self.lanes);
        }
        self.next += 1;
        pixels
    }
}

/// The input pixels of output line `y` of an image.
fn forward_line(shape: &Shape, image: usize, y: usize) -> Line {
    let start = |row| (image * shape.input[0] + row) * shape.input[1];
    let column = |kx| ((kx * shape.dilation[1]) as isize - shape.padding[1] as isize, kx);
    Line {
        rows: (0..shape.kernel[0])
            .filter_map(|ky| Some((start(shape.source(0, y, ky)?), ky * shape.kernel[1])))
            .collect(),
        columns: (0..shape.kernel[1]).map(column).collect(),
        step: shape.stride[1],
        source_len: shape.input[1],
        count: shape.output[1],
    }
}

/// The output gradient pixels of input gradient line `y` of an image, for the columns with one residue modulo the stride.
fn backward_line(shape: &Shape, image: usize, y: usize, first_column: usize) -> Line {
    // The output position that reads `at` through a tap, if it is a whole number.
    let reader = |axis: usize, at: usize, tap: usize| {
        let from = (at + shape.padding[axis]) as isize - (tap * shape.dilation[axis]) as isize;
        let stride = shape.stride[axis] as isize;
        (from.rem_euclid(stride) == 0).then_some(from.div_euclid(stride))
    };
    let row = |ky| {
        let row = reader(0, y, ky).filter(|&row| row >= 0 && (row as usize) < shape.output[0])?;
        Some(((image * shape.output[0] + row as usize) * shape.output[1], ky * shape.kernel[1]))
    };
    Line {
        // The last tap reads the first pixel.
        rows: (0..shape.kernel[0]).rev().filter_map(row).collect(),
        columns: (0..shape.kernel[1]).rev().filter_map(|kx| Some((reader(1, first_column, kx)?, kx))).collect(),
        step: 1,
        source_len: shape.output[1],
        count: (shape.input[1] - first_column).div_ceil(shape.stride[1]),
    }
}

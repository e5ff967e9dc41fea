//! Depthwise weight gradient: for each tap, the sum over positions of input times output gradient.

use pulp::{Simd, WithSimd};

use super::{Line, SlidingWindow, forward_line};
use crate::conv::Shape;
use crate::prefetch;
use crate::rows::reduce_pieces;
use crate::simd::Level;
use crate::vector::{for_each_vector, load, store};

/// Approximate positions per partial sum: many times the taps, so that adding the partial sums costs little.
const POSITIONS: usize = 256;

/// Fewest pieces of work, if the batch has as many output lines.
const PIECES: usize = 8;

/// The depthwise [`backward_weight`](crate::conv::backward_weight).
pub(in crate::conv) fn backward_weight(
    level: Level,
    shape: &Shape,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
) {
    let (channels, [height, width]) = (shape.in_channels, shape.output);
    let rows = shape.n * height;
    let step = POSITIONS.div_ceil(width).min(rows.div_ceil(PIECES));
    let total = reduce_pieces(rows, step, grad_weight.len(), |first, count, sums| {
        let mut fetched = 0;
        for row in first..first + count {
            let line = &forward_line(shape, row / height, row % height);
            let grad = &grad_output[row * width * channels..][..width * channels];
            fetched = line.fetch(input, channels, fetched);
            prefetch::touch(grad);
            level.run(SumTaps { line, channels, input, grad, sums });
        }
    });
    for (g, s) in grad_weight.iter_mut().zip(total) {
        *g = s as f32;
    }
}

/// Adds the products of one line's input and output gradient to the sums of the taps.
struct SumTaps<'a> {
    line: &'a Line,
    channels: usize,
    input: &'a [f32],
    /// The output gradient of the line.
    grad: &'a [f32],
    sums: &'a mut [f32],
}

impl WithSimd for SumTaps<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for_each_vector!(S, self.channels, |channel, lanes| self.vector(simd, channel, lanes));
    }
}

impl SumTaps<'_> {
    /// The sums of one vector of channels.
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, channel: usize, lanes: usize) {
        match (self.line.window_width(), self.line.step) {
            (Some(3), 1) => self.slide::<S, 3, 3, 1>(simd, channel, lanes),
            (Some(3), 2) => self.slide::<S, 3, 3, 2>(simd, channel, lanes),
            // The registers hold sums and pixels of two rows only.
            (Some(5), 1) => self.slide::<S, 2, 5, 1>(simd, channel, lanes),
            (Some(5), 2) => self.slide::<S, 2, 5, 2>(simd, channel, lanes),
            _ => self.tap_by_tap(simd, channel, lanes),
        }
    }

    /// Sums with a [`SlidingWindow`], one pass per `R` input rows.
    #[inline(always)]
    fn slide<S: Simd, const R: usize, const K: usize, const STEP: usize>(
        &mut self,
        simd: S,
        channel: usize,
        lanes: usize,
    ) {
        let line = self.line;
        let at = [self.channels, channel, lanes];
        for rows in line.rows.chunks(R) {
            let mut sums = [[simd.splat_f32s(0.0); R]; K];
            let mut window = SlidingWindow::<S, R, K, STEP>::new(simd, line, rows, self.input, at);
            let inside = window.inside(line.count);
            for positions in [0..inside.start, inside.clone(), inside.end..line.count] {
                // A loop of its own without borders has no branches.
                if positions == inside {
                    for position in positions {
                        window.slide::<true>(simd);
                        self.add_products(simd, &window, position, &mut sums);
                    }
                } else {
                    for position in positions {
                        window.slide::<false>(simd);
                        self.add_products(simd, &window, position, &mut sums);
                    }
                }
            }
            for j in 0..K.min(line.columns.len()) {
                for i in 0..R.min(rows.len()) {
                    self.add(simd, rows[i].1 + line.columns[j].1, channel, lanes, sums[j][i]);
                }
            }
        }
    }

    /// Adds the products of a window's pixels with the output gradient at a position.
    #[inline(always)]
    fn add_products<S: Simd, const R: usize, const K: usize, const STEP: usize>(
        &self,
        simd: S,
        window: &SlidingWindow<S, R, K, STEP>,
        position: usize,
        sums: &mut [[S::f32s; R]; K],
    ) {
        let g = load(simd, self.grad, position * self.channels + window.channel, window.lanes);
        for j in 0..K {
            for i in 0..R {
                sums[j][i] = simd.mul_add_e_f32s(window.pixels[j][i], g, sums[j][i]);
            }
        }
    }

    /// Sums for any filter, tap by tap.
    #[inline(always)]
    fn tap_by_tap<S: Simd>(&mut self, simd: S, channel: usize, lanes: usize) {
        let line = self.line;
        for &(row, tap) in &line.rows {
            for &(offset, kx) in &line.columns {
                let mut sum = simd.splat_f32s(0.0);
                for position in 0..line.count {
                    let Some(pixel) = line.reads(offset, position) else { continue };
                    let x = load(simd, self.input, (row + pixel) * self.channels + channel, lanes);
                    let g = load(simd, self.grad, position * self.channels + channel, lanes);
                    sum = simd.mul_add_e_f32s(x, g, sum);
                }
                self.add(simd, tap + kx, channel, lanes, sum);
            }
        }
    }

    /// Adds a value to the sum of a tap.
    #[inline(always)]
    fn add<S: Simd>(&mut self, simd: S, tap: usize, channel: usize, lanes: usize, value: S::f32s) {
        let at = tap * self.channels + channel;
        let sum = load(simd, self.sums, at, lanes);
        store(simd, self.sums, at, lanes, simd.add_f32s(sum, value));
    }
}

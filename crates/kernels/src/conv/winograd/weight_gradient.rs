//! The gradient of the weight in the transformed domain: `G^T [sum over tiles (B^T x B) (A dy A^T)] G`.
//!
//! A large block of tiles is transformed on both sides; then each of the 36 points is a matrix product over
//! the tiles, `[in, tiles] * [tiles, out]`, dealt out by rows, so that every sum has one owner and one order.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::transforms::{FilterGradient, Input, OUT, OutputGradient, POINTS, SIDE, TAPS, in_both};
use super::{Square, Tiling, store_points};
use crate::conv::Shape;
use crate::rows::with_scratch;
use crate::simd::Level;
use crate::tile::{Panels, Product};
use crate::vector::{load, store, vectors};

/// Tiles that are transformed together, and over which a product runs at a time.
const GROUP: usize = 64;

/// Elements of the transformed maps of a block: they should stay in the last-level cache.
const BLOCK: usize = 6 * 1024 * 1024;

/// Rows of the gradient, at a point, that one piece of work sums.
const ROWS: usize = 48;

/// How a group's transformed maps lie in memory.
#[derive(Clone, Copy)]
struct Layout {
    /// From one tile's input channels to the next tile's: a little more than there are, against cache conflicts.
    input_stride: usize,
    output: Panels,
    input_len: usize,
    output_len: usize,
}

impl Layout {
    fn new(level: Level, shape: &Shape) -> Self {
        let input_stride = shape.in_channels.next_multiple_of(16) + 16;
        let output = Panels::new(level, GROUP, shape.out_channels);
        let output_len = POINTS * output.count(shape.out_channels) * output.step;
        Self { input_stride, output, input_len: POINTS * GROUP * input_stride, output_len }
    }
}

/// Transforms the input and the output's gradient of one group of tiles.
struct TransformBoth<'a> {
    tiling: &'a Tiling,
    layout: Layout,
    input: &'a [f32],
    grad_output: &'a [f32],
    first_tile: usize,
    count: usize,
    out: (&'a mut [f32], &'a mut [f32]),
}

impl WithSimd for TransformBoth<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Shape { input: in_size, output: out_size, in_channels, out_channels, padding, .. } = self.tiling.shape;
        let Layout { input_stride, output: panels, .. } = self.layout;
        let output_plane = panels.count(out_channels) * panels.step;
        for tile in 0..self.count {
            let (image, [y, x]) = self.tiling.position(self.first_tile + tile);
            let corner = [y as isize, x as isize];
            let start = [corner[0] - padding[0] as isize, corner[1] - padding[1] as isize];
            let square = Square { map: self.input, size: in_size, channels: in_channels, image, start };
            for (channel, lanes) in vectors::<S>(in_channels) {
                let d = in_both::<S, Input, SIDE, SIDE>(simd, square.read(simd, channel, lanes));
                store_points(simd, d, GROUP * input_stride, tile * input_stride + channel, self.out.0);
            }
            let square = Square { map: self.grad_output, size: out_size, channels: out_channels, image, start: corner };
            for (channel, lanes) in vectors::<S>(out_channels) {
                let at = channel / panels.width * panels.step + tile * panels.stride + channel % panels.width;
                let g = in_both::<S, OutputGradient, OUT, SIDE>(simd, square.read(simd, channel, lanes));
                store_points(simd, g, output_plane, at, self.out.1);
            }
        }
    }
}

/// Adds the products of all groups of a block, of `counts` tiles each, to some rows of the transformed gradient at a point.
struct Sum<'a> {
    level: Level,
    shape: &'a Shape,
    layout: Layout,
    counts: &'a [usize],
    maps: &'a [f32],
    grads: &'a [f32],
    /// Whether there is something to add to.
    accumulate: bool,
}

impl Sum<'_> {
    fn rows(&self, point: usize, first_row: usize, out: &mut [f32]) {
        let Layout { input_stride, output: panels, input_len, output_len } = self.layout;
        let outputs = self.shape.out_channels;
        for (group, &count) in self.counts.iter().enumerate() {
            let product = Product {
                m: out.len() / outputs,
                n: outputs,
                k: count,
                a: [1, input_stride],
                b: panels,
                c_stride: outputs,
                accumulate: self.accumulate || group > 0,
            };
            let a = &self.maps[group * input_len + point * GROUP * input_stride + first_row..];
            let b = &self.grads[group * output_len + point * panels.count(outputs) * panels.step..];
            product.run(self.level, a, b, out);
        }
    }
}

/// Transforms some rows of the summed gradient back, into the nine taps' rows.
struct TransformBack<'a> {
    shape: &'a Shape,
    summed: &'a [f32],
    first_row: usize,
    out: Vec<&'a mut [f32]>,
}

impl WithSimd for TransformBack<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (inputs, outputs) = (self.shape.in_channels, self.shape.out_channels);
        for row in 0..self.out[0].len() / outputs {
            for (column, lanes) in vectors::<S>(outputs) {
                let mut u = [[simd.splat_f32s(0.0); SIDE]; SIDE];
                for (point, u) in u.as_flattened_mut().iter_mut().enumerate() {
                    *u = load(simd, self.summed, (point * inputs + self.first_row + row) * outputs + column, lanes);
                }
                let taps = in_both::<S, FilterGradient, SIDE, TAPS>(simd, u);
                for (tap, out) in taps.as_flattened().iter().zip(&mut self.out) {
                    store(simd, out, row * outputs + column, lanes, *tap);
                }
            }
        }
    }
}

/// The gradient of the weight, `[3, 3, in, out]`.
pub(in crate::conv) fn backward_weight(
    level: Level,
    shape: &Shape,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
) {
    let (inputs, outputs) = (shape.in_channels, shape.out_channels);
    let tiling = Tiling::new(shape);
    let layout = Layout::new(level, shape);
    let group_len = layout.input_len + layout.output_len;
    let groups = tiling.tiles().div_ceil(GROUP);
    let groups_per_block = (BLOCK / group_len).max(2).min(groups);
    let summed_len = POINTS * inputs * outputs;
    with_scratch(summed_len + groups_per_block * group_len, |scratch| {
        let (summed, transformed) = scratch.split_at_mut(summed_len);
        let (maps, grads) = transformed.split_at_mut(groups_per_block * layout.input_len);
        for first in (0..groups).step_by(groups_per_block) {
            let counts: Vec<usize> = (first..groups.min(first + groups_per_block))
                .map(|group| GROUP.min(tiling.tiles() - group * GROUP))
                .collect();
            maps.par_chunks_mut(layout.input_len)
                .zip(grads.par_chunks_mut(layout.output_len))
                .zip(&counts)
                .enumerate()
                .for_each(|(i, (out, &count))| {
                    let tiling = &tiling;
                    let first_tile = (first + i) * GROUP;
                    level.run(TransformBoth { tiling, layout, input, grad_output, first_tile, count, out });
                });
            let (maps, grads, accumulate) = (&*maps, &*grads, first > 0);
            let sum = Sum { level, shape, layout, counts: &counts, maps, grads, accumulate };
            summed.par_chunks_mut(inputs * outputs).enumerate().for_each(|(point, summed)| {
                summed.par_chunks_mut(ROWS * outputs).enumerate().for_each(|(i, out)| sum.rows(point, i * ROWS, out));
            });
        }
        let rows = inputs.div_ceil(16).max(1);
        let mut pieces: Vec<Vec<&mut [f32]>> = (0..inputs.div_ceil(rows)).map(|_| Vec::new()).collect();
        for tap in grad_weight.chunks_exact_mut(inputs * outputs) {
            for (piece, rows) in pieces.iter_mut().zip(tap.chunks_mut(rows * outputs)) {
                piece.push(rows);
            }
        }
        let summed = &*summed;
        pieces.into_par_iter().enumerate().for_each(|(i, out)| {
            level.run(TransformBack { shape, summed, first_row: i * rows, out });
        });
    });
}

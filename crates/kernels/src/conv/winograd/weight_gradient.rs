//! The gradient of the weight in the transformed domain: `G^T [sum over tiles (B^T x B) (A dy A^T)] G`.
//!
//! A large block of tiles is transformed on both sides; then each of the 36 points is a matrix product over
//! the tiles, `[in, tiles] * [tiles, out]`, dealt out by rows, so that every sum has one owner and one order.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::transforms::{FilterGradient, Input, OUT, OutputGradient, POINTS, SIDE, Sink, Source, TAPS, in_both};
use super::{Points, Tiling, transform_square};
use crate::conv::Shape;
use crate::rows::with_scratch;
use crate::simd::Level;
use crate::tile::{Panels, Product};
use crate::vector::{load, store, vectors};

/// Elements of the transformed maps of a block: they should stay in the last-level cache.
const BLOCK: usize = 6 * 1024 * 1024;

/// Rows of the gradient, at a point, that one piece of work sums.
const ROWS: usize = 48;

/// A transformed gradient of up to this many elements a point is summed in parts of the batch side by side, where it
/// stays in the second-level cache together with the maps.
const SMALL: usize = 64 * 128;

/// Most parts of the batch.
const PARTS: usize = 16;

/// How the transformed maps of a group of tiles lie in memory.
#[derive(Clone, Copy)]
struct Layout {
    /// Tiles that are transformed together, and over which a product runs at a time.
    group: usize,
    /// From one tile's input channels to the next tile's: a little more than there are, against cache conflicts.
    input_stride: usize,
    output: Panels,
    input_len: usize,
    output_len: usize,
}

impl Layout {
    fn new(level: Level, shape: &Shape, group: usize) -> Self {
        let input_stride = shape.in_channels.next_multiple_of(16) + 16;
        let output = Panels::new(level, group, shape.out_channels);
        let output_len = POINTS * output.count(shape.out_channels) * output.step;
        Self { group, input_stride, output, input_len: POINTS * group * input_stride, output_len }
    }

    /// Elements of both maps.
    fn len(&self) -> usize {
        self.input_len + self.output_len
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
        let Layout { group, input_stride, output: panels, .. } = self.layout;
        let output_plane = panels.count(out_channels) * panels.step;
        for tile in 0..self.count {
            let (image, [y, x]) = self.tiling.position(self.first_tile + tile);
            let corner = [y as isize, x as isize];
            let start = [corner[0] - padding[0] as isize, corner[1] - padding[1] as isize];
            for (channel, lanes) in vectors::<S>(in_channels) {
                let at = tile * input_stride + channel;
                let points = Points { data: &mut *self.out.0, plane: group * input_stride, at };
                let map = (self.input, in_size, in_channels);
                transform_square::<S, Input, SIDE>(simd, map, image, start, channel, lanes, points);
            }
            for (channel, lanes) in vectors::<S>(out_channels) {
                let at = channel / panels.width * panels.step + tile * panels.stride + channel % panels.width;
                let points = Points { data: &mut *self.out.1, plane: output_plane, at };
                let map = (self.grad_output, out_size, out_channels);
                transform_square::<S, OutputGradient, OUT>(simd, map, image, corner, channel, lanes, points);
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
        let Layout { group, input_stride, output: panels, input_len, output_len } = self.layout;
        let outputs = self.shape.out_channels;
        for (index, &count) in self.counts.iter().enumerate() {
            let product = Product {
                m: out.len() / outputs,
                n: outputs,
                k: count,
                a: [1, input_stride],
                b: panels,
                c_stride: outputs,
                accumulate: self.accumulate || index > 0,
            };
            let a = &self.maps[index * input_len + point * group * input_stride + first_row..];
            let b = &self.grads[index * output_len + point * panels.count(outputs) * panels.step..];
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
                let at = (self.first_row + row) * outputs + column;
                let at_row = row * outputs + column;
                if lanes == S::F32_LANES {
                    let points = Points { data: self.summed, plane: inputs * outputs, at };
                    let mut taps = TapRows { out: &mut self.out, at: at_row, lanes };
                    in_both::<S, FilterGradient, SIDE, TAPS>(simd, &points, &mut taps);
                } else {
                    let points = Tail { data: self.summed, plane: inputs * outputs, at, lanes };
                    let mut taps = TapRows { out: &mut self.out, at: at_row, lanes };
                    in_both::<S, FilterGradient, SIDE, TAPS>(simd, &points, &mut taps);
                }
            }
        }
    }
}

/// The last channels at each point, fewer than a vector.
struct Tail<'a> {
    data: &'a [f32],
    plane: usize,
    at: usize,
    lanes: usize,
}

impl<S: Simd> Source<S, SIDE> for Tail<'_> {
    #[inline(always)]
    fn column(&self, simd: S, j: usize) -> [S::f32s; SIDE] {
        let mut values = [simd.splat_f32s(0.0); SIDE];
        for i in 0..SIDE {
            values[i] = load(simd, self.data, (i * SIDE + j) * self.plane + self.at, self.lanes);
        }
        values
    }
}

/// A vector in the same row of each tap.
struct TapRows<'a, 'b> {
    out: &'a mut [&'b mut [f32]],
    at: usize,
    lanes: usize,
}

impl<S: Simd> Sink<S, TAPS> for TapRows<'_, '_> {
    #[inline(always)]
    fn row(&mut self, simd: S, i: usize, values: [S::f32s; TAPS]) {
        for j in 0..TAPS {
            store(simd, self.out[i * TAPS + j], self.at, self.lanes, values[j]);
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
    let len = POINTS * shape.in_channels * shape.out_channels;
    if shape.in_channels * shape.out_channels <= SMALL {
        let summed = sum_by_parts(level, shape, input, grad_output);
        transform_back(level, shape, &summed, grad_weight);
    } else {
        let layout = Layout::new(level, shape, 64);
        let groups = Tiling::new(shape).tiles().div_ceil(layout.group);
        let groups_per_block = (BLOCK / layout.len()).max(2).min(groups);
        with_scratch(len + groups_per_block * layout.len(), |scratch| {
            let (summed, transformed) = scratch.split_at_mut(len);
            sum_by_rows(level, shape, layout, input, grad_output, transformed, summed);
            transform_back(level, shape, summed, grad_weight);
        });
    }
}

/// Sums the transformed gradient, `[36, in, out]`, in parts of the batch.
fn sum_by_parts(level: Level, shape: &Shape, input: &[f32], grad_output: &[f32]) -> Vec<f32> {
    let tiling = &Tiling::new(shape);
    let layout = Layout::new(level, shape, 24);
    let plane = shape.in_channels * shape.out_channels;
    // Adding a part up must be little beside summing it.
    let part = tiling.tiles().div_ceil(PARTS).max(8 * layout.group).next_multiple_of(layout.group);
    let parts: Vec<Vec<f32>> = (0..tiling.tiles().div_ceil(part))
        .into_par_iter()
        .map(|i| {
            let mut summed = vec![0.0; POINTS * plane];
            let end = tiling.tiles().min((i + 1) * part);
            with_scratch(layout.len(), |scratch| {
                let (maps, grads) = scratch.split_at_mut(layout.input_len);
                for first_tile in (i * part..end).step_by(layout.group) {
                    let count = layout.group.min(end - first_tile);
                    let out = (&mut *maps, &mut *grads);
                    level.run(TransformBoth { tiling, layout, input, grad_output, first_tile, count, out });
                    let sum = Sum { level, shape, layout, counts: &[count], maps, grads, accumulate: true };
                    for (point, summed) in summed.chunks_exact_mut(plane).enumerate() {
                        sum.rows(point, 0, summed);
                    }
                }
            });
            summed
        })
        .collect();
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_else(|| vec![0.0; POINTS * plane]);
    for part in parts {
        total.par_chunks_mut(plane).zip(part.par_chunks(plane)).for_each(|(total, part)| {
            total.iter_mut().zip(part).for_each(|(t, &p)| *t += p);
        });
    }
    total
}

/// Sums the transformed gradient, `[36, in, out]`, in parts of itself, a block of transformed tiles after the other.
fn sum_by_rows(
    level: Level,
    shape: &Shape,
    layout: Layout,
    input: &[f32],
    grad_output: &[f32],
    transformed: &mut [f32],
    summed: &mut [f32],
) {
    let (inputs, outputs) = (shape.in_channels, shape.out_channels);
    let tiling = &Tiling::new(shape);
    let groups_per_block = transformed.len() / layout.len();
    let groups = tiling.tiles().div_ceil(layout.group);
    let (maps, grads) = transformed.split_at_mut(groups_per_block * layout.input_len);
    for first in (0..groups).step_by(groups_per_block) {
        let counts: Vec<usize> = (first..groups.min(first + groups_per_block))
            .map(|group| layout.group.min(tiling.tiles() - group * layout.group))
            .collect();
        maps.par_chunks_mut(layout.input_len)
            .zip(grads.par_chunks_mut(layout.output_len))
            .zip(&counts)
            .enumerate()
            .for_each(|(i, (out, &count))| {
                let first_tile = (first + i) * layout.group;
                level.run(TransformBoth { tiling, layout, input, grad_output, first_tile, count, out });
            });
        let sum = Sum { level, shape, layout, counts: &counts, maps, grads, accumulate: first > 0 };
        summed.par_chunks_mut(inputs * outputs).enumerate().for_each(|(point, summed)| {
            summed.par_chunks_mut(ROWS * outputs).enumerate().for_each(|(i, out)| sum.rows(point, i * ROWS, out));
        });
    }
}

/// Transforms the summed gradient back.
fn transform_back(level: Level, shape: &Shape, summed: &[f32], grad_weight: &mut [f32]) {
    let (inputs, outputs) = (shape.in_channels, shape.out_channels);
    let rows = inputs.div_ceil(16).max(1);
    let mut pieces: Vec<Vec<&mut [f32]>> = (0..inputs.div_ceil(rows)).map(|_| Vec::new()).collect();
    for tap in grad_weight.chunks_exact_mut(inputs * outputs) {
        for (piece, rows) in pieces.iter_mut().zip(tap.chunks_mut(rows * outputs)) {
            piece.push(rows);
        }
    }
    pieces.into_par_iter().enumerate().for_each(|(i, out)| {
        level.run(TransformBack { shape, summed, first_row: i * rows, out });
    });
}

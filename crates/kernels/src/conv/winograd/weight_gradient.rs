//! Winograd weight gradient: `G^T [sum over tiles (B^T x B) (A dy A^T)] G`.
//!
//! At each of the 36 points the sum is a matrix product over the tiles, `[in, tiles] * [tiles, out]`. One piece of work
//! covers one to three rows of six points, a block of input channels and a part of the batch, so that its transformed maps
//! and its sums fit the second-level cache together; those of all 36 points would not. Each piece reads the maps again, but
//! computes only its rows of the first dimension's transform.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::maps::{Points, transform_square};
use super::tiling::Tiling;
use super::transforms::{FilterGradient, Input, OutputGradient, POINTS, SIDE, Sink, Source, TAPS, in_both, unrolled};
use crate::Precision;
use crate::conv::Shape;
use crate::epilogue::TileEpilogue;
use crate::prefetch::Prefetch;
use crate::rows::with_scratch;
use crate::simd::Level;
use crate::tile::{Panels, Product, RowOffsets, Rows};
use crate::vector::{MAX_LANES, for_each_vector, load, store, vectors};

/// Bytes of the transformed maps, plus the sums if there is more than one row, that a piece of work holds at a time.
const MAPS: usize = 800 << 10;

/// Most bytes of the sums of a piece of work with more than one row.
const SUMS: usize = 400 << 10;

/// Most input channels in a block.
const CHANNELS: usize = 256;

/// Most elements of the transformed gradients of all parts, which are written once and read once.
const PARTS: usize = 4 << 20;

/// Fewest tiles per part; fewer would not pay for the part's sums.
const TILES: usize = 128;

/// Division of the work into pieces.
#[derive(Clone, Copy)]
struct Split {
    /// Rows of points per piece: 1, 2 or 3.
    rows: usize,
    /// Input channels per block; the last may have fewer.
    channels: usize,
    blocks: usize,
    /// Strips of tiles that are transformed and multiplied at a time.
    group: usize,
    /// Strips of tiles per part of the batch.
    part: usize,
    parts: usize,
}

impl Split {
    fn new(tiling: &Tiling) -> Self {
        let Shape { in_channels, out_channels, .. } = tiling.shape;
        let channels = in_channels.min(CHANNELS);
        let sums = |rows: usize| rows * SIDE * channels * out_channels * size_of::<f32>();
        let rows = [3, 2].into_iter().find(|&rows| sums(rows) <= SUMS).unwrap_or(1);
        let bytes = rows * SIDE * (channels + out_channels) * size_of::<f32>() * tiling.tiles_per_strip;
        let room = if rows > 1 { MAPS - sums(rows) } else { MAPS };
        let group = (room / bytes).clamp(1, tiling.strips());
        let parts = (PARTS / (POINTS * in_channels * out_channels)).min(tiling.tiles() / TILES).clamp(1, 16);
        let part = tiling.strips().div_ceil(parts).next_multiple_of(group);
        let parts = tiling.strips().div_ceil(part);
        Self { rows, channels, blocks: in_channels.div_ceil(channels), group, part, parts }
    }

    /// Elements of the sums of one piece of work.
    fn sums_len(&self, outputs: usize) -> usize {
        self.rows * SIDE * self.channels * outputs
    }
}

/// One piece of work: some rows of points, a block of input channels and a part of the batch.
struct Piece<'a> {
    level: Level,
    tiling: &'a Tiling,
    split: Split,
    input: &'a [f32],
    grad_output: &'a [f32],
    first_row: usize,
    block: usize,
    part: usize,
}

impl Piece<'_> {
    /// Computes the sums, `[rows, 6, channels, out]`.
    fn run(&self, sums: &mut [f32]) {
        let Self { level, tiling, split, .. } = *self;
        let Shape { in_channels, out_channels, .. } = tiling.shape;
        let first_channel = self.block * split.channels;
        let channels = split.channels.min(in_channels - first_channel);
        let tiles = split.group * tiling.tiles_per_strip;
        // Padding against cache conflicts.
        let stride = channels.next_multiple_of(16) + 16;
        let panels = Panels::new(level, tiles, out_channels);
        let plane = panels.count(out_channels) * panels.step;
        let end = ((self.part + 1) * split.part).min(tiling.strips());
        let points = split.rows * SIDE;
        with_scratch(points * (tiles * stride + plane), |scratch| {
            let (maps, grads) = scratch.split_at_mut(points * tiles * stride);
            for first in (self.part * split.part..end).step_by(split.group) {
                let strips = first..end.min(first + split.group);
                let count = strips.len() * tiling.tiles_per_strip;
                level.run(TransformRows {
                    piece: self,
                    first_tile: first * tiling.tiles_per_strip,
                    count,
                    channels: first_channel..first_channel + channels,
                    maps: (&mut *maps, stride, tiles * stride),
                    grads: (&mut *grads, panels, plane),
                });
                let next = strips.end..end.min(strips.end + split.group);
                let ahead = [
                    Prefetch::read(tiling.input_lines(next.clone(), self.input)),
                    Prefetch::read(tiling.output_lines(next, self.grad_output)),
                ];
                for (point, sums) in sums.chunks_exact_mut(split.channels * out_channels).enumerate() {
                    ahead.iter().for_each(|ahead| ahead.step(point, points));
                    let product = Product {
                        m: channels,
                        n: out_channels,
                        k: count,
                        a: Rows::Strided { values: &maps[point * tiles * stride..], strides: [1, stride] },
                        b: &grads[point * plane..],
                        panels,
                        row_offsets: RowOffsets::Strided(out_channels),
                        accumulate: first > self.part * split.part,
                        epilogue: TileEpilogue::NONE,
                        precision: Precision::F32,
                    };
                    product.run(level, sums);
                }
            }
        });
    }
}

/// Transforms the input and the output gradient of some tiles to some rows of points.
struct TransformRows<'a> {
    piece: &'a Piece<'a>,
    first_tile: usize,
    count: usize,
    /// Channels of the input.
    channels: std::ops::Range<usize>,
    /// The transformed input, `[rows, 6, tiles, stride]`; the elements between tiles, and between points.
    maps: (&'a mut [f32], usize, usize),
    /// The transformed output gradient, `[rows, 6, panels, tiles, width]`; its layout, and the elements between points.
    grads: (&'a mut [f32], Panels, usize),
}

impl WithSimd for TransformRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // A function each, because one function for all would take the compiler minutes.
        match (self.piece.split.rows, self.piece.first_row) {
            (3, 0) => simd.vectorize(FromRow::<0, 3>(self)),
            (3, _) => simd.vectorize(FromRow::<3, 3>(self)),
            (2, 0) => simd.vectorize(FromRow::<0, 2>(self)),
            (2, 2) => simd.vectorize(FromRow::<2, 2>(self)),
            (2, _) => simd.vectorize(FromRow::<4, 2>(self)),
            (_, 0) => simd.vectorize(FromRow::<0, 1>(self)),
            (_, 1) => simd.vectorize(FromRow::<1, 1>(self)),
            (_, 2) => simd.vectorize(FromRow::<2, 1>(self)),
            (_, 3) => simd.vectorize(FromRow::<3, 1>(self)),
            (_, 4) => simd.vectorize(FromRow::<4, 1>(self)),
            _ => simd.vectorize(FromRow::<5, 1>(self)),
        }
    }
}

/// [`TransformRows`] for `ROWS` rows of points from row `FIRST` on.
struct FromRow<'a, const FIRST: usize, const ROWS: usize>(TransformRows<'a>);

impl<const FIRST: usize, const ROWS: usize> WithSimd for FromRow<'_, FIRST, ROWS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let TransformRows { piece, first_tile, count, channels, maps, grads } = self.0;
        let ((maps, stride, map_plane), (grads, panels, plane)) = (maps, grads);
        let Shape { input: in_size, output: out_size, in_channels, out_channels, padding, .. } = piece.tiling.shape;
        let copy = &mut [0.0; POINTS * MAX_LANES];
        for tile in 0..count {
            let (image, [y, x]) = piece.tiling.position(first_tile + tile);
            let corner = [y as isize, x as isize];
            let start = [corner[0] - padding[0] as isize, corner[1] - padding[1] as isize];
            for (channel, lanes) in vectors::<S>(channels.len()) {
                let points = Points { data: &mut *maps, plane: map_plane, at: tile * stride + channel };
                let map = (piece.input, in_size, in_channels);
                let channel = channels.start + channel;
                transform_square::<S, Input, SIDE, FIRST, ROWS>(simd, map, image, start, channel, lanes, copy, points);
            }
            for (channel, lanes) in vectors::<S>(out_channels) {
                let at = channel / panels.width * panels.step + tile * panels.stride + channel % panels.width;
                let points = Points { data: &mut *grads, plane, at };
                let map = (piece.grad_output, out_size, out_channels);
                transform_square::<S, OutputGradient, 4, FIRST, ROWS>(
                    simd, map, image, corner, channel, lanes, copy, points,
                );
            }
        }
    }
}

/// The Winograd [`backward_weight`](crate::conv::backward_weight).
pub(in crate::conv) fn backward_weight(
    level: Level,
    shape: &Shape,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
) {
    let tiling = &Tiling::new(shape);
    let split = Split::new(tiling);
    let sums_len = split.sums_len(shape.out_channels);
    let pieces = SIDE / split.rows;
    with_scratch(split.parts * split.blocks * pieces * sums_len, |summed| {
        summed.par_chunks_mut(sums_len).enumerate().for_each(|(i, sums)| {
            let (first_row, block, part) =
                (i % pieces * split.rows, i / pieces % split.blocks, i / pieces / split.blocks);
            Piece { level, tiling, split, input, grad_output, first_row, block, part }.run(sums);
        });
        transform_back(level, shape, split, summed, grad_weight);
    });
}

/// Adds up the parts and transforms the sum back.
fn transform_back(level: Level, shape: &Shape, split: Split, summed: &[f32], grad_weight: &mut [f32]) {
    let (inputs, outputs) = (shape.in_channels, shape.out_channels);
    let rows = inputs.div_ceil(16).max(1);
    let mut pieces: Vec<Vec<&mut [f32]>> = (0..inputs.div_ceil(rows)).map(|_| Vec::new()).collect();
    for tap in grad_weight.chunks_exact_mut(inputs * outputs) {
        for (piece, rows) in pieces.iter_mut().zip(tap.chunks_mut(rows * outputs)) {
            piece.push(rows);
        }
    }
    pieces.into_par_iter().enumerate().for_each(|(i, out)| {
        level.run(TransformBack { outputs, split, summed, first_row: i * rows, out });
    });
}

/// Transforms some rows of the gradient back into the rows of the nine taps.
struct TransformBack<'a> {
    outputs: usize,
    split: Split,
    summed: &'a [f32],
    first_row: usize,
    out: Vec<&'a mut [f32]>,
}

impl WithSimd for TransformBack<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let Self { outputs, split, summed, first_row, .. } = self;
        let plane = split.channels * outputs;
        for row in 0..self.out[0].len() / outputs {
            let (block, channel) = ((first_row + row) / split.channels, (first_row + row) % split.channels);
            for_each_vector!(S, outputs, |column, lanes| {
                let at = block * POINTS * plane + channel * outputs + column;
                let part = split.blocks * POINTS * plane;
                let parts = SummedParts { summed, part, count: split.parts, plane, at, lanes };
                let mut taps = TapRows { out: &mut self.out, at: row * outputs + column, lanes };
                in_both::<S, FilterGradient, SIDE, TAPS>(simd, &parts, &mut taps);
            });
        }
    }
}

/// One vector at each point, summed over all parts.
struct SummedParts<'a> {
    summed: &'a [f32],
    /// Elements of a part.
    part: usize,
    /// Number of parts.
    count: usize,
    /// Elements between two points.
    plane: usize,
    at: usize,
    lanes: usize,
}

impl<S: Simd> Source<S, SIDE> for SummedParts<'_> {
    #[inline(always)]
    fn column(&self, simd: S, j: usize) -> [S::f32s; SIDE] {
        let mut values = [simd.splat_f32s(0.0); SIDE];
        for part in 0..self.count {
            unrolled!(i in 0..SIDE {
                let at = part * self.part + (i * SIDE + j) * self.plane + self.at;
                values[i] = simd.add_f32s(values[i], load(simd, self.summed, at, self.lanes));
            });
        }
        values
    }
}

/// One vector in the same row of each tap.
struct TapRows<'a, 'b> {
    out: &'a mut [&'b mut [f32]],
    at: usize,
    lanes: usize,
}

impl<S: Simd> Sink<S, TAPS> for TapRows<'_, '_> {
    #[inline(always)]
    fn row(&mut self, simd: S, i: usize, values: [S::f32s; TAPS]) {
        unrolled!(j in 0..TAPS { store(simd, self.out[i * TAPS + j], self.at, self.lanes, values[j]) });
    }
}

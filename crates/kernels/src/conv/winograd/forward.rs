//! The convolution itself; with the filter turned around, the input's gradient.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::filter::TransformFilter;
use super::maps::{Points, transform_square};
use super::tiling::Tiling;
use super::transforms::{Input, OUT, Output, POINTS, SIDE, Sink, in_both};
use crate::conv::filter::Form;
use crate::conv::{Epilogue, Shape};
use crate::epilogue::TileEpilogue;
use crate::prefetch::Prefetch;
use crate::rows::{ThreadScratch, with_scratch};
use crate::simd::Level;
use crate::tile::{Panels, Product, RowOffsets, Rows};
use crate::vector::{MAX_LANES, load, store, vectors};
use crate::{Activation, Precision};

/// Elements of a point's plane of `count` tiles, `columns` elements each: a whole number of cache lines, odd, so that
/// the 36 planes of a tile don't fall into the same cache sets.
fn plane(count: usize, columns: usize) -> usize {
    (count * columns).div_ceil(16) / 2 * 32 + 16
}

/// Transforms the input of some tiles: `[36, count, stride]`, planes `plane(count, stride)` apart.
struct TransformInput<'a> {
    tiling: &'a Tiling,
    input: &'a [f32],
    first_tile: usize,
    count: usize,
    out: &'a mut [f32],
}

/// From one tile's transformed channels to the next tile's: whole vectors of any level.
fn tile_stride(channels: usize) -> usize {
    channels.next_multiple_of(16)
}

impl TransformInput<'_> {
    /// Runs it. A function, so that its code is compiled once however many call it.
    fn run(self, level: Level) {
        level.run(self);
    }
}

impl WithSimd for TransformInput<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Shape { input: size, in_channels: channels, padding, .. } = self.tiling.shape;
        let stride = tile_stride(channels);
        let plane = plane(self.count, stride);
        let copy = &mut [0.0; POINTS * MAX_LANES];
        for tile in 0..self.count {
            let (image, [y, x]) = self.tiling.position(self.first_tile + tile);
            let start = [y as isize - padding[0] as isize, x as isize - padding[1] as isize];
            for (channel, lanes) in vectors::<S>(channels) {
                let points = Points { data: &mut *self.out, plane, at: tile * stride + channel };
                transform_square::<S, Input, SIDE, 0, SIDE>(
                    simd,
                    (self.input, size, channels),
                    image,
                    start,
                    channel,
                    lanes,
                    copy,
                    points,
                );
            }
        }
    }
}

/// Multiplies `count` transformed tiles with one panel of the transformed weight at a point: `[36, count, stride]`.
#[allow(clippy::too_many_arguments)] // sizes and slices of one product
fn multiply(
    level: Level,
    channels: usize,
    panels: Panels,
    count: usize,
    point: usize,
    tiles: &[f32],
    filter: &[f32],
    out: &mut [f32],
) {
    let (stride, tiles_stride) = (panels.stride, tile_stride(channels));
    let product = Product {
        m: count,
        n: stride,
        k: channels,
        a: Rows::Strided { values: &tiles[point * plane(count, tiles_stride)..], strides: [tiles_stride, 1] },
        b: &filter[point * channels * stride..][..channels * stride],
        panels,
        row_offsets: RowOffsets::Strided(stride),
        accumulate: false,
        epilogue: TileEpilogue::NONE,
        precision: Precision::F32,
    };
    product.run(level, &mut out[point * plane(count, stride)..]);
}

/// A convolution under way.
#[derive(Clone, Copy)]
struct Job<'a> {
    level: Level,
    tiling: &'a Tiling,
    panels: Panels,
    epilogue: Epilogue<'a>,
    accumulate: bool,
}

impl Job<'_> {
    /// Transforms the products of `count` tiles with one panel back, finishes and writes them to `out`, the lines of
    /// these tiles; adds to `sums`, if the epilogue gathers.
    fn transform_back(
        &self,
        panel: usize,
        first_tile: usize,
        count: usize,
        products: &[f32],
        sums: &mut [f32],
        out: &mut [f32],
    ) {
        self.level.run(TransformOutput { job: self, panel, first_tile, count, products, sums, out });
    }
}

struct TransformOutput<'a> {
    job: &'a Job<'a>,
    panel: usize,
    first_tile: usize,
    count: usize,
    products: &'a [f32],
    /// Of the values around the pivots, and of their squares; empty if nobody gathers.
    sums: &'a mut [f32],
    /// The output from the first tile's line on.
    out: &'a mut [f32],
}

impl WithSimd for TransformOutput<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let Job { tiling, panels, .. } = *self.job;
        let channels = panels.width.min(tiling.shape.out_channels - self.panel * panels.width);
        for tile in 0..self.count {
            for (column, lanes) in vectors::<S>(channels) {
                // Twice, so that the number of lanes of all but the last vector is known where it is compiled.
                if lanes == S::F32_LANES {
                    self.vector(simd, tile, column, S::F32_LANES);
                } else {
                    self.vector(simd, tile, column, lanes);
                }
            }
        }
    }
}

impl TransformOutput<'_> {
    /// One vector of a tile, `column` elements after the panel's first.
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, tile: usize, column: usize, lanes: usize) {
        let Job { tiling, panels, epilogue, accumulate, .. } = *self.job;
        let Shape { output: [height, width], out_channels: channels, .. } = tiling.shape;
        let first_pixel = tiling.first_pixel(self.first_tile / tiling.tiles_per_strip);
        let Epilogue { bias, residual, activation, gather } = epilogue;
        let (image, [y, x]) = tiling.position(self.first_tile + tile);
        let plane = plane(self.count, panels.stride);
        let products = Points { data: self.products, plane, at: tile * panels.stride + column };
        let channel = self.panel * panels.width + column;
        let zero = simd.splat_f32s(0.0);
        let (mut shift, mut pivot) = (zero, zero);
        if let Some(bias) = bias {
            shift = load(simd, bias, channel, lanes);
        }
        if let Some(gather) = gather {
            pivot = load(simd, gather.pivots(), channel, lanes);
        }
        let mut pixels = Pixels::<S> {
            size: [OUT.min(height - y), OUT.min(width - x)],
            at: ((image * height + y) * width + x) * channels + channel,
            first: first_pixel * channels,
            step: [width * channels, channels],
            lanes,
            shift,
            residual,
            activation,
            accumulate,
            pivot: gather.map(|_| pivot),
            sums: [zero; 2],
            out: &mut *self.out,
        };
        in_both::<S, Output, SIDE, OUT>(simd, &products, &mut pixels);
        if gather.is_some() {
            let sums = pixels.sums;
            for (i, sum) in sums.into_iter().enumerate() {
                let at = i * channels + channel;
                let sum = simd.add_f32s(load(simd, self.sums, at, lanes), sum);
                store(simd, self.sums, at, lanes, sum);
            }
        }
    }
}

/// A vector at each pixel of an output tile.
struct Pixels<'a, S: Simd> {
    /// Rows and columns that exist.
    size: [usize; 2],
    /// Where the first pixel lies in the whole map, where `out` begins in it, and from one row and column to the next.
    at: usize,
    first: usize,
    step: [usize; 2],
    lanes: usize,
    shift: S::f32s,
    residual: Option<&'a [f32]>,
    activation: Activation,
    accumulate: bool,
    /// Around what the sums are, if they are wanted.
    pivot: Option<S::f32s>,
    sums: [S::f32s; 2],
    out: &'a mut [f32],
}

impl<S: Simd> Sink<S, OUT> for Pixels<'_, S> {
    #[inline(always)]
    fn row(&mut self, simd: S, i: usize, values: [S::f32s; OUT]) {
        if i >= self.size[0] {
            return;
        }
        for j in 0..OUT {
            if j >= self.size[1] {
                return;
            }
            let at = self.at + i * self.step[0] + j * self.step[1];
            let mut value = simd.add_f32s(values[j], self.shift);
            if let Some(residual) = self.residual {
                value = simd.add_f32s(value, load(simd, residual, at, self.lanes));
            }
            let at = at - self.first;
            if self.accumulate {
                value = simd.add_f32s(value, load(simd, self.out, at, self.lanes));
            }
            let value = self.activation.value_vector(simd, value);
            if let Some(pivot) = self.pivot {
                let around = simd.sub_f32s(value, pivot);
                self.sums[0] = simd.add_f32s(self.sums[0], around);
                self.sums[1] = simd.mul_add_e_f32s(around, around, self.sums[1]);
            }
            store(simd, self.out, at, self.lanes, value);
        }
    }
}

/// Strips in a block: some 28 tiles, whose transformed input should stay in the second-level cache; more where the weight
/// is large, as each block reads all of it.
fn strips_per_block(tiling: &Tiling) -> usize {
    let is_large = tiling.shape.in_channels * tiling.shape.out_channels >= 256 * 256;
    let tiles = if is_large { 48 } else { 28 };
    (tiles / tiling.tiles_per_strip).max(1)
}

/// Few tiles and a large weight: the weight is dealt out to the threads instead of the tiles.
fn is_weight_bound(tiling: &Tiling) -> bool {
    tiling.tiles() <= 128 && tiling.shape.in_channels * tiling.shape.out_channels >= 128 * 128
}

/// Whether [`forward`] takes the weight as it is and transforms each panel where it is used.
pub(in crate::conv) fn packs_by_panel(shape: &Shape) -> bool {
    is_weight_bound(&Tiling::new(shape))
}

/// Convolves with a weight from [`transform_filter`](super::transform_filter), or as it is, to be `turned` around or not;
/// with `accumulate` the result is added to `output`.
#[allow(clippy::too_many_arguments)] // a weight in its form, and the slices
pub(in crate::conv) fn forward(
    level: Level,
    shape: &Shape,
    input: &[f32],
    filter: Form,
    turned: bool,
    epilogue: Epilogue,
    accumulate: bool,
    output: &mut [f32],
) {
    let tiling = Tiling::new(shape);
    let panels = Panels::new(level, POINTS * shape.in_channels, shape.out_channels);
    let job = Job { level, tiling: &tiling, panels, epilogue, accumulate };
    if is_weight_bound(&tiling) {
        return forward_by_panels(job, input, filter, turned, output);
    }
    let filter = filter.packed();
    let blocks = tiling.blocks(strips_per_block(&tiling), output);
    blocks.into_par_iter().for_each(|(first_tile, out)| {
        let first_pixel = tiling.first_pixel(first_tile / tiling.tiles_per_strip);
        let strips = strips_per_block(&tiling).min(tiling.strips() - first_tile / tiling.tiles_per_strip);
        let count = strips * tiling.tiles_per_strip;
        let transformed_len = POINTS * plane(count, tile_stride(shape.in_channels));
        with_scratch(transformed_len + POINTS * plane(count, panels.stride), |scratch| {
            let (transformed, products) = scratch.split_at_mut(transformed_len);
            let strip = first_tile / tiling.tiles_per_strip + strips;
            let next = Prefetch::read(tiling.input_lines(strip..strip + strips, input));
            let residual = epilogue.residual.map_or(&[][..], |r| &r[first_pixel * shape.out_channels..][..out.len()]);
            let count_panels = panels.count(shape.out_channels);
            let mut sums = job.epilogue.sums(shape.out_channels);
            TransformInput { tiling: &tiling, input, first_tile, count, out: transformed }.run(level);
            for (panel, filter) in filter.chunks_exact(panels.step).enumerate() {
                let columns = panel * panels.width..shape.out_channels.min((panel + 1) * panels.width);
                let residual = Prefetch::read_columns(residual, shape.out_channels, columns.clone());
                let target = Prefetch::write_columns(out, shape.out_channels, columns);
                for point in 0..POINTS {
                    next.step(panel * POINTS + point, count_panels * POINTS);
                    residual.step(point, POINTS);
                    target.step(point, POINTS);
                    multiply(level, shape.in_channels, panels, count, point, transformed, filter, products);
                }
                job.transform_back(panel, first_tile, count, products, &mut sums, out);
            }
            job.epilogue.gathered(first_tile, sums);
        });
    });
}

/// [`forward`] in three phases, each parallel by itself: all tiles, all panels of the weight, all tiles.
fn forward_by_panels(job: Job, input: &[f32], filter: Form, turned: bool, output: &mut [f32]) {
    let Job { level, tiling, panels, .. } = job;
    let shape = &tiling.shape;
    let group = strips_per_block(tiling) * tiling.tiles_per_strip;
    let groups: Vec<(usize, usize)> =
        (0..tiling.tiles()).step_by(group).map(|first| (first, group.min(tiling.tiles() - first))).collect();
    let transformed_len = POINTS * plane(group, tile_stride(shape.in_channels));
    let products_len = POINTS * plane(group, panels.stride);
    let count_panels = panels.count(shape.out_channels);
    let total = groups.len() * transformed_len;
    let filters_len = if let Form::AsIs(_) = filter { ThreadScratch::count() * panels.step } else { 0 };
    with_scratch(filters_len + total + count_panels * groups.len() * products_len, |scratch| {
        let (filters, scratch) = scratch.split_at_mut(filters_len);
        let filters = ThreadScratch::new(filters, panels.step);
        let (transformed, products) = scratch.split_at_mut(total);
        transformed.par_chunks_mut(transformed_len).zip(&groups).for_each(|(out, &(first_tile, count))| {
            TransformInput { tiling, input, first_tile, count, out }.run(level);
        });
        let transformed = &*transformed;
        products.par_chunks_mut(groups.len() * products_len).enumerate().for_each(|(panel, products)| {
            let mut multiply_all = |filter: &[f32]| {
                // Point by point, so that a point's part of the weight stays in cache for all groups.
                let ahead = Prefetch::read(filter);
                for point in 0..POINTS {
                    // The weight comes from far: the next point's while this one's is multiplied.
                    ahead.step(point + 1, POINTS);
                    let groups = transformed.chunks(transformed_len).zip(&groups);
                    for (out, (tiles, &(_, count))) in products.chunks_mut(products_len).zip(groups) {
                        multiply(level, shape.in_channels, panels, count, point, tiles, filter, out);
                    }
                }
            };
            match filter {
                Form::Packed(filter) => multiply_all(&filter[panel * panels.step..][..panels.step]),
                Form::AsIs(weight) => filters.with(|out| {
                    TransformFilter { shape, weight, turned, panels, panel, out }.run(level);
                    multiply_all(out);
                }),
            }
        });
        let products = &*products;
        let blocks = tiling.blocks(strips_per_block(tiling), output);
        blocks.into_par_iter().zip(&groups).enumerate().for_each(|(index, ((first_tile, out), &(_, count)))| {
            let mut sums = job.epilogue.sums(shape.out_channels);
            for panel in 0..count_panels {
                let products = &products[(panel * groups.len() + index) * products_len..][..products_len];
                job.transform_back(panel, first_tile, count, products, &mut sums, out);
            }
            job.epilogue.gathered(first_tile, sums);
        });
    });
}

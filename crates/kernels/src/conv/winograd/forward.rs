//! Winograd forward pass; with the filter flipped, the input gradient.

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
use crate::vector::{MAX_LANES, for_each_vector, load, store, vectors};
use crate::{Activation, Precision};

/// Elements of one point's plane for `count` tiles of `columns` elements: an odd number of cache lines, so that the 36
/// planes of a tile do not share cache sets.
fn plane(count: usize, columns: usize) -> usize {
    (count * columns).div_ceil(16) / 2 * 32 + 16
}

/// Transforms the input of some tiles to `[36, count, stride]`, with planes `plane(count, stride)` apart.
struct TransformInput<'a> {
    tiling: &'a Tiling,
    input: &'a [f32],
    first_tile: usize,
    count: usize,
    out: &'a mut [f32],
}

/// Distance between the transformed channels of two tiles: whole vectors at any level.
fn tile_stride(channels: usize) -> usize {
    channels.next_multiple_of(16)
}

impl TransformInput<'_> {
    /// A plain function around [`Level::run`], which is always inlined, so that the kernel is compiled once for all callers.
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

/// Multiplies `count` transformed tiles with one panel of the transformed weight at one point of `[36, count, stride]`.
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

/// Settings of one convolution.
#[derive(Clone, Copy)]
struct ForwardPass<'a> {
    level: Level,
    tiling: &'a Tiling,
    panels: Panels,
    epilogue: Epilogue<'a>,
    accumulate: bool,
}

impl ForwardPass<'_> {
    /// Transforms the products of `count` tiles with one panel back, applies the epilogue and writes them to `out`, the
    /// lines of these tiles. Adds statistics to `sums` if the epilogue gathers them.
    fn transform_back(
        &self,
        panel: usize,
        first_tile: usize,
        count: usize,
        products: &[f32],
        sums: &mut [f32],
        out: &mut [f32],
    ) {
        self.level.run(TransformOutput { pass: self, panel, first_tile, count, products, sums, out });
    }
}

/// Transforms the products of some tiles with one panel back to output pixels.
struct TransformOutput<'a> {
    pass: &'a ForwardPass<'a>,
    panel: usize,
    first_tile: usize,
    count: usize,
    products: &'a [f32],
    /// Sums of the distances from the pivots and of their squares, `[2, channels]`; empty if they are not gathered.
    sums: &'a mut [f32],
    /// The output, from the first tile's line on.
    out: &'a mut [f32],
}

impl WithSimd for TransformOutput<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let ForwardPass { tiling, panels, .. } = *self.pass;
        let channels = panels.width.min(tiling.shape.out_channels - self.panel * panels.width);
        for tile in 0..self.count {
            for_each_vector!(S, channels, |column, lanes| self.vector(simd, tile, column, lanes));
        }
    }
}

impl TransformOutput<'_> {
    /// Computes one vector of a tile, from column `column` of the panel on.
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, tile: usize, column: usize, lanes: usize) {
        let ForwardPass { tiling, panels, epilogue, accumulate, .. } = *self.pass;
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

/// Writes one vector at each pixel of an output tile.
struct Pixels<'a, S: Simd> {
    /// Rows and columns of the tile inside the map.
    size: [usize; 2],
    /// Element of the first pixel in the whole map.
    at: usize,
    /// Element of the whole map at which `out` begins.
    first: usize,
    /// Elements between rows, and between columns.
    step: [usize; 2],
    lanes: usize,
    shift: S::f32s,
    residual: Option<&'a [f32]>,
    activation: Activation,
    accumulate: bool,
    /// Pivot of the statistics, if they are gathered.
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

/// Strips per block: about 28 tiles, whose transformed input should stay in the second-level cache. A large weight gets
/// larger blocks, because each block reads all of it.
fn strips_per_block(tiling: &Tiling) -> usize {
    let is_large = tiling.shape.in_channels * tiling.shape.out_channels >= 256 * 256;
    let tiles = if is_large { 48 } else { 28 };
    (tiles / tiling.tiles_per_strip).max(1)
}

/// Whether the threads share the weight instead of the tiles, for few tiles and a large weight.
fn is_weight_bound(tiling: &Tiling) -> bool {
    tiling.tiles() <= 128 && tiling.shape.in_channels * tiling.shape.out_channels >= 128 * 128
}

/// Whether [`forward`] takes the raw weight and transforms each panel when it is used.
pub(in crate::conv) fn takes_raw_weight(shape: &Shape) -> bool {
    is_weight_bound(&Tiling::new(shape))
}

/// The Winograd [`forward`](crate::conv::forward), with a weight from [`transform_filter`](super::transform_filter) or a raw
/// one.
///
/// A raw weight is flipped if `flipped`. With `accumulate`, the result is added to `output`.
#[allow(clippy::too_many_arguments)] // level, weight and the slices
pub(in crate::conv) fn forward(
    level: Level,
    shape: &Shape,
    input: &[f32],
    filter: Form,
    flipped: bool,
    epilogue: Epilogue,
    accumulate: bool,
    output: &mut [f32],
) {
    let tiling = Tiling::new(shape);
    let panels = Panels::new(level, POINTS * shape.in_channels, shape.out_channels);
    let pass = ForwardPass { level, tiling: &tiling, panels, epilogue, accumulate };
    if is_weight_bound(&tiling) {
        return forward_by_panels(pass, input, filter, flipped, output);
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
            let mut sums = pass.epilogue.sums(shape.out_channels);
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
                pass.transform_back(panel, first_tile, count, products, &mut sums, out);
            }
            pass.epilogue.gathered(first_tile, sums);
        });
    });
}

/// [`forward`] in three parallel phases: transform all tiles, multiply with all panels, transform all tiles back.
fn forward_by_panels(pass: ForwardPass, input: &[f32], filter: Form, flipped: bool, output: &mut [f32]) {
    let ForwardPass { level, tiling, panels, .. } = pass;
    let shape = &tiling.shape;
    let group = strips_per_block(tiling) * tiling.tiles_per_strip;
    let groups: Vec<(usize, usize)> =
        (0..tiling.tiles()).step_by(group).map(|first| (first, group.min(tiling.tiles() - first))).collect();
    let transformed_len = POINTS * plane(group, tile_stride(shape.in_channels));
    let products_len = POINTS * plane(group, panels.stride);
    let count_panels = panels.count(shape.out_channels);
    let total = groups.len() * transformed_len;
    let filters_len = if let Form::Raw(_) = filter { ThreadScratch::count() * panels.step } else { 0 };
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
                // Point by point, so that one point's part of the weight stays in cache for all groups.
                let ahead = Prefetch::read(filter);
                for point in 0..POINTS {
                    // The weight comes from memory, so the next point's part is prefetched during this product.
                    ahead.step(point + 1, POINTS);
                    let groups = transformed.chunks(transformed_len).zip(&groups);
                    for (out, (tiles, &(_, count))) in products.chunks_mut(products_len).zip(groups) {
                        multiply(level, shape.in_channels, panels, count, point, tiles, filter, out);
                    }
                }
            };
            match filter {
                Form::Packed(filter) => multiply_all(&filter[panel * panels.step..][..panels.step]),
                Form::Raw(weight) => filters.with(|out| {
                    TransformFilter { shape, weight, flipped, panels, panel, out }.run(level);
                    multiply_all(out);
                }),
            }
        });
        let products = &*products;
        let blocks = tiling.blocks(strips_per_block(tiling), output);
        blocks.into_par_iter().zip(&groups).enumerate().for_each(|(index, ((first_tile, out), &(_, count)))| {
            let mut sums = pass.epilogue.sums(shape.out_channels);
            for panel in 0..count_panels {
                let products = &products[(panel * groups.len() + index) * products_len..][..products_len];
                pass.transform_back(panel, first_tile, count, products, &mut sums, out);
            }
            pass.epilogue.gathered(first_tile, sums);
        });
    });
}

//! 3x3 convolution with stride 1 by Winograd's F(4x4, 3x3): 36 products give 16 pixels, where the direct
//! way takes 144 (Lavin and Gray 2016; [`transforms`] has the matrices).
//!
//! The output is cut into tiles of 4x4 pixels. A block of tiles is transformed (6x6 inputs to 36 points),
//! at each point the block's channels are multiplied with the transformed weight (36 matrix products, which
//! is where the time goes), and the result is transformed back, with the epilogue, while it is in cache.
//! The input's gradient is the same computation with the filter turned around; the weight's gradient is in
//! [`weight_gradient`].

mod transforms;
mod weight_gradient;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

pub(super) use weight_gradient::backward_weight;

use super::{Epilogue, Shape};
use crate::Activation;
use crate::rows::with_scratch;
use crate::simd::Level;
use crate::tile::{Panels, Product};
use crate::vector::{load, store, vectors};
use transforms::{Filter, Input, OUT, Output, POINTS, SIDE, Sink, Source, TAPS, Transform, in_both};

/// Whether a convolution can take this road.
pub(super) fn fits(shape: &Shape) -> bool {
    shape.kernel == [TAPS, TAPS]
        && shape.stride == [1, 1]
        && shape.dilation == [1, 1]
        && shape.groups == 1
        && shape.padding.iter().all(|&padding| padding < TAPS)
        && shape.output.iter().all(|&size| size > 0)
}

/// The forward convolution whose result is the gradient of the input, with the filter turned around.
pub(super) fn gradient_shape(shape: &Shape) -> Shape {
    Shape {
        input: shape.output,
        output: shape.input,
        in_channels: shape.out_channels,
        out_channels: shape.in_channels,
        padding: shape.padding.map(|padding| TAPS - 1 - padding),
        ..*shape
    }
}

/// How the map is cut: strips of up to 4 rows, each a row of tiles.
#[derive(Clone, Copy)]
struct Tiling {
    shape: Shape,
    strips_per_image: usize,
    tiles_per_strip: usize,
}

impl Tiling {
    fn new(shape: &Shape) -> Self {
        let [height, width] = shape.output;
        Self { shape: *shape, strips_per_image: height.div_ceil(OUT), tiles_per_strip: width.div_ceil(OUT) }
    }

    fn strips(&self) -> usize {
        self.shape.n * self.strips_per_image
    }

    fn tiles(&self) -> usize {
        self.strips() * self.tiles_per_strip
    }

    /// The image and the first output pixel of a tile.
    fn position(&self, tile: usize) -> (usize, [usize; 2]) {
        let (strip, column) = (tile / self.tiles_per_strip, tile % self.tiles_per_strip);
        (strip / self.strips_per_image, [strip % self.strips_per_image * OUT, column * OUT])
    }

    /// The pixel of the whole batch with which a strip begins.
    fn first_pixel(&self, strip: usize) -> usize {
        let [height, width] = self.shape.output;
        (strip / self.strips_per_image * height + strip % self.strips_per_image * OUT) * width
    }

    /// Cuts a map of the output's shape into blocks of `strips` strips: the first tile of each, and its pixels.
    fn blocks<'a>(&self, strips: usize, mut output: &'a mut [f32]) -> Vec<(usize, &'a mut [f32])> {
        let channels = self.shape.out_channels;
        let mut blocks = Vec::new();
        for first in (0..self.strips()).step_by(strips) {
            let end = (first + strips).min(self.strips());
            let (block, rest) = output.split_at_mut((self.first_pixel(end) - self.first_pixel(first)) * channels);
            blocks.push((first * self.tiles_per_strip, block));
            output = rest;
        }
        blocks
    }
}

/// Elements of a point's plane of `count` tiles, `columns` elements each: a whole number of cache lines, odd, so that
/// the 36 planes of a tile don't fall into the same cache sets.
fn plane(count: usize, columns: usize) -> usize {
    (count * columns).div_ceil(16) / 2 * 32 + 16
}

/// A square of `N` by `N` pixels of a map, which may reach over its edges, where it is zero.
struct Square<'a, const N: usize, const WHOLE: bool> {
    map: &'a [f32],
    size: [usize; 2],
    channels: usize,
    image: usize,
    /// The first line and column: may be negative.
    start: [isize; 2],
    /// The first channel of the vector, and how many of it exist: all with `WHOLE`.
    channel: usize,
    lanes: usize,
}

impl<const N: usize, const WHOLE: bool> Square<'_, N, WHOLE> {
    fn is_inside(&self) -> bool {
        let inside = |axis: usize| self.start[axis] >= 0 && self.start[axis] as usize + N <= self.size[axis];
        inside(0) && inside(1)
    }

    #[inline(always)]
    fn at(&self, y: isize, x: isize) -> usize {
        ((self.image * self.size[0] + y as usize) * self.size[1] + x as usize) * self.channels + self.channel
    }
}

impl<S: Simd, const N: usize, const WHOLE: bool> Source<S, N> for Square<'_, N, WHOLE> {
    #[inline(always)]
    fn column(&self, simd: S, j: usize) -> [S::f32s; N] {
        let mut values = [simd.splat_f32s(0.0); N];
        let ([y, x], lanes) = (self.start, if WHOLE { S::F32_LANES } else { self.lanes });
        let x = x + j as isize;
        if self.is_inside() {
            let line = self.size[1] * self.channels;
            let column = &self.map[self.at(y, x)..][..(N - 1) * line + lanes];
            for i in 0..N {
                values[i] = load(simd, column, i * line, lanes);
            }
        } else if x >= 0 && (x as usize) < self.size[1] {
            for i in 0..N {
                let y = y + i as isize;
                if y >= 0 && (y as usize) < self.size[0] {
                    values[i] = load(simd, self.map, self.at(y, x), lanes);
                }
            }
        }
        values
    }
}

/// A vector at each of the 36 points, planes apart.
struct Points<T> {
    data: T,
    plane: usize,
    at: usize,
}

impl<S: Simd> Source<S, SIDE> for Points<&[f32]> {
    #[inline(always)]
    fn column(&self, simd: S, j: usize) -> [S::f32s; SIDE] {
        let mut values = [simd.splat_f32s(0.0); SIDE];
        for i in 0..SIDE {
            values[i] = load(simd, self.data, (i * SIDE + j) * self.plane + self.at, S::F32_LANES);
        }
        values
    }
}

impl<S: Simd> Sink<S, SIDE> for Points<&mut [f32]> {
    #[inline(always)]
    fn row(&mut self, simd: S, i: usize, values: [S::f32s; SIDE]) {
        for j in 0..SIDE {
            store(simd, self.data, (i * SIDE + j) * self.plane + self.at, S::F32_LANES, values[j]);
        }
    }
}

/// A vector of filters, their taps `step` apart.
struct Taps<'a> {
    weight: &'a [f32],
    step: usize,
    at: usize,
    lanes: usize,
}

impl<S: Simd> Source<S, TAPS> for Taps<'_> {
    #[inline(always)]
    fn column(&self, simd: S, j: usize) -> [S::f32s; TAPS] {
        let mut values = [simd.splat_f32s(0.0); TAPS];
        for i in 0..TAPS {
            values[i] = load(simd, self.weight, (i * TAPS + j) * self.step + self.at, self.lanes);
        }
        values
    }
}

/// The transformed weight of one panel of output channels: `[36, in, stride]`.
struct TransformFilter<'a> {
    /// The convolution that is computed, with the filter already turned around if it is.
    shape: &'a Shape,
    weight: &'a [f32],
    turned: bool,
    panels: Panels,
    panel: usize,
    out: &'a mut [f32],
}

impl WithSimd for TransformFilter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { shape, weight, panels, .. } = self;
        let (inputs, outputs) = (shape.in_channels, shape.out_channels);
        let first = self.panel * panels.width;
        let columns = panels.width.min(outputs - first);
        let plane = inputs * panels.stride;
        if !self.turned {
            for input in 0..inputs {
                for (column, lanes) in vectors::<S>(columns) {
                    let (step, at) = (inputs * outputs, input * outputs + first + column);
                    let taps = Taps { weight, step, at, lanes };
                    let at = input * panels.stride + column;
                    in_both::<S, Filter, TAPS, SIDE>(simd, &taps, &mut Points { data: &mut *self.out, plane, at });
                }
            }
            return;
        }
        // The weight is `[taps, outputs, inputs]` for this convolution: a block is transposed on the way. Lanes beyond
        // the last column keep what an earlier block left; nothing reads what they give.
        const BLOCK: usize = 16;
        let mut block = vec![0.0; TAPS * TAPS * BLOCK * S::F32_LANES];
        for start in (0..inputs).step_by(BLOCK) {
            let count = BLOCK.min(inputs - start);
            for (column, lanes) in vectors::<S>(columns) {
                for tap in 0..TAPS * TAPS {
                    let block = &mut block[(TAPS * TAPS - 1 - tap) * BLOCK * S::F32_LANES..][..BLOCK * S::F32_LANES];
                    for lane in 0..lanes {
                        let from = (tap * outputs + first + column + lane) * inputs + start;
                        for (i, &w) in weight[from..from + count].iter().enumerate() {
                            block[i * S::F32_LANES + lane] = w;
                        }
                    }
                }
                for i in 0..count {
                    let (step, at) = (BLOCK * S::F32_LANES, i * S::F32_LANES);
                    let taps = Taps { weight: &block, step, at, lanes: S::F32_LANES };
                    let at = (start + i) * panels.stride + column;
                    in_both::<S, Filter, TAPS, SIDE>(simd, &taps, &mut Points { data: &mut *self.out, plane, at });
                }
            }
        }
    }
}

/// Elements of the transformed weight of a forward convolution of this shape.
pub(super) fn filter_len(level: Level, shape: &Shape) -> usize {
    let panels = Panels::new(level, POINTS * shape.in_channels, shape.out_channels);
    panels.count(shape.out_channels) * panels.step
}

/// Transforms the weight for a convolution of this shape: `[panels, 36, in, stride]`.
///
/// `weight` is `[3, 3, in, out]`, or, to be `turned` around, `[3, 3, out, in]`.
pub(super) fn transform_filter(level: Level, shape: &Shape, weight: &[f32], turned: bool, out: &mut [f32]) {
    let panels = Panels::new(level, POINTS * shape.in_channels, shape.out_channels);
    out.par_chunks_mut(panels.step).enumerate().for_each(|(panel, out)| {
        level.run(TransformFilter { shape, weight, turned, panels, panel, out });
    });
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

impl WithSimd for TransformInput<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Shape { input: size, in_channels: channels, padding, .. } = self.tiling.shape;
        let stride = tile_stride(channels);
        let plane = plane(self.count, stride);
        for tile in 0..self.count {
            let (image, [y, x]) = self.tiling.position(self.first_tile + tile);
            let start = [y as isize - padding[0] as isize, x as isize - padding[1] as isize];
            for (channel, lanes) in vectors::<S>(channels) {
                let points = Points { data: &mut *self.out, plane, at: tile * stride + channel };
                transform_square::<S, Input, SIDE>(
                    simd,
                    (self.input, size, channels),
                    image,
                    start,
                    channel,
                    lanes,
                    points,
                );
            }
        }
    }
}

/// Transforms a square of a map (given with its size and channels) to the points.
#[inline(always)]
fn transform_square<S: Simd, T: Transform<N, SIDE>, const N: usize>(
    simd: S,
    (map, size, channels): (&[f32], [usize; 2], usize),
    image: usize,
    start: [isize; 2],
    channel: usize,
    lanes: usize,
    mut points: Points<&mut [f32]>,
) {
    if lanes == S::F32_LANES {
        let square = Square::<N, true> { map, size, channels, image, start, channel, lanes };
        in_both::<S, T, N, SIDE>(simd, &square, &mut points);
    } else {
        let square = Square::<N, false> { map, size, channels, image, start, channel, lanes };
        in_both::<S, T, N, SIDE>(simd, &square, &mut points);
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
        a: [tiles_stride, 1],
        b: panels,
        c_stride: stride,
        accumulate: false,
    };
    let filter = &filter[point * channels * stride..][..channels * stride];
    let out = &mut out[point * plane(count, stride)..];
    product.run(level, &tiles[point * plane(count, tiles_stride)..], filter, out);
}

/// Transforms the products of some tiles and one panel back, finishes and writes them.
struct TransformOutput<'a> {
    tiling: &'a Tiling,
    panels: Panels,
    panel: usize,
    first_tile: usize,
    count: usize,
    products: &'a [f32],
    epilogue: Epilogue<'a>,
    accumulate: bool,
    /// The output from `first_pixel` on.
    out: &'a mut [f32],
    first_pixel: usize,
}

impl WithSimd for TransformOutput<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Shape { output: [height, width], out_channels: channels, .. } = self.tiling.shape;
        let first_channel = self.panel * self.panels.width;
        let stride = self.panels.stride;
        let plane = plane(self.count, stride);
        let Epilogue { bias, residual, activation } = self.epilogue;
        for tile in 0..self.count {
            let (image, [y, x]) = self.tiling.position(self.first_tile + tile);
            for (column, lanes) in vectors::<S>(self.panels.width.min(channels - first_channel)) {
                let products = Points { data: self.products, plane, at: tile * stride + column };
                let channel = first_channel + column;
                let mut shift = simd.splat_f32s(0.0);
                if let Some(bias) = bias {
                    shift = load(simd, bias, channel, lanes);
                }
                let mut pixels = Pixels::<S> {
                    size: [OUT.min(height - y), OUT.min(width - x)],
                    at: ((image * height + y) * width + x) * channels + channel,
                    first: self.first_pixel * channels,
                    step: [width * channels, channels],
                    lanes,
                    shift,
                    residual,
                    activation,
                    accumulate: self.accumulate,
                    out: &mut *self.out,
                };
                in_both::<S, Output, SIDE, OUT>(simd, &products, &mut pixels);
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
            store(simd, self.out, at, self.lanes, self.activation.of(simd, value));
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
    tiling.tiles() <= 256 && tiling.shape.in_channels * tiling.shape.out_channels >= 128 * 128
}

/// Convolves with a weight from [`transform_filter`]; with `accumulate` the result is added to `output`.
pub(super) fn forward(
    level: Level,
    shape: &Shape,
    input: &[f32],
    filter: &[f32],
    epilogue: Epilogue,
    accumulate: bool,
    output: &mut [f32],
) {
    let tiling = Tiling::new(shape);
    let panels = Panels::new(level, POINTS * shape.in_channels, shape.out_channels);
    if is_weight_bound(&tiling) {
        return forward_by_panels(level, &tiling, panels, input, filter, epilogue, accumulate, output);
    }
    let blocks = tiling.blocks(strips_per_block(&tiling), output);
    blocks.into_par_iter().for_each(|(first_tile, out)| {
        let first_pixel = tiling.first_pixel(first_tile / tiling.tiles_per_strip);
        let strips = strips_per_block(&tiling).min(tiling.strips() - first_tile / tiling.tiles_per_strip);
        let count = strips * tiling.tiles_per_strip;
        let transformed_len = POINTS * plane(count, tile_stride(shape.in_channels));
        with_scratch(transformed_len + POINTS * plane(count, panels.stride), |scratch| {
            let (transformed, products) = scratch.split_at_mut(transformed_len);
            level.run(TransformInput { tiling: &tiling, input, first_tile, count, out: transformed });
            for (panel, filter) in filter.chunks_exact(panels.step).enumerate() {
                for point in 0..POINTS {
                    multiply(level, shape.in_channels, panels, count, point, transformed, filter, products);
                }
                level.run(TransformOutput {
                    tiling: &tiling,
                    panels,
                    panel,
                    first_tile,
                    count,
                    products,
                    epilogue,
                    accumulate,
                    out,
                    first_pixel,
                });
            }
        });
    });
}

/// [`forward`] in three phases, each parallel by itself: all tiles, all panels of the weight, all tiles.
#[allow(clippy::too_many_arguments)] // a second body of one function
fn forward_by_panels(
    level: Level,
    tiling: &Tiling,
    panels: Panels,
    input: &[f32],
    filter: &[f32],
    epilogue: Epilogue,
    accumulate: bool,
    output: &mut [f32],
) {
    let shape = &tiling.shape;
    let group = strips_per_block(tiling) * tiling.tiles_per_strip;
    let groups: Vec<(usize, usize)> =
        (0..tiling.tiles()).step_by(group).map(|first| (first, group.min(tiling.tiles() - first))).collect();
    let transformed_len = POINTS * plane(group, tile_stride(shape.in_channels));
    let products_len = POINTS * plane(group, panels.stride);
    let count_panels = panels.count(shape.out_channels);
    let total = groups.len() * transformed_len;
    with_scratch(total + count_panels * groups.len() * products_len, |scratch| {
        let (transformed, products) = scratch.split_at_mut(total);
        transformed.par_chunks_mut(transformed_len).zip(&groups).for_each(|(out, &(first_tile, count))| {
            level.run(TransformInput { tiling, input, first_tile, count, out });
        });
        let transformed = &*transformed;
        products.par_chunks_mut(groups.len() * products_len).zip(filter.par_chunks(panels.step)).for_each(
            |(products, filter)| {
                // Point by point, so that a point's part of the weight stays in cache for all groups.
                for point in 0..POINTS {
                    let groups = transformed.chunks(transformed_len).zip(&groups);
                    for (out, (tiles, &(_, count))) in products.chunks_mut(products_len).zip(groups) {
                        multiply(level, shape.in_channels, panels, count, point, tiles, filter, out);
                    }
                }
            },
        );
        let products = &*products;
        let blocks = tiling.blocks(strips_per_block(tiling), output);
        blocks.into_par_iter().zip(&groups).enumerate().for_each(|(index, ((first_tile, out), &(_, count)))| {
            let first_pixel = tiling.first_pixel(first_tile / tiling.tiles_per_strip);
            for panel in 0..count_panels {
                let products = &products[(panel * groups.len() + index) * products_len..][..products_len];
                level.run(TransformOutput {
                    tiling,
                    panels,
                    panel,
                    first_tile,
                    count,
                    products,
                    epilogue,
                    accumulate,
                    out,
                    first_pixel,
                });
            }
        });
    });
}

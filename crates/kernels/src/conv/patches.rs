//! Convolution as a matrix product over gathered patches ("im2col"; Chellapilla et al. 2006).
//!
//! The patches of a block of output pixels are gathered into a panel that stays in cache, one row a
//! pixel, `[taps, in / groups]` columns; times the weight it gives that block of the output. The whole
//! patch matrix, nine times the input for a 3x3 filter, never exists.

use rayon::prelude::*;

use super::{Epilogue, Shape};
use crate::gemm::{Matrix, MatrixMut, gemm};
use crate::rows::with_scratch;
use crate::simd::dispatch;

/// Elements of a panel: half of a 1 MiB second-level cache.
const PANEL: usize = 128 * 1024;

/// Fewest pixels in a block: each block packs the weight anew, which must be paid for by enough rows.
const MIN_PIXELS: usize = 96;

/// Output pixels a block, for patches of `columns` elements.
fn pixels_per_block(columns: usize, pixels: usize) -> usize {
    // At least eight blocks where there is enough to do, so that small maps still use several cores.
    let wanted = (PANEL / columns).max(MIN_PIXELS).min(pixels.div_ceil(8).max(MIN_PIXELS / 2));
    wanted.clamp(1, pixels.max(1))
}

/// A 1x1 filter with stride 1 needs no gathering: the map itself is the patch matrix.
fn is_pointwise(shape: &Shape) -> bool {
    shape.kernel == [1, 1] && shape.stride == [1, 1] && shape.padding == [0, 0]
}

/// Splits the index of an output pixel into image, row and column.
fn pixel_position(shape: &Shape, pixel: usize) -> [usize; 3] {
    let [height, width] = shape.output;
    [pixel / (height * width), pixel / width % height, pixel % width]
}

/// Gathers columns `columns` (of `[taps, in / groups]`) of the patches of some output pixels, one row a pixel.
fn gather(
    shape: &Shape,
    input: &[f32],
    group: usize,
    first_pixel: usize,
    columns: std::ops::Range<usize>,
    panel: &mut [f32],
) {
    let channels = shape.in_per_group();
    let [in_h, in_w] = shape.input;
    for (i, row) in panel.chunks_exact_mut(columns.len()).enumerate() {
        let [image, oy, ox] = pixel_position(shape, first_pixel + i);
        let mut column = columns.start;
        while column < columns.end {
            let (tap, channel) = (column / channels, column % channels);
            let count = (channels - channel).min(columns.end - column);
            let out = &mut row[column - columns.start..][..count];
            let (ky, kx) = (tap / shape.kernel[1], tap % shape.kernel[1]);
            match (shape.source(0, oy, ky), shape.source(1, ox, kx)) {
                (Some(iy), Some(ix)) => {
                    let at = ((image * in_h + iy) * in_w + ix) * shape.in_channels + group * channels + channel;
                    out.copy_from_slice(&input[at..at + count]);
                }
                _ => out.fill(0.0),
            }
            column += count;
        }
    }
}

pub(super) fn forward(shape: &Shape, input: &[f32], weight: &[f32], epilogue: Epilogue, output: &mut [f32]) {
    let (in_group, out_group, out_channels) = (shape.in_per_group(), shape.out_per_group(), shape.out_channels);
    let columns = shape.taps() * in_group;
    let block = pixels_per_block(columns, shape.output_pixels());
    output.par_chunks_mut(block * out_channels).enumerate().for_each(|(i, output)| {
        let first = i * block;
        let pixels = output.len() / out_channels;
        for group in 0..shape.groups {
            let weight = Matrix::new(&weight[group * out_group..], columns, out_group, out_channels);
            let out = MatrixMut::new(&mut output[group * out_group..], pixels, out_group, out_channels);
            if is_pointwise(shape) {
                let rows = &input[first * shape.in_channels + group * in_group..];
                gemm(Matrix::new(rows, pixels, columns, shape.in_channels), weight, out, false);
            } else {
                with_scratch(pixels * columns, |panel| {
                    gather(shape, input, group, first, 0..columns, panel);
                    gemm(Matrix::new(panel, pixels, columns, columns), weight, out, false);
                });
            }
        }
        dispatch(|| epilogue.apply(first * out_channels, out_channels, output));
    });
}

pub(super) fn backward_input(
    shape: &Shape,
    grad_output: &[f32],
    weight: &[f32],
    accumulate: bool,
    grad_input: &mut [f32],
) {
    let (in_group, out_group, out_channels) = (shape.in_per_group(), shape.out_per_group(), shape.out_channels);
    let columns = shape.taps() * in_group;
    let transposed =
        |group: usize| Matrix::new(&weight[group * out_group..], columns, out_group, out_channels).transposed();
    if is_pointwise(shape) {
        let block = pixels_per_block(columns, shape.output_pixels());
        grad_input.par_chunks_mut(block * shape.in_channels).enumerate().for_each(|(i, grad_input)| {
            let pixels = grad_input.len() / shape.in_channels;
            for group in 0..shape.groups {
                let rows = &grad_output[i * block * out_channels + group * out_group..];
                let out = MatrixMut::new(&mut grad_input[group * in_group..], pixels, in_group, shape.in_channels);
                gemm(Matrix::new(rows, pixels, out_group, out_channels), transposed(group), out, accumulate);
            }
        });
        return;
    }
    // Patches of neighbouring pixels overlap, so one image is one piece of work: its sums keep their order.
    let image_pixels = shape.output[0] * shape.output[1];
    let block = (PANEL / columns).max(MIN_PIXELS).min(image_pixels);
    let image_len = shape.input[0] * shape.input[1] * shape.in_channels;
    grad_input.par_chunks_mut(image_len).enumerate().for_each(|(image, grad_input)| {
        if !accumulate {
            grad_input.fill(0.0);
        }
        for group in 0..shape.groups {
            for first in (0..image_pixels).step_by(block) {
                let pixels = block.min(image_pixels - first);
                let first = image * image_pixels + first;
                let rows = Matrix::new(
                    &grad_output[first * out_channels + group * out_group..],
                    pixels,
                    out_group,
                    out_channels,
                );
                with_scratch(pixels * columns, |panel| {
                    gemm(rows, transposed(group), MatrixMut::new(panel, pixels, columns, columns), false);
                    dispatch(|| scatter_add(shape, panel, group, first, grad_input));
                });
            }
        }
    });
}

/// Adds patches back to where [`gather`] takes them from, within one image.
#[inline(always)]
fn scatter_add(shape: &Shape, panel: &[f32], group: usize, first_pixel: usize, grad_image: &mut [f32]) {
    let channels = shape.in_per_group();
    for (i, row) in panel.chunks_exact(shape.taps() * channels).enumerate() {
        let [_, oy, ox] = pixel_position(shape, first_pixel + i);
        for (tap, patch) in row.chunks_exact(channels).enumerate() {
            let (ky, kx) = (tap / shape.kernel[1], tap % shape.kernel[1]);
            if let (Some(iy), Some(ix)) = (shape.source(0, oy, ky), shape.source(1, ox, kx)) {
                let at = (iy * shape.input[1] + ix) * shape.in_channels + group * channels;
                for (g, &p) in grad_image[at..at + channels].iter_mut().zip(patch) {
                    *g += p;
                }
            }
        }
    }
}

pub(super) fn backward_weight(shape: &Shape, input: &[f32], grad_output: &[f32], grad_weight: &mut [f32]) {
    let (in_group, out_group, out_channels) = (shape.in_per_group(), shape.out_per_group(), shape.out_channels);
    let columns = shape.taps() * in_group;
    let pixels = shape.output_pixels();
    // Rows of the weight are dealt out: each piece sums over the whole batch by itself, in order.
    let piece = (columns / 16).next_multiple_of(8).clamp(16, 128).min(columns);
    let block = (PANEL / piece).min(2048);
    grad_weight.par_chunks_mut(piece * out_channels).enumerate().for_each(|(i, grad_weight)| {
        let rows = i * piece..i * piece + grad_weight.len() / out_channels;
        for group in 0..shape.groups {
            for first in (0..pixels).step_by(block) {
                let count = block.min(pixels - first);
                let grads = &grad_output[first * out_channels + group * out_group..];
                let grads = Matrix::new(grads, count, out_group, out_channels);
                let out = MatrixMut::new(&mut grad_weight[group * out_group..], rows.len(), out_group, out_channels);
                if is_pointwise(shape) {
                    let maps = &input[first * shape.in_channels + group * in_group + rows.start..];
                    gemm(Matrix::new(maps, count, rows.len(), shape.in_channels).transposed(), grads, out, first > 0);
                } else {
                    with_scratch(count * rows.len(), |panel| {
                        gather(shape, input, group, first, rows.clone(), panel);
                        gemm(Matrix::new(panel, count, rows.len(), rows.len()).transposed(), grads, out, first > 0);
                    });
                }
            }
        }
    });
}

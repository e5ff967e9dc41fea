//! Convolution of a map with few channels, such as the RGB input of a network's first layer.
//!
//! A patch of a 7x7 filter over 3 channels is seven runs of 21 elements, too short to multiply run by run and too many to
//! copy pixel by pixel. The lines that an output line reads are therefore interleaved once, column by column, each column
//! with as many pixels as the filter is high. A patch is then one run, and the next pixel's patch begins `stride` columns
//! later.

use rayon::prelude::*;

use super::{Epilogue, Shape};
use crate::bf16::{pair_all_rows, pair_neighbours};
use crate::epilogue::TileEpilogue;
use crate::rows::{Threads, with_scratch};
use crate::simd::Level;
use crate::tile::{Panels, Product, RowOffsets, Rows};
use crate::{Memory, Precision};

/// Most channels for which interleaving pays.
const CHANNELS: usize = 8;

/// Fewest output lines per partial sum of the weight gradient.
const LINES: usize = 32;

/// Most partial sums of the weight gradient.
const PARTS: usize = 16;

/// Whether this kernel can compute the shape, and interleaving pays.
///
/// Interleaved lines include their padding, so the shape must be [compact](Shape::is_compact) to bound their memory.
pub(super) fn fits(shape: &Shape) -> bool {
    shape.in_channels <= CHANNELS && shape.groups == 1 && shape.kernel[1] > 1 && shape.is_compact()
}

/// Elements in a column of interleaved lines.
fn column_len(shape: &Shape) -> usize {
    shape.kernel[0] * shape.in_channels
}

/// Columns of interleaved lines, padding included.
fn columns(shape: &Shape) -> usize {
    shape.input[1] + 2 * shape.padding[1]
}

/// Elements in a patch.
fn patch_len(shape: &Shape) -> usize {
    shape.taps() * shape.in_channels
}

/// The row of the weight, `[kh, kw, in]`, that belongs to element `k` of a patch, `[kw, kh, in]`.
fn weight_row(shape: &Shape, k: usize) -> usize {
    let [height, width] = shape.kernel;
    let (channel, tap) = (k % shape.in_channels, k / shape.in_channels);
    (tap % height * width + tap / height) * shape.in_channels + channel
}

/// Interleaves the input lines that output line `row` of the batch reads.
fn interleave(shape: &Shape, input: &[f32], row: usize, out: &mut [f32]) {
    let (image, y) = (row / shape.output[0], row % shape.output[0]);
    let (channels, step) = (shape.in_channels, column_len(shape));
    let line_len = shape.input[1] * channels;
    let (left, middle) = out.split_at_mut(shape.padding[1] * step);
    let (middle, right) = middle.split_at_mut(shape.input[1] * step);
    left.fill(0.0);
    right.fill(0.0);
    for ky in 0..shape.kernel[0] {
        let place = &mut middle[ky * channels..];
        let pixels = place.chunks_mut(step);
        let Some(line) = shape.source(0, y, ky) else {
            pixels.for_each(|pixel| pixel[..channels].fill(0.0));
            continue;
        };
        let line = &input[(image * shape.input[0] + line) * line_len..][..line_len];
        if channels == 3 {
            // Arrays of known size compile to three moves instead of a call.
            for (to, from) in pixels.zip(line.as_chunks::<3>().0) {
                to[..3].copy_from_slice(from);
            }
        } else {
            pixels.zip(line.chunks_exact(channels)).for_each(|(to, from)| to[..channels].copy_from_slice(from));
        }
    }
}

/// Packs the weight for [`forward`]; returns its number of elements.
pub(super) fn pack(level: Level, precision: Precision, shape: &Shape, weight: &[f32], out: &mut Memory) -> usize {
    let n = shape.out_channels;
    let rows = (0..patch_len(shape)).flat_map(|row| &weight[weight_row(shape, row) * n..][..n]).copied();
    let mut rows: Vec<f32> = rows.collect();
    let k = precision.words(patch_len(shape));
    if precision == Precision::Bf16 {
        let mut pairs = vec![0.0; k * n];
        pair_all_rows(&rows, patch_len(shape), n, n, &mut pairs);
        rows = pairs;
    }
    let panels = Panels::new(level, k, n);
    let len = panels.count(n) * panels.step;
    out.reserve(len);
    panels.pack(n, rows.chunks_exact(n), &mut out[..len]);
    len
}

/// Whether there are bfloat16 products: each patch must begin at a pair.
pub(super) fn supports_pairs(shape: &Shape) -> bool {
    (shape.stride[1] * column_len(shape)).is_multiple_of(2)
}

/// [`forward`](super::forward) for few input channels, with a weight from [`pack`].
#[allow(clippy::too_many_arguments)] // threads, level, precision and the slices
pub(super) fn forward(
    threads: Threads,
    level: Level,
    precision: Precision,
    shape: &Shape,
    input: &[f32],
    filter: &[f32],
    epilogue: Epilogue,
    output: &mut [f32],
) {
    let n = shape.out_channels;
    let k = precision.words(patch_len(shape));
    let line_len = shape.output[1] * n;
    let paired = precision == Precision::Bf16;
    threads.for_each(output.par_chunks_mut(line_len).enumerate(), |(row, output)| {
        // One extra element to pair with the last element of the last patch; its weight is zero.
        let lines_len = (columns(shape) * column_len(shape) + 1).next_multiple_of(2);
        with_scratch(lines_len + lines_len / 2, |scratch| {
            let (lines, pairs) = scratch.split_at_mut(lines_len);
            lines[columns(shape) * column_len(shape)..].fill(0.0);
            interleave(shape, input, row, &mut lines[..columns(shape) * column_len(shape)]);
            if paired {
                pair_neighbours(lines, pairs);
            }
            let step = shape.stride[1] * column_len(shape);
            let product = Product {
                m: shape.output[1],
                n,
                k,
                a: Rows::Strided {
                    values: if paired { pairs } else { lines },
                    strides: [if paired { step / 2 } else { step }, 1],
                },
                b: filter,
                panels: Panels::new(level, k, n),
                row_offsets: RowOffsets::Strided(n),
                accumulate: false,
                epilogue: epilogue.tile(row * line_len, 0..n),
                precision,
            };
            let mut sums = epilogue.sums(n);
            product.run_and_sum(level, output, &mut sums);
            epilogue.gathered(row, sums);
        });
    });
}

/// [`backward_weight`](super::backward_weight) for few input channels.
pub(super) fn backward_weight(
    level: Level,
    precision: Precision,
    shape: &Shape,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
) {
    let (m, n) = (patch_len(shape), shape.out_channels);
    let line_len = shape.output[1] * n;
    let rows = shape.n * shape.output[0];
    let part = rows.div_ceil(PARTS).max(LINES);
    let parts: Vec<Vec<f32>> = grad_output
        .par_chunks(part * line_len)
        .enumerate()
        .map(|(i, grads)| {
            let mut sums = vec![0.0; m * n];
            let paired = precision == Precision::Bf16;
            let (width, step) = (shape.output[1], shape.stride[1] * column_len(shape));
            let k = precision.words(width);
            let panels = Panels::new(level, k, n);
            let lines_len = columns(shape) * column_len(shape);
            let pairs_len = if paired { k * (m + n) } else { 0 };
            with_scratch(lines_len + pairs_len + panels.count(n) * panels.step, |scratch| {
                let (lines, scratch) = scratch.split_at_mut(lines_len);
                let (pairs, packed) = scratch.split_at_mut(pairs_len);
                for (line, mut grads) in grads.chunks_exact(line_len).enumerate() {
                    interleave(shape, input, i * part + line, lines);
                    let (mut values, mut strides) = (&*lines, [1, step]);
                    if paired {
                        // The products sum over pixels, so pixels are paired.
                        let (patches, rows) = pairs.split_at_mut(k * m);
                        for (pair, patch) in patches.chunks_exact_mut(m).enumerate() {
                            let count = (width - 2 * pair).min(2);
                            pair_all_rows(&lines[2 * pair * step..], count, m, step, patch);
                        }
                        pair_all_rows(grads, width, n, n, rows);
                        (values, strides, grads) = (patches, [1, m], rows);
                    }
                    let (b, panels) = panels.of_rows(level, grads, n, packed);
                    let product = Product {
                        m,
                        n,
                        k,
                        a: Rows::Strided { values, strides },
                        b,
                        panels,
                        row_offsets: RowOffsets::Strided(n),
                        accumulate: line > 0,
                        epilogue: TileEpilogue::NONE,
                        precision,
                    };
                    product.run(level, &mut sums);
                }
            });
            sums
        })
        .collect();
    grad_weight.fill(0.0);
    for sums in &parts {
        for (k, sums) in sums.chunks_exact(n).enumerate() {
            let target = &mut grad_weight[weight_row(shape, k) * n..][..n];
            target.iter_mut().zip(sums).for_each(|(t, &s)| *t += s);
        }
    }
}

//! Depthwise convolution: every channel has one filter of its own, so there is nothing to multiply as
//! matrices. The channels of a pixel are contiguous and are worked on side by side.

use rayon::prelude::*;

use super::{Epilogue, Shape};
use crate::simd::dispatch;

/// Channels worked on at a time: their running sums stay in registers.
const LANES: usize = 16;

/// `output[c] = (accumulate ? output[c] : 0) + sum over terms of a[c] * b[c]`.
#[inline(always)]
fn sum_of_products(terms: &[(&[f32], &[f32])], accumulate: bool, output: &mut [f32]) {
    let channels = output.len();
    let mut at = 0;
    while at + LANES <= channels {
        let mut sums = [0.0; LANES];
        if accumulate {
            sums.copy_from_slice(&output[at..at + LANES]);
        }
        for (a, b) in terms {
            let (a, b) = (&a[at..at + LANES], &b[at..at + LANES]);
            for lane in 0..LANES {
                sums[lane] += a[lane] * b[lane];
            }
        }
        output[at..at + LANES].copy_from_slice(&sums);
        at += LANES;
    }
    for c in at..channels {
        let start = if accumulate { output[c] } else { 0.0 };
        output[c] = terms.iter().fold(start, |sum, (a, b)| sum + a[c] * b[c]);
    }
}

pub(super) fn forward(shape: &Shape, input: &[f32], weight: &[f32], epilogue: Epilogue, output: &mut [f32]) {
    let channels = shape.in_channels;
    let [in_h, in_w] = shape.input;
    let [out_h, out_w] = shape.output;
    output.par_chunks_mut(out_w * channels).enumerate().for_each(|(row, output)| {
        let (image, oy) = (row / out_h, row % out_h);
        dispatch(|| {
            let mut terms = Vec::with_capacity(shape.taps());
            for (ox, out) in output.chunks_exact_mut(channels).enumerate() {
                terms.clear();
                for tap in 0..shape.taps() {
                    let (ky, kx) = (tap / shape.kernel[1], tap % shape.kernel[1]);
                    if let (Some(iy), Some(ix)) = (shape.source(0, oy, ky), shape.source(1, ox, kx)) {
                        let at = ((image * in_h + iy) * in_w + ix) * channels;
                        terms.push((&input[at..at + channels], &weight[tap * channels..][..channels]));
                    }
                }
                sum_of_products(&terms, false, out);
            }
            epilogue.apply(row * out_w * channels, channels, output);
        });
    });
}

/// The output position that reads input position `at` through `tap` along dimension `axis`, if there is one.
#[inline(always)]
fn reader(shape: &Shape, axis: usize, at: usize, tap: usize) -> Option<usize> {
    let from = (at + shape.padding[axis]).checked_sub(tap * shape.dilation[axis])?;
    let out = from / shape.stride[axis];
    (from.is_multiple_of(shape.stride[axis]) && out < shape.output[axis]).then_some(out)
}

pub(super) fn backward_input(
    shape: &Shape,
    grad_output: &[f32],
    weight: &[f32],
    accumulate: bool,
    grad_input: &mut [f32],
) {
    let channels = shape.in_channels;
    let [in_h, in_w] = shape.input;
    let [out_h, out_w] = shape.output;
    grad_input.par_chunks_mut(in_w * channels).enumerate().for_each(|(row, grad_input)| {
        let (image, iy) = (row / in_h, row % in_h);
        dispatch(|| {
            let mut terms = Vec::with_capacity(shape.taps());
            for (ix, grad) in grad_input.chunks_exact_mut(channels).enumerate() {
                terms.clear();
                for tap in 0..shape.taps() {
                    let (ky, kx) = (tap / shape.kernel[1], tap % shape.kernel[1]);
                    if let (Some(oy), Some(ox)) = (reader(shape, 0, iy, ky), reader(shape, 1, ix, kx)) {
                        let at = ((image * out_h + oy) * out_w + ox) * channels;
                        terms.push((&grad_output[at..at + channels], &weight[tap * channels..][..channels]));
                    }
                }
                sum_of_products(&terms, accumulate, grad);
            }
        });
    });
}

/// Rows of the output that one partial sum of the weight's gradient covers.
const ROWS_PER_PIECE: usize = 8;

pub(super) fn backward_weight(shape: &Shape, input: &[f32], grad_output: &[f32], grad_weight: &mut [f32]) {
    let channels = shape.in_channels;
    let [in_h, in_w] = shape.input;
    let [out_h, out_w] = shape.output;
    let rows = shape.n * out_h;
    let partial: Vec<Vec<f32>> = (0..rows.div_ceil(ROWS_PER_PIECE))
        .into_par_iter()
        .map(|piece| {
            let mut sums = vec![0.0; grad_weight.len()];
            dispatch(|| {
                for row in piece * ROWS_PER_PIECE..rows.min((piece + 1) * ROWS_PER_PIECE) {
                    let (image, oy) = (row / out_h, row % out_h);
                    for (tap, sums) in sums.chunks_exact_mut(channels).enumerate() {
                        let (ky, kx) = (tap / shape.kernel[1], tap % shape.kernel[1]);
                        let Some(iy) = shape.source(0, oy, ky) else { continue };
                        for ox in 0..out_w {
                            let Some(ix) = shape.source(1, ox, kx) else { continue };
                            let x = &input[((image * in_h + iy) * in_w + ix) * channels..][..channels];
                            let grad = &grad_output[(row * out_w + ox) * channels..][..channels];
                            for ((s, &x), &g) in sums.iter_mut().zip(x).zip(grad) {
                                *s += x * g;
                            }
                        }
                    }
                }
            });
            sums
        })
        .collect();
    grad_weight.fill(0.0);
    for sums in &partial {
        for (g, &s) in grad_weight.iter_mut().zip(sums) {
            *g += s;
        }
    }
}

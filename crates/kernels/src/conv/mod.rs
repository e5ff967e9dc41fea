//! 2-d convolution: `torch.nn.functional.conv2d` on NHWC maps, forward and both gradients.
//!
//! [`forward`], [`backward_input`] and [`backward_weight`] pick the road for the shape: depthwise
//! convolutions have kernels of their own, everything else is a matrix product over gathered
//! patches. Faster roads for particular shapes join here; the gathered product stays as the one that
//! takes every shape on every CPU.

mod depthwise;
mod patches;
pub mod reference;

use rayon::prelude::*;

use crate::Activation;
use crate::rows::{reduce_rows, rows_per_piece};
use crate::simd::dispatch;

/// Shape of a convolution of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Images in the batch.
    pub n: usize,
    /// Height and width of the input, in pixels.
    pub input: [usize; 2],
    /// Height and width of the output, in pixels.
    pub output: [usize; 2],
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Height and width of the filter.
    pub kernel: [usize; 2],
    /// Step, vertical and horizontal.
    pub stride: [usize; 2],
    /// Zeros on each side, vertical and horizontal.
    pub padding: [usize; 2],
    /// Distance between taps, vertical and horizontal.
    pub dilation: [usize; 2],
    /// Groups of channels.
    pub groups: usize,
}

impl Shape {
    /// Filter positions.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Elements of the input.
    pub fn input_len(&self) -> usize {
        self.n * self.input[0] * self.input[1] * self.in_channels
    }

    /// Output pixels of the whole batch.
    pub fn output_pixels(&self) -> usize {
        self.n * self.output[0] * self.output[1]
    }

    /// Elements of the output.
    pub fn output_len(&self) -> usize {
        self.output_pixels() * self.out_channels
    }

    /// Elements of the weight.
    pub fn weight_len(&self) -> usize {
        self.taps() * self.in_per_group() * self.out_channels
    }

    fn in_per_group(&self) -> usize {
        self.in_channels / self.groups
    }

    fn out_per_group(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Each channel has one filter of its own.
    fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.in_channels && self.groups == self.out_channels
    }

    /// The input pixel that `tap` reads for output position `out` along dimension `axis`, if it is not padding.
    #[inline(always)]
    fn source(&self, axis: usize, out: usize, tap: usize) -> Option<usize> {
        (out * self.stride[axis] + tap * self.dilation[axis])
            .checked_sub(self.padding[axis])
            .filter(|&at| at < self.input[axis])
    }
}

/// What is done to the output of a convolution while it is still in cache: `activation(y + bias + residual)`.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// Added to each output channel.
    pub bias: Option<&'a [f32]>,
    /// Added element by element; as long as the output.
    pub residual: Option<&'a [f32]>,
    /// Applied last.
    pub activation: Activation,
}

impl Epilogue<'_> {
    /// Nothing more is done.
    pub const NONE: Epilogue<'static> = Epilogue { bias: None, residual: None, activation: Activation::Identity };

    /// Applies it to rows of the output that start at element `start`.
    #[inline(always)]
    pub(crate) fn apply(&self, start: usize, channels: usize, output: &mut [f32]) {
        if let Some(bias) = self.bias {
            for row in output.chunks_exact_mut(channels) {
                for (y, &b) in row.iter_mut().zip(bias) {
                    *y += b;
                }
            }
        }
        if let Some(residual) = self.residual {
            for (y, &r) in output.iter_mut().zip(&residual[start..]) {
                *y += r;
            }
        }
        self.activation.apply(output);
    }
}

/// Convolves `input` with `weight` and applies the `epilogue`.
///
/// # Shapes
/// - `input`: `[n, h, w, in_channels]`
/// - `weight`: `[kh, kw, in_channels / groups, out_channels]`
/// - `output`: `[n, h_out, w_out, out_channels]`
///
/// # Panics
/// If a slice has another length than the shape says.
pub fn forward(shape: &Shape, input: &[f32], weight: &[f32], epilogue: Epilogue, output: &mut [f32]) {
    check(shape, input, weight, output);
    if shape.is_depthwise() {
        depthwise::forward(shape, input, weight, epilogue, output);
    } else {
        patches::forward(shape, input, weight, epilogue, output);
    }
}

/// The gradient of the input, written to `grad_input` or, with `accumulate`, added to it.
///
/// # Panics
/// If a slice has another length than the shape says.
pub fn backward_input(shape: &Shape, grad_output: &[f32], weight: &[f32], accumulate: bool, grad_input: &mut [f32]) {
    check(shape, grad_input, weight, grad_output);
    if shape.is_depthwise() {
        depthwise::backward_input(shape, grad_output, weight, accumulate, grad_input);
    } else {
        patches::backward_input(shape, grad_output, weight, accumulate, grad_input);
    }
}

/// The gradient of the weight, summed over the batch.
///
/// # Panics
/// If a slice has another length than the shape says.
pub fn backward_weight(shape: &Shape, input: &[f32], grad_output: &[f32], grad_weight: &mut [f32]) {
    check(shape, input, grad_weight, grad_output);
    if shape.is_depthwise() {
        depthwise::backward_weight(shape, input, grad_output, grad_weight);
    } else {
        patches::backward_weight(shape, input, grad_output, grad_weight);
    }
}

/// The gradient of the bias: the sum of each output channel's gradients.
pub fn backward_bias(grad_output: &[f32], grad_bias: &mut [f32]) {
    let channels = grad_bias.len();
    let sums = reduce_rows(grad_output.len() / channels, channels, channels, |first, count, sums| {
        dispatch(|| {
            for row in grad_output[first * channels..][..count * channels].chunks_exact(channels) {
                for (s, &g) in sums.iter_mut().zip(row) {
                    *s += g;
                }
            }
        });
    });
    for (g, s) in grad_bias.iter_mut().zip(sums) {
        *g = s as f32;
    }
}

fn check(shape: &Shape, input: &[f32], weight: &[f32], output: &[f32]) {
    assert_eq!(input.len(), shape.input_len(), "input of {shape:?}");
    assert_eq!(weight.len(), shape.weight_len(), "weight of {shape:?}");
    assert_eq!(output.len(), shape.output_len(), "output of {shape:?}");
}

/// From PyTorch's weight layout `[out, in / groups, kh, kw]` to the kernels' `[kh, kw, in / groups, out]`.
pub fn pack_weight(out_channels: usize, in_per_group: usize, taps: usize, weight: &[f32]) -> Vec<f32> {
    permute_outer_inner(weight, out_channels, in_per_group, taps)
}

/// From the kernels' weight layout back to PyTorch's.
pub fn unpack_weight(out_channels: usize, in_per_group: usize, taps: usize, weight: &[f32]) -> Vec<f32> {
    permute_outer_inner(weight, taps, in_per_group, out_channels)
}

/// `[a, b, c]` to `[c, b, a]`.
fn permute_outer_inner(values: &[f32], a: usize, b: usize, c: usize) -> Vec<f32> {
    assert_eq!(values.len(), a * b * c);
    let mut result = vec![0.0; values.len()];
    let rows = rows_per_piece(a);
    result.par_chunks_mut((rows * a).max(1)).enumerate().for_each(|(piece, out)| {
        for (row, out) in out.chunks_exact_mut(a).enumerate() {
            let (k, j) = ((piece * rows + row) / b, (piece * rows + row) % b);
            for (i, y) in out.iter_mut().enumerate() {
                *y = values[(i * b + j) * c + k];
            }
        }
    });
    result
}

#[cfg(test)]
mod tests;

//! 2-d convolution: `torch.nn.functional.conv2d` on NHWC maps, forward and both gradients.
//!
//! The shape, batch included, determines the [`Algorithm`]: Winograd's for 3x3 filters with stride 1 and enough pixels;
//! special kernels for depthwise convolutions, for groups of few channels and for few input channels; a matrix product over
//! patches for everything else. A [`Filter`] holds the weight in the layout that the algorithm reads, for as long as the
//! weight does not change.

mod algorithm;
mod depthwise;
mod direct;
mod few_channels;
mod filter;
mod grouped;
mod patches;
#[cfg(test)]
mod reference;
mod winograd;

use rayon::prelude::*;

use crate::bf16;
use crate::rows::{Threads, reduce_rows, rows_per_piece, with_scratch};
use crate::simd::{Level, dispatch};
use crate::{Activation, Precision, activation};

pub use crate::epilogue::Epilogue;
pub use algorithm::{Algorithm, Use};
pub use filter::{Filter, Ready};
use filter::{pairs_of_inputs, pairs_of_outputs};

/// Shape of a convolution, batch included.
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
    /// Vertical and horizontal stride.
    pub stride: [usize; 2],
    /// Vertical and horizontal zero padding on each side.
    pub padding: [usize; 2],
    /// Vertical and horizontal distance between taps.
    pub dilation: [usize; 2],
    /// Number of channel groups.
    pub groups: usize,
}

impl Shape {
    /// Taps of the filter, `kh * kw`.
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

    /// Input channels per group.
    fn in_per_group(&self) -> usize {
        self.in_channels / self.groups
    }

    /// Output channels per group.
    fn out_per_group(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Whether each channel has one filter of its own.
    fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.in_channels && self.groups == self.out_channels
    }

    /// Whether the taps are adjacent and the padding is smaller than the filter.
    ///
    /// Only then may a kernel keep padded lines in scratch memory. Otherwise the settings of the network, not the size of its
    /// maps, would determine the amount of memory.
    fn is_compact(&self) -> bool {
        self.dilation == [1, 1] && (0..2).all(|axis| self.padding[axis] < self.kernel[axis])
    }

    /// The input position along `axis` that `tap` reads for output position `out`; `None` in the padding.
    #[inline(always)]
    fn source(&self, axis: usize, out: usize, tap: usize) -> Option<usize> {
        (out * self.stride[axis] + tap * self.dilation[axis])
            .checked_sub(self.padding[axis])
            .filter(|&at| at < self.input[axis])
    }
}

/// Convolves `input` with a prepared weight and applies the `epilogue`: `torch.nn.functional.conv2d`.
///
/// # Shapes
/// - `input`: `[n, h, w, in_channels]`
/// - `output`: `[n, h_out, w_out, out_channels]`
///
/// # Panics
/// If a slice has another length than the shape says.
pub fn forward<'a>(shape: &Shape, input: &[f32], weight: impl Into<Ready<'a>>, epilogue: Epilogue, output: &mut [f32]) {
    forward_by(Threads::Pool, shape, input, weight.into(), epilogue, output);
}

/// [`forward`] on the calling thread, for maps in its cache.
///
/// In `f32`, and not by Winograd's algorithm, whose filters are too large to read again for every few lines.
///
/// # Panics
/// If a slice has another length than the shape says, or if the filter is for bfloat16 or Winograd's algorithm.
pub fn forward_alone(shape: &Shape, input: &[f32], filter: &Filter, epilogue: Epilogue, output: &mut [f32]) {
    let weight = Ready::from(filter);
    assert!(weight.precision == Precision::F32 && weight.algorithm != Algorithm::Winograd, "{:?}", weight.algorithm);
    forward_by(Threads::Caller, shape, input, weight, epilogue, output);
}

fn forward_by(threads: Threads, shape: &Shape, input: &[f32], weight: Ready, epilogue: Epilogue, output: &mut [f32]) {
    check(shape, input, output);
    let activation = epilogue.activation;
    if !activation.derivative_from_output() {
        // The activation's code would spill the kernels' registers. It runs as a pass of its own; with
        // `Threads::Caller` the result is still in cache.
        assert!(epilogue.gather.is_none(), "statistics of the result before its {activation:?}");
        let before = Epilogue { activation: Activation::Identity, ..epilogue };
        forward_by(threads, shape, input, weight, before, output);
        return activation::in_place(threads, activation, output);
    }
    let Ready { level, precision, algorithm, form } = weight;
    match algorithm {
        Algorithm::Winograd => winograd::forward(level, shape, input, form, false, epilogue, false, output),
        Algorithm::Direct if precision == Precision::Bf16 => {
            let shape = pairs_of_inputs(shape, true);
            with_scratch(input.len() / 2, |words| {
                bf16::pair_map(input, words);
                direct::forward(threads, level, precision, &shape, words, form, epilogue, output);
            });
        }
        Algorithm::Direct => direct::forward(threads, level, precision, shape, input, form, epilogue, output),
        Algorithm::FewChannels => {
            few_channels::forward(threads, level, precision, shape, input, form.packed(), epilogue, output)
        }
        Algorithm::Depthwise => depthwise::forward(threads, level, shape, input, form.packed(), epilogue, output),
        Algorithm::Grouped => grouped::forward(threads, level, shape, input, form.packed(), epilogue, output),
    }
}

/// The gradient of the input, with a prepared weight, written to `grad_input`; with `accumulate`, added to it.
///
/// # Shapes
/// As in [`forward`]; a gradient has the shape of its map.
///
/// # Panics
/// If a slice has another length than the shape says.
pub fn backward_input<'a>(
    shape: &Shape,
    grad_output: &[f32],
    weight: impl Into<Ready<'a>>,
    accumulate: bool,
    grad_input: &mut [f32],
) {
    check(shape, grad_input, grad_output);
    let Ready { level, precision, algorithm, form } = weight.into();
    match algorithm {
        Algorithm::Winograd => {
            let shape = winograd::gradient_shape(shape);
            winograd::forward(level, &shape, grad_output, form, true, Epilogue::NONE, accumulate, grad_input);
        }
        Algorithm::Direct | Algorithm::FewChannels if precision == Precision::Bf16 => {
            let shape = pairs_of_outputs(shape, true);
            with_scratch(grad_output.len() / 2, |words| {
                bf16::pair_map(grad_output, words);
                direct::backward_input(level, precision, &shape, words, form, accumulate, grad_input);
            });
        }
        Algorithm::Direct | Algorithm::FewChannels => {
            direct::backward_input(level, precision, shape, grad_output, form, accumulate, grad_input);
        }
        Algorithm::Depthwise => {
            depthwise::backward_input(level, shape, grad_output, form.packed(), accumulate, grad_input);
        }
        Algorithm::Grouped => grouped::backward_input(level, shape, grad_output, form.packed(), accumulate, grad_input),
    }
}

/// The gradient of the weight, summed over the batch: `[kh, kw, in_channels / groups, out_channels]`.
///
/// # Panics
/// If a slice has another length than the shape says, or if the precision is not [available](Precision::is_available).
pub fn backward_weight(
    shape: &Shape,
    precision: Precision,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
) {
    let algorithm = Algorithm::choose(shape, Use::Once, precision);
    backward_weight_by(algorithm, Level::current(), precision, shape, input, grad_output, grad_weight);
}

#[allow(clippy::too_many_arguments)] // algorithm, level, precision and the slices
fn backward_weight_by(
    algorithm: Algorithm,
    level: Level,
    precision: Precision,
    shape: &Shape,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
) {
    check(shape, input, grad_output);
    assert_eq!(grad_weight.len(), shape.weight_len(), "weight of {shape:?}");
    // This product pairs pixels, so it works for any number of channels.
    let precision = if shape.groups == 1 { precision } else { Precision::F32 };
    match algorithm {
        Algorithm::Winograd => winograd::backward_weight(level, shape, input, grad_output, grad_weight),
        Algorithm::Direct => direct::backward_weight(level, precision, shape, input, grad_output, grad_weight),
        Algorithm::FewChannels => {
            few_channels::backward_weight(level, precision, shape, input, grad_output, grad_weight)
        }
        Algorithm::Depthwise => depthwise::backward_weight(level, shape, input, grad_output, grad_weight),
        Algorithm::Grouped => grouped::backward_weight(level, shape, input, grad_output, grad_weight),
    }
}

/// The gradient of the bias, `[out_channels]`: the sum of `grad_output` over all pixels.
pub fn backward_bias(grad_output: &[f32], grad_bias: &mut [f32]) {
    let channels = grad_bias.len();
    let sums = reduce_rows(grad_output.len() / channels, channels, channels, |first, count, sums| {
        dispatch(
            #[inline(always)]
            || {
                for row in grad_output[first * channels..][..count * channels].chunks_exact(channels) {
                    for (s, &g) in sums.iter_mut().zip(row) {
                        *s += g;
                    }
                }
            },
        );
    });
    for (g, s) in grad_bias.iter_mut().zip(sums) {
        *g = s as f32;
    }
}

/// Asserts that input and output have the lengths of the shape.
fn check(shape: &Shape, input: &[f32], output: &[f32]) {
    assert_eq!(input.len(), shape.input_len(), "input of {shape:?}");
    assert_eq!(output.len(), shape.output_len(), "output of {shape:?}");
}

/// Converts a weight from PyTorch's layout, `[out, in / groups, kh, kw]`, to the kernels', `[kh, kw, in / groups, out]`.
pub fn pack_weight(out_channels: usize, in_per_group: usize, taps: usize, weight: &[f32]) -> Vec<f32> {
    permute_outer_inner(weight, out_channels, in_per_group, taps)
}

/// Converts a weight from the kernels' layout to PyTorch's: the inverse of [`pack_weight`].
pub fn unpack_weight(out_channels: usize, in_per_group: usize, taps: usize, weight: &[f32]) -> Vec<f32> {
    permute_outer_inner(weight, taps, in_per_group, out_channels)
}

/// Permutes `[a, b, c]` to `[c, b, a]`.
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

//! 2-d convolution: `torch.nn.functional.conv2d` on NHWC maps, forward and both gradients.
//!
//! An [`Algorithm`] is chosen by the shape, the batch included: Winograd's for 3x3 filters with stride 1 where there are
//! enough pixels, kernels of their own for depthwise convolutions and for few input channels, and for everything else a
//! matrix product over patches. The weight is brought into the form that the algorithm reads as a [`Filter`], once for as
//! long as it does not change.

mod depthwise;
mod direct;
mod narrow;
pub mod reference;
mod winograd;

use rayon::prelude::*;

use crate::batch_norm::Gather;
use crate::bf16;
use crate::rows::{Threads, reduce_rows, rows_per_piece, with_scratch};
use crate::simd::{Level, dispatch};
use crate::tile::Finish;
use crate::{Activation, Memory, Precision};

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
    /// Takes the statistics of the result.
    pub gather: Option<&'a Gather<'a>>,
}

impl Epilogue<'_> {
    /// Nothing more is done.
    pub const NONE: Epilogue<'static> =
        Epilogue { bias: None, residual: None, activation: Activation::Identity, gather: None };

    /// The same for the tile: for some channels of the output from element `start` on.
    pub(crate) fn finish(&self, start: usize, channels: std::ops::Range<usize>) -> Finish<'_> {
        Finish {
            bias: self.bias.map(|bias| &bias[channels.clone()]),
            residual: self.residual.map(|residual| &residual[start + channels.start..]),
            activation: self.activation,
            pivots: self.gather.map(|gather| &gather.pivots()[channels]),
        }
    }

    /// Room for the sums of a piece of the result.
    fn sums(&self, channels: usize) -> Vec<f32> {
        vec![0.0; if self.gather.is_some() { 2 * channels } else { 0 }]
    }

    /// Hands in the sums of a piece.
    fn gathered(&self, place: usize, sums: Vec<f32>) {
        if let Some(gather) = self.gather {
            gather.add(place, sums);
        }
    }

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
        self.gather_rows(start, channels, output);
    }

    /// Sums up rows of the finished output that start at element `start`, if the statistics are wanted.
    #[inline(always)]
    fn gather_rows(&self, start: usize, channels: usize, output: &[f32]) {
        let Some(gather) = self.gather else { return };
        let mut sums = self.sums(channels);
        let (distances, squares) = sums.split_at_mut(channels);
        let pivots = &gather.pivots()[..channels];
        for row in output.chunks_exact(channels) {
            for c in 0..channels {
                let distance = row[c] - pivots[c];
                distances[c] += distance;
                squares[c] += distance * distance;
            }
        }
        gather.add(start, sums);
    }
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Winograd's F(4x4, 3x3), for 3x3 filters with stride 1.
    Winograd,
    /// A product over patches, for every shape.
    Direct,
    /// A product over interleaved lines, for few input channels. The input's gradient, seldom wanted there, is direct.
    Narrow,
    /// Channel by channel.
    Depthwise,
}

/// How often a weight is used in the form that an algorithm reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// For one batch: a weight that learns.
    Once,
    /// For batch after batch: a weight that stays.
    Often,
}

impl Algorithm {
    const ALL: [Algorithm; 4] = [Algorithm::Winograd, Algorithm::Direct, Algorithm::Narrow, Algorithm::Depthwise];

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Winograd => "winograd",
            Algorithm::Direct => "direct",
            Algorithm::Narrow => "narrow",
            Algorithm::Depthwise => "depthwise",
        }
    }

    /// The algorithms that can compute this shape.
    pub fn fitting(shape: &Shape) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|algorithm| match algorithm {
            Algorithm::Winograd => winograd::fits(shape),
            Algorithm::Direct => true,
            Algorithm::Narrow => narrow::fits(shape),
            Algorithm::Depthwise => shape.is_depthwise(),
        })
    }

    /// The fastest for this shape, its batch included.
    pub fn choose(shape: &Shape, weight: Use, precision: Precision) -> Self {
        if shape.is_depthwise() {
            return Algorithm::Depthwise;
        }
        if narrow::fits(shape) {
            return Algorithm::Narrow;
        }
        // Few channels don't pay for the transforms of the maps, and few pixels not for the weight's. In multiplications
        // for each pair of channels: a direct one is worth 9 a pixel; Winograd's 36 a tile, with the maps' transforms,
        // about as much as 50; reading four times the weight some 600 of them, and transforming it first, 1500 (measured
        // at 64 to 512 channels, batches of 1 to 32, on two cores of Zen 5).
        let enough_channels = shape.in_channels >= 16 && shape.out_channels >= 16;
        if !winograd::fits(shape) || !enough_channels {
            return Algorithm::Direct;
        }
        let extra = match weight {
            Use::Once => 1500,
            Use::Often => 600,
        };
        // A multiplication in bfloat16 takes a little more than half the time.
        let direct = match precision {
            Precision::F32 => 9 * shape.output_pixels(),
            Precision::Bf16 => 5 * shape.output_pixels(),
        };
        let saves = direct > 50 * winograd::tiles(shape) + extra;
        if saves { Algorithm::Winograd } else { Algorithm::Direct }
    }
}

/// A convolution's weight in the form that its kernel reads, for one direction.
#[derive(Clone, Debug)]
pub struct Filter {
    level: Level,
    /// Wanted, and what it has come to for this shape.
    wanted: Precision,
    precision: Precision,
    algorithm: Algorithm,
    /// Of which `len` elements are used.
    data: Memory,
    len: usize,
}

impl Filter {
    /// Empty, to be filled by [`set_forward`](Self::set_forward) or [`set_backward`](Self::set_backward).
    ///
    /// # Panics
    /// If this CPU lacks the precision.
    pub fn new(precision: Precision) -> Self {
        Self::at(Level::current(), precision)
    }

    fn at(level: Level, precision: Precision) -> Self {
        assert!(precision.is_available(), "{precision:?} on this CPU");
        let (wanted, algorithm) = (precision, Algorithm::Direct);
        Self { level, wanted, precision, algorithm, data: Memory::default(), len: 0 }
    }

    /// Prepares `weight`, `[kh, kw, in_channels / groups, out_channels]`, for [`forward`] with batch after batch like that
    /// of `shape`. Other batches are computed as well, perhaps by a slower algorithm.
    pub fn for_forward(shape: &Shape, weight: &[f32], precision: Precision) -> Self {
        let mut filter = Self::new(precision);
        filter.set(shape, weight, Use::Often, false);
        filter
    }

    /// Prepares `weight` for [`backward_input`] with batch after batch.
    pub fn for_backward(shape: &Shape, weight: &[f32], precision: Precision) -> Self {
        let mut filter = Self::new(precision);
        filter.set(shape, weight, Use::Often, true);
        filter
    }

    /// Prepares `weight` for [`forward`] with one batch, in the memory that is there.
    pub fn set_forward(&mut self, shape: &Shape, weight: &[f32]) {
        self.set(shape, weight, Use::Once, false);
    }

    /// Prepares `weight` for [`backward_input`] with one batch, in the memory that is there.
    pub fn set_backward(&mut self, shape: &Shape, weight: &[f32]) {
        self.set(shape, weight, Use::Once, true);
    }

    /// The algorithm that reads it.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    fn set(&mut self, shape: &Shape, weight: &[f32], times: Use, backward: bool) {
        assert_eq!(weight.len(), shape.weight_len(), "weight of {shape:?}");
        self.set_for(Algorithm::choose(shape, times, self.wanted), shape, weight, backward);
    }

    fn set_for(&mut self, algorithm: Algorithm, shape: &Shape, weight: &[f32], backward: bool) {
        self.algorithm = algorithm;
        self.precision = self.wanted;
        if !pairs(algorithm, shape, backward) {
            self.precision = Precision::F32;
        }
        let Self { level, precision, ref mut data, .. } = *self;
        let paired = precision == Precision::Bf16;
        self.len = match algorithm {
            Algorithm::Winograd => {
                let shape = if backward { &winograd::gradient_shape(shape) } else { shape };
                winograd::transform_filter(level, shape, weight, backward, data)
            }
            Algorithm::Direct | Algorithm::Narrow if backward => {
                let (words, shape) = (&mut Memory::default(), &pairs_of_outputs(shape, paired));
                let weight = if paired { map_words(weight, words) } else { weight };
                direct::pack_backward(level, shape, weight, data)
            }
            Algorithm::Narrow => narrow::pack(level, precision, shape, weight, data),
            Algorithm::Direct => {
                let (words, halved) = (&mut Memory::default(), &pairs_of_inputs(shape, paired));
                let weight = if paired { row_words(weight, shape.out_channels, words) } else { weight };
                direct::pack_forward(level, halved, weight, data)
            }
            Algorithm::Depthwise => {
                data.reserve(weight.len());
                data[..weight.len()].copy_from_slice(weight);
                weight.len()
            }
        };
    }

    fn values(&self) -> &[f32] {
        &self.data[..self.len]
    }
}

/// Whether an algorithm can compute in pairs: of input channels, or of output channels for the input's gradient.
fn pairs(algorithm: Algorithm, shape: &Shape, backward: bool) -> bool {
    match (algorithm, backward) {
        (Algorithm::Narrow, false) => narrow::pairs(shape),
        (Algorithm::Direct, false) => shape.groups == 1 && shape.in_channels.is_multiple_of(2),
        (Algorithm::Direct | Algorithm::Narrow, true) => shape.groups == 1 && shape.out_channels.is_multiple_of(2),
        (Algorithm::Winograd | Algorithm::Depthwise, _) => false,
    }
}

/// The shape of a convolution whose input channels are pairs, if they are `paired`.
fn pairs_of_inputs(shape: &Shape, paired: bool) -> Shape {
    Shape { in_channels: if paired { shape.in_channels / 2 } else { shape.in_channels }, ..*shape }
}

/// The shape of a convolution whose output channels are pairs, if they are `paired`.
fn pairs_of_outputs(shape: &Shape, paired: bool) -> Shape {
    Shape { out_channels: if paired { shape.out_channels / 2 } else { shape.out_channels }, ..*shape }
}

/// Pairs of neighbouring values of a map or a weight.
fn map_words<'a>(values: &[f32], words: &'a mut Memory) -> &'a [f32] {
    let len = values.len() / 2;
    words.reserve(len);
    bf16::pair_map(values, &mut words[..len]);
    &words[..len]
}

/// Pairs of neighbouring rows of a weight.
fn row_words<'a>(weight: &[f32], columns: usize, words: &'a mut Memory) -> &'a [f32] {
    let len = weight.len() / 2;
    words.reserve(len);
    words[..len].par_chunks_mut(columns).zip(weight.par_chunks_exact(2 * columns)).for_each(|(words, rows)| {
        bf16::pair_all_rows(rows, 2, columns, columns, words);
    });
    &words[..len]
}

/// Convolves `input` with a [`Filter::for_forward`] and applies the `epilogue`.
///
/// # Shapes
/// - `input`: `[n, h, w, in_channels]`
/// - `output`: `[n, h_out, w_out, out_channels]`
///
/// # Panics
/// If a slice has another length than the shape says.
pub fn forward(shape: &Shape, input: &[f32], filter: &Filter, epilogue: Epilogue, output: &mut [f32]) {
    forward_by(Threads::All, shape, input, filter, epilogue, output);
}

/// [`forward`] on the calling thread, for maps that lie in its cache; in single precision, and not by Winograd's
/// algorithm, whose filters are too large to be read for a few lines at a time.
///
/// # Panics
/// If a slice has another length than the shape says, or for a filter of another kind.
pub fn forward_alone(shape: &Shape, input: &[f32], filter: &Filter, epilogue: Epilogue, output: &mut [f32]) {
    assert!(filter.precision == Precision::F32 && filter.algorithm != Algorithm::Winograd, "{:?}", filter.algorithm);
    forward_by(Threads::Own, shape, input, filter, epilogue, output);
}

fn forward_by(threads: Threads, shape: &Shape, input: &[f32], filter: &Filter, epilogue: Epilogue, output: &mut [f32]) {
    check(shape, input, output);
    let (precision, data) = (filter.precision, filter.values());
    let level = filter.level;
    match filter.algorithm {
        Algorithm::Winograd => winograd::forward(level, shape, input, data, epilogue, false, output),
        Algorithm::Direct if precision == Precision::Bf16 => {
            let shape = pairs_of_inputs(shape, true);
            with_scratch(input.len() / 2, |words| {
                bf16::pair_map(input, words);
                direct::forward(threads, level, precision, &shape, words, data, epilogue, output);
            });
        }
        Algorithm::Direct => direct::forward(threads, level, precision, shape, input, data, epilogue, output),
        Algorithm::Narrow => narrow::forward(threads, level, precision, shape, input, data, epilogue, output),
        Algorithm::Depthwise => depthwise::forward(threads, level, shape, input, data, epilogue, output),
    }
}

/// The gradient of the input, written to `grad_input` or, with `accumulate`, added to it, with a
/// [`Filter::for_backward`].
///
/// # Panics
/// If a slice has another length than the shape says.
pub fn backward_input(shape: &Shape, grad_output: &[f32], filter: &Filter, accumulate: bool, grad_input: &mut [f32]) {
    check(shape, grad_input, grad_output);
    let (level, data) = (&filter.level, filter.values());
    match filter.algorithm {
        Algorithm::Winograd => {
            let shape = winograd::gradient_shape(shape);
            winograd::forward(*level, &shape, grad_output, data, Epilogue::NONE, accumulate, grad_input);
        }
        Algorithm::Direct | Algorithm::Narrow if filter.precision == Precision::Bf16 => {
            let shape = pairs_of_outputs(shape, true);
            with_scratch(grad_output.len() / 2, |words| {
                bf16::pair_map(grad_output, words);
                direct::backward_input(*level, Precision::Bf16, &shape, words, data, accumulate, grad_input);
            });
        }
        Algorithm::Direct | Algorithm::Narrow => {
            direct::backward_input(*level, Precision::F32, shape, grad_output, data, accumulate, grad_input);
        }
        Algorithm::Depthwise => depthwise::backward_input(*level, shape, grad_output, data, accumulate, grad_input),
    }
}

/// The gradient of the weight, summed over the batch: `[kh, kw, in_channels / groups, out_channels]`.
///
/// # Panics
/// If a slice has another length than the shape says.
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

#[allow(clippy::too_many_arguments)] // two choices and the slices
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
    // The pairs are of pixels here: any channels will do.
    let precision = if shape.groups == 1 { precision } else { Precision::F32 };
    match algorithm {
        Algorithm::Winograd => winograd::backward_weight(level, shape, input, grad_output, grad_weight),
        Algorithm::Direct => direct::backward_weight(level, precision, shape, input, grad_output, grad_weight),
        Algorithm::Narrow => narrow::backward_weight(level, precision, shape, input, grad_output, grad_weight),
        Algorithm::Depthwise => depthwise::backward_weight(level, shape, input, grad_output, grad_weight),
    }
}

/// The gradient of the bias: the sum of each output channel's gradients.
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

fn check(shape: &Shape, input: &[f32], output: &[f32]) {
    assert_eq!(input.len(), shape.input_len(), "input of {shape:?}");
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

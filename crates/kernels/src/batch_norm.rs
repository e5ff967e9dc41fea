//! Batch normalisation over the channels of NHWC maps: `torch.nn.BatchNorm2d`
//! (Ioffe and Szegedy 2015).
//!
//! All functions see a map as `rows` of `channels`. Training uses the batch's own statistics; a frozen
//! batch norm is the affine map that its running statistics define.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::activation::{self, Activation};
use crate::rows::rows_per_piece;
use crate::simd::dispatch;

pub mod reference;

/// Statistics of one batch, a value a channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Mean.
    pub mean: Vec<f32>,
    /// Biased variance (divided by the count), which normalises.
    pub var: Vec<f32>,
}

impl Statistics {
    /// Mean and variance of each channel of `x`.
    ///
    /// Pieces are summed around their own mean and merged in `f64` (Chan, Golub and LeVeque 1979), so that a
    /// large mean does not drown a small variance.
    pub fn of(x: &[f32], channels: usize) -> Self {
        let rows = x.len() / channels;
        let step = rows_per_piece(channels);
        let pieces: Vec<(Vec<f32>, Vec<f32>)> = x
            .par_chunks(step * channels)
            .map(|piece| {
                let (mut mean, mut squares) = (vec![0.0f32; channels], vec![0.0f32; channels]);
                let scale = 1.0 / (piece.len() / channels) as f32;
                dispatch(
                    #[inline(always)]
                    || {
                        for row in piece.chunks_exact(channels) {
                            for (m, &x) in mean.iter_mut().zip(row) {
                                *m += x;
                            }
                        }
                        for m in &mut mean {
                            *m *= scale;
                        }
                        for row in piece.chunks_exact(channels) {
                            for ((s, &m), &x) in squares.iter_mut().zip(&mean).zip(row) {
                                *s += (x - m) * (x - m);
                            }
                        }
                    },
                );
                (mean, squares)
            })
            .collect();
        let mut merged = Statistics { mean: vec![0.0; channels], var: vec![0.0; channels] };
        for c in 0..channels {
            let (mut count, mut mean, mut squares) = (0.0f64, 0.0f64, 0.0f64);
            for (i, (piece_mean, piece_squares)) in pieces.iter().enumerate() {
                let n = step.min(rows - i * step) as f64;
                let delta = f64::from(piece_mean[c]) - mean;
                mean += delta * n / (count + n);
                squares += f64::from(piece_squares[c]) + delta * delta * count * n / (count + n);
                count += n;
            }
            merged.mean[c] = mean as f32;
            merged.var[c] = (squares / count) as f32;
        }
        merged
    }

    /// Moves running statistics towards these, as PyTorch does: with the unbiased variance of `rows` values.
    pub fn update_running(&self, rows: usize, momentum: f32, running_mean: &mut [f32], running_var: &mut [f32]) {
        let unbiased = if rows > 1 { rows as f32 / (rows - 1) as f32 } else { 1.0 };
        for (r, &m) in running_mean.iter_mut().zip(&self.mean) {
            *r += momentum * (m - *r);
        }
        for (r, &v) in running_var.iter_mut().zip(&self.var) {
            *r += momentum * (v * unbiased - *r);
        }
    }
}

/// Gathers the statistics of a map while it is computed, piece by piece.
///
/// Each piece adds up its values' distances from a pivot of the channel, and their squares. Around a pivot near the mean,
/// such as the running mean, nothing is lost by that; [`statistics`](Self::statistics) says where it was too far off.
#[derive(Debug)]
pub struct Gather<'a> {
    pivots: &'a [f32],
    /// By the place of the piece, so that they are added up in one order, whoever came first.
    pieces: Mutex<BTreeMap<usize, Vec<f32>>>,
}

impl<'a> Gather<'a> {
    /// Around these pivots, one a channel.
    pub fn new(pivots: &'a [f32]) -> Self {
        Self { pivots, pieces: Mutex::default() }
    }

    pub(crate) fn pivots(&self) -> &[f32] {
        self.pivots
    }

    /// Adds the sums of a piece, `[2, channels]`: of the distances, and of their squares.
    pub(crate) fn add(&self, place: usize, sums: Vec<f32>) {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner).insert(place, sums);
    }

    /// The statistics of all pieces, `rows` values a channel; nothing if a pivot was so far from the mean, 30 times the
    /// standard deviation, that digits were lost, or if the values are not finite.
    pub fn statistics(self, rows: usize) -> Option<Statistics> {
        let channels = self.pivots.len();
        let mut sums = vec![0.0; 2 * channels];
        for piece in self.pieces.into_inner().unwrap_or_else(PoisonError::into_inner).values() {
            sums.iter_mut().zip(piece).for_each(|(s, &p)| *s += f64::from(p));
        }
        let mut statistics = Statistics { mean: vec![0.0; channels], var: vec![0.0; channels] };
        for c in 0..channels {
            let (distance, square) = (sums[c] / rows as f64, sums[channels + c] / rows as f64);
            let var = square - distance * distance;
            let near = distance * distance <= 1e3 * var || square == 0.0;
            if !near {
                return None;
            }
            statistics.mean[c] = (f64::from(self.pivots[c]) + distance) as f32;
            statistics.var[c] = var as f32;
        }
        Some(statistics)
    }
}

/// `y = x * scale + shift`, a pair a channel: what a batch norm with given statistics amounts to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Affine {
    /// Factor of each channel.
    pub scale: Vec<f32>,
    /// Summand of each channel.
    pub shift: Vec<f32>,
}

impl Affine {
    /// The affine map of a batch norm with these parameters and statistics.
    pub fn new(weight: &[f32], bias: &[f32], mean: &[f32], var: &[f32], eps: f32) -> Self {
        let scale: Vec<f32> = weight
            .iter()
            .zip(var)
            .map(|(&w, &v)| (f64::from(w) / (f64::from(v) + f64::from(eps)).sqrt()) as f32)
            .collect();
        let shift = (0..bias.len()).map(|c| (f64::from(bias[c]) - f64::from(mean[c]) * f64::from(scale[c])) as f32);
        Self { shift: shift.collect(), scale }
    }
}

/// `output = activation(input * scale + shift + residual)`.
pub fn forward(affine: &Affine, input: &[f32], residual: Option<&[f32]>, activation: Activation, output: &mut [f32]) {
    assert_eq!(input.len(), output.len());
    let channels = affine.scale.len();
    let piece = rows_per_piece(channels) * channels;
    output.par_chunks_mut(piece).enumerate().for_each(|(i, output)| {
        let start = i * piece;
        dispatch(
            #[inline(always)]
            || {
                let input = &input[start..start + output.len()];
                for (y, x) in output.chunks_exact_mut(channels).zip(input.chunks_exact(channels)) {
                    for (((y, &x), &a), &b) in y.iter_mut().zip(x).zip(&affine.scale).zip(&affine.shift) {
                        *y = x * a + b;
                    }
                }
                if let Some(residual) = residual {
                    for (y, &r) in output.iter_mut().zip(&residual[start..]) {
                        *y += r;
                    }
                }
                activation.apply(output);
            },
        );
    });
}

/// What the backward pass of a batch norm needs besides the maps.
#[derive(Clone, Copy)]
pub struct Backward<'a> {
    /// Weight of the batch norm.
    pub weight: &'a [f32],
    /// Mean and biased variance that it normalised with.
    pub statistics: (&'a [f32], &'a [f32]),
    /// Added to the variance under the root.
    pub eps: f32,
    /// The map that it was in the forward pass: `activation(input * scale + shift)`.
    pub affine: &'a Affine,
    /// The activation after it. Its derivative is told from the input, so that the output need not be read; nothing may
    /// have been added in between.
    pub activation: Activation,
}

/// The gradients of a batch norm's parameters, in `f64`; the input's gradient needs them, too.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// Of the weight: the sum over rows of gradient times normalised input.
    pub weight: Vec<f64>,
    /// Of the bias: the sum over rows of the gradient.
    pub bias: Vec<f64>,
}

/// The range of values that an activation passes on unchanged: `(0, top)`, or all.
fn passed(activation: Activation) -> (f32, f32) {
    match activation {
        Activation::Identity => (f32::NEG_INFINITY, f32::INFINITY),
        Activation::ReLU => (0.0, f32::INFINITY),
        Activation::ReLU6 => (0.0, 6.0),
    }
}

/// Where the input's gradient goes.
pub enum Target<'a> {
    /// To the place of the output's.
    InPlace(&'a mut [f32]),
    /// From the output's to a place of its own, where it is added with `accumulate`.
    Elsewhere {
        /// The output's gradient.
        grad: &'a [f32],
        /// The input's gradient.
        out: &'a mut [f32],
        /// Whether there is something to add to.
        accumulate: bool,
    },
}

impl Backward<'_> {
    /// The gradients of the parameters.
    pub fn parameters(&self, input: &[f32], grad_output: &[f32]) -> Gradients {
        let channels = self.weight.len();
        let piece = rows_per_piece(channels) * channels;
        let pieces = input.par_chunks(piece).zip(grad_output.par_chunks(piece));
        self.total(pieces.map(|(x, g)| self.sum(x, g)).collect())
    }

    /// Multiplies the output's gradient by the derivative of `activation`, told from the `output` after something was
    /// added, and gives the gradients of the parameters.
    pub fn mask_and_parameters(
        &self,
        activation: Activation,
        output: &[f32],
        input: &[f32],
        grad_output: &mut [f32],
    ) -> Gradients {
        let channels = self.weight.len();
        let piece = rows_per_piece(channels) * channels;
        let pieces = input.par_chunks(piece).zip(output.par_chunks(piece)).zip(grad_output.par_chunks_mut(piece));
        let sum = |((x, y), g): ((&[f32], &[f32]), &mut [f32])| {
            activation::mask(activation, y, g);
            self.sum(x, g)
        };
        self.total(pieces.map(sum).collect())
    }

    /// Sums over some rows: of the gradient, and of the gradient times the distance from the mean.
    fn sum(&self, input: &[f32], grad_output: &[f32]) -> [Vec<f32>; 2] {
        let (mean, _) = self.statistics;
        let Affine { scale, shift } = self.affine;
        let channels = mean.len();
        let (low, high) = passed(self.activation);
        let all = self.activation == Activation::Identity;
        let mut sums = [vec![0.0; channels], vec![0.0; channels]];
        let [plain, with_input] = &mut sums;
        dispatch(
            #[inline(always)]
            || {
                for (x, g) in input.chunks_exact(channels).zip(grad_output.chunks_exact(channels)) {
                    let (scale, shift, mean) = (&scale[..channels], &shift[..channels], &mean[..channels]);
                    let (with_input, plain) = (&mut with_input[..channels], &mut plain[..channels]);
                    for c in 0..channels {
                        let y = x[c] * scale[c] + shift[c];
                        let g = if all || (y > low && y < high) { g[c] } else { 0.0 };
                        plain[c] += g;
                        with_input[c] += g * (x[c] - mean[c]);
                    }
                }
            },
        );
        sums
    }

    /// Adds the pieces' sums up.
    fn total(&self, pieces: Vec<[Vec<f32>; 2]>) -> Gradients {
        let (_, var) = self.statistics;
        let mut gradients = Gradients { weight: vec![0.0; var.len()], bias: vec![0.0; var.len()] };
        for [plain, with_input] in &pieces {
            gradients.bias.iter_mut().zip(plain).for_each(|(t, &s)| *t += f64::from(s));
            gradients.weight.iter_mut().zip(with_input).for_each(|(t, &s)| *t += f64::from(s));
        }
        for (weight, &var) in gradients.weight.iter_mut().zip(var) {
            *weight /= (f64::from(var) + f64::from(self.eps)).sqrt();
        }
        gradients
    }

    /// The input's gradient where the statistics are the batch's own: they depend on the input, too.
    pub fn input_train(&self, gradients: &Gradients, input: &[f32], target: Target) {
        let channels = self.weight.len();
        let rows = (input.len() / channels) as f64;
        let (mean, var) = self.statistics;
        let mut coefficients = [vec![0.0; channels], vec![0.0; channels], vec![0.0; channels]];
        for i in 0..channels {
            let inv_std = 1.0 / (f64::from(var[i]) + f64::from(self.eps)).sqrt();
            let a = f64::from(self.weight[i]) * inv_std;
            let b = -a * inv_std * gradients.weight[i] / rows;
            coefficients[0][i] = a as f32;
            coefficients[1][i] = b as f32;
            coefficients[2][i] = (-a * gradients.bias[i] / rows - b * f64::from(mean[i])) as f32;
        }
        self.combine(coefficients.each_ref().map(Vec::as_slice), input, target);
    }

    /// The input's gradient where the statistics are fixed: `grad * scale`.
    pub fn input_frozen(&self, input: &[f32], target: Target) {
        let zeros = vec![0.0; self.affine.scale.len()];
        self.combine([&self.affine.scale, &zeros, &zeros], input, target);
    }

    /// `a * passed grad + b * input + c`, coefficients per channel.
    fn combine(&self, [a, b, c]: [&[f32]; 3], input: &[f32], target: Target) {
        let Affine { scale, shift } = self.affine;
        let channels = self.weight.len();
        let (low, high) = passed(self.activation);
        let all = self.activation == Activation::Identity;
        let piece = rows_per_piece(channels) * channels;
        // Slices of one length, so that the loops over channels become vectors.
        let (a, b, c) = (&a[..channels], &b[..channels], &c[..channels]);
        let (scale, shift) = (&scale[..channels], &shift[..channels]);
        match target {
            Target::InPlace(grad) => {
                assert_eq!(input.len(), grad.len());
                grad.par_chunks_mut(piece).zip(input.par_chunks(piece)).for_each(|(grad, input)| {
                    dispatch(
                        #[inline(always)]
                        || {
                            for (g, x) in grad.chunks_exact_mut(channels).zip(input.chunks_exact(channels)) {
                                for i in 0..channels {
                                    let y = x[i] * scale[i] + shift[i];
                                    let passed = if all || (y > low && y < high) { g[i] } else { 0.0 };
                                    g[i] = a[i] * passed + b[i] * x[i] + c[i];
                                }
                            }
                        },
                    );
                });
            }
            Target::Elsewhere { grad, out, accumulate } => {
                assert_eq!((input.len(), grad.len()), (out.len(), out.len()));
                let sources = grad.par_chunks(piece).zip(input.par_chunks(piece));
                out.par_chunks_mut(piece).zip(sources).for_each(|(out, (grad, input))| {
                    dispatch(
                        #[inline(always)]
                        || {
                            let rows = grad.chunks_exact(channels).zip(input.chunks_exact(channels));
                            for (out, (g, x)) in out.chunks_exact_mut(channels).zip(rows) {
                                for i in 0..channels {
                                    let y = x[i] * scale[i] + shift[i];
                                    let passed = if all || (y > low && y < high) { g[i] } else { 0.0 };
                                    let value = a[i] * passed + b[i] * x[i] + c[i];
                                    out[i] = if accumulate { out[i] + value } else { value };
                                }
                            }
                        },
                    );
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_gradient, dot, values, values_f64};
    use regraft_testing::assert_close_to_scale;

    const EPS: f32 = 1e-5;

    fn f32s(values: &[f64]) -> Vec<f32> {
        values.iter().map(|&x| x as f32).collect()
    }

    #[test]
    fn the_reference_gradients_are_derivatives() {
        let (rows, channels) = (7, 3);
        let (x, g) = (values_f64("x", rows * channels), values_f64("g", rows * channels));
        let (w, b) = (values_f64("w", channels), values_f64("b", channels));
        let eps = f64::from(EPS);
        let (dx, dw, db) = reference::backward(&x, &w, eps, &g);
        let loss = |x: &[f64], w: &[f64], b: &[f64]| dot(&reference::forward(x, w, b, eps).0, &g);
        assert_gradient("dx", &x, &dx, |x| loss(x, &w, &b));
        assert_gradient("dw", &w, &dw, |w| loss(&x, w, &b));
        assert_gradient("db", &b, &db, |b| loss(&x, &w, b));
    }

    #[test]
    fn training_equals_the_reference_in_f64() {
        // 70,000 rows span several pieces; a mean of 100 would ruin a one-pass variance.
        for (rows, channels, offset) in [(1, 5, 0.0), (37, 3, 0.0), (700, 64, 0.0), (70_000, 2, 100.0)] {
            let len = rows * channels;
            let x: Vec<f32> = values("x", len).iter().map(|x| x + offset).collect();
            let (g, w, b) = (values("g", len), values("w", channels), values("b", channels));
            let to_f64 = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
            let (y_ref, mean_ref, var_ref) = reference::forward(&to_f64(&x), &to_f64(&w), &to_f64(&b), f64::from(EPS));

            let statistics = Statistics::of(&x, channels);
            assert_close_to_scale("mean", &statistics.mean, &f32s(&mean_ref), 1e-6);
            assert_close_to_scale("variance", &statistics.var, &f32s(&var_ref), 1e-5);
            if rows == 1 {
                continue; // a variance of zero makes the gradients meaningless
            }
            let mut y = vec![0.0; len];
            let affine = Affine::new(&w, &b, &statistics.mean, &statistics.var, EPS);
            forward(&affine, &x, None, Activation::Identity, &mut y);
            // x * scale + shift cancels an offset of 100 in f32: 100 * 6e-8 / std of 0.58, a few times over.
            let tolerance = if offset > 0.0 { 5e-5 } else { 2e-6 };
            assert_close_to_scale("output", &y, &f32s(&y_ref), tolerance);

            let bn = Backward {
                weight: &w,
                statistics: (&statistics.mean, &statistics.var),
                eps: EPS,
                affine: &affine,
                activation: Activation::Identity,
            };
            let grads = bn.parameters(&x, &g);
            let mut dx = g.clone();
            bn.input_train(&grads, &x, Target::InPlace(&mut dx));
            let (dx_ref, dw_ref, db_ref) = reference::backward(&to_f64(&x), &to_f64(&w), f64::from(EPS), &to_f64(&g));
            assert_close_to_scale("dx", &dx, &f32s(&dx_ref), 1e-5);
            assert_close_to_scale("dw", &f32s(&grads.weight), &f32s(&dw_ref), 1e-4);
            assert_close_to_scale("db", &f32s(&grads.bias), &f32s(&db_ref), 1e-5);
        }
    }

    #[test]
    fn a_fused_activation_gives_the_bits_of_a_separate_one() {
        let (rows, channels) = (50, 20);
        let (x, g) = (values("x", rows * channels), values("g", rows * channels));
        let (w, b) = (values("w", channels), values("b", channels));
        let statistics = Statistics::of(&x, channels);
        let affine = Affine::new(&w, &b, &statistics.mean, &statistics.var, EPS);
        for activation in [Activation::ReLU, Activation::ReLU6] {
            let mut y = vec![0.0; x.len()];
            forward(&affine, &x, None, activation, &mut y);
            let mut masked = g.clone();
            activation::backward_in_place(activation, &y, &mut masked);
            let statistics = (statistics.mean.as_slice(), statistics.var.as_slice());
            let fused = Backward { weight: &w, statistics, eps: EPS, affine: &affine, activation };
            let plain = Backward { activation: Activation::Identity, ..fused };
            let grads = fused.parameters(&x, &g);
            assert_eq!(grads, plain.parameters(&x, &masked));
            let mut separate = masked.clone();
            let mut together = g.clone();
            plain.input_train(&grads, &x, Target::InPlace(&mut separate));
            fused.input_train(&grads, &x, Target::InPlace(&mut together));
            assert_eq!(separate, together);
            plain.input_frozen(&x, Target::InPlace(&mut masked));
            let mut together = g.clone();
            fused.input_frozen(&x, Target::InPlace(&mut together));
            assert_eq!(masked, together);
        }
    }

    #[test]
    fn sums_around_a_far_pivot_are_refused() {
        let sums = |pivot: f32| {
            let pivots = [pivot];
            let gather = Gather::new(&pivots);
            for (place, x) in [(0, 1.0f32), (1, 2.0), (2, 3.0)] {
                gather.add(place, vec![x - pivot, (x - pivot) * (x - pivot)]);
            }
            gather.statistics(3)
        };
        let near = sums(1.5).unwrap();
        assert!((near.mean[0] - 2.0).abs() < 1e-6 && (near.var[0] - 2.0 / 3.0).abs() < 1e-6, "{near:?}");
        assert_eq!(sums(1000.0), None);
        assert_eq!(sums(f32::NAN), None);
    }

    #[test]
    fn running_statistics_follow_pytorch() {
        // torch.nn.BatchNorm2d(1, momentum=0.1) on [1, 2, 3]: mean 2, unbiased variance 1.
        let (mut mean, mut var) = ([0.0], [1.0]);
        Statistics::of(&[1.0, 2.0, 3.0], 1).update_running(3, 0.1, &mut mean, &mut var);
        assert!((mean[0] - 0.2f32).abs() < 1e-7 && (var[0] - 1.0f32).abs() < 1e-7, "{mean:?} {var:?}");
    }

    #[test]
    fn a_frozen_batch_norm_is_affine() {
        let (x, residual) = (values("x", 40), values("r", 40));
        let affine = Affine::new(&[2.0, -1.0], &[0.5, 0.25], &[0.1, 0.2], &[4.0 - EPS, 1.0 - EPS], EPS);
        let mut y = vec![0.0; 40];
        forward(&affine, &x, Some(&residual), Activation::ReLU, &mut y);
        for i in 0..40 {
            let expected = if i % 2 == 0 { x[i] - 0.1 + 0.5 } else { -(x[i] - 0.2) + 0.25 };
            assert!((y[i] - (expected + residual[i]).max(0.0)).abs() < 1e-6);
        }
        let mut dx = x.clone();
        let bn = Backward {
            weight: &[2.0, -1.0],
            statistics: (&[0.1, 0.2], &[4.0 - EPS, 1.0 - EPS]),
            eps: EPS,
            affine: &affine,
            activation: Activation::Identity,
        };
        bn.input_frozen(&x, Target::InPlace(&mut dx));
        for i in 0..40 {
            assert!((dx[i] - x[i] * affine.scale[i % 2]).abs() < 1e-6);
        }
    }
}

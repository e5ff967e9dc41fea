//! Gradients of a batch norm, fused with the activation after it.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::Affine;
use crate::activation::{self, Activation};
use crate::prefetch;
use crate::rows::rows_per_piece;
use crate::simd::Level;
use crate::vector::{blocks, for_each_vector, load, load_block, store, store_block};

/// The backward pass of a batch norm and the activation after it.
#[derive(Clone, Copy)]
pub struct Backward<'a> {
    /// Weight, one value per channel.
    pub weight: &'a [f32],
    /// Mean and biased variance of the forward pass.
    pub statistics: (&'a [f32], &'a [f32]),
    /// Added to the variance under the square root.
    pub eps: f32,
    /// The affine function of the forward pass, `activation(input * scale + shift)`.
    pub affine: &'a Affine,
    /// The activation after the batch norm: identity, ReLU or ReLU6.
    ///
    /// Its derivative is recomputed from the input, so that the output need not be read. No residual may have been added
    /// between the two.
    pub activation: Activation,
}

/// The parameter gradients of a batch norm, which the input gradient needs too.
#[derive(Clone, Debug, PartialEq)]
pub struct Gradients {
    /// Gradient of the weight: the sum over rows of output gradient times normalised input.
    pub weight: Vec<f64>,
    /// Gradient of the bias: the sum over rows of the output gradient.
    pub bias: Vec<f64>,
}

/// Where the input gradient is written.
pub enum Target<'a> {
    /// Over the output gradient, which the slice holds.
    InPlace(&'a mut [f32]),
    /// To a slice of its own.
    Elsewhere {
        /// The output gradient, read.
        grad: &'a [f32],
        /// The input gradient, written.
        out: &'a mut [f32],
        /// Whether to add to `out`.
        accumulate: bool,
    },
}

impl Backward<'_> {
    /// The parameter gradients for `input` and `grad_output`, `[rows, channels]`.
    pub fn parameters(&self, input: &[f32], grad_output: &[f32]) -> Gradients {
        let channels = self.weight.len();
        let piece = rows_per_piece(channels) * channels;
        let pieces = input.par_chunks(piece).zip(grad_output.par_chunks(piece));
        self.total(pieces.map(|(x, g)| self.sum(x, g)).collect())
    }

    /// Multiplies `grad_output` by the derivative of `activation`, then returns the parameter gradients.
    ///
    /// For an activation after a residual was added: its derivative is computed from the `output`.
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

    /// Sums over some rows the gradient, and the gradient times the input's distance from the mean.
    fn sum(&self, input: &[f32], grad: &[f32]) -> [Vec<f32>; 2] {
        // The kernel goes through all rows once per block of channels, which is a bad order to read memory in.
        prefetch::touch(input);
        prefetch::touch(grad);
        let (mean, _) = self.statistics;
        Level::current().run(ParameterSums { mask: self.mask(), mean, input, grad })
    }

    fn mask(&self) -> ActivationMask<'_> {
        ActivationMask { affine: self.affine, activation: self.activation }
    }

    /// Adds up the sums of the pieces and divides by the standard deviation.
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

    /// The input gradient with batch statistics, which depend on the input too.
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

    /// The input gradient with fixed statistics: `grad * scale`.
    pub fn input_frozen(&self, input: &[f32], target: Target) {
        let zeros = vec![0.0; self.affine.scale.len()];
        self.combine([&self.affine.scale, &zeros, &zeros], input, target);
    }

    /// `a * masked gradient + b * input + c`, with one coefficient of each kind per channel.
    fn combine(&self, coefficients: [&[f32]; 3], input: &[f32], target: Target) {
        let channels = self.weight.len();
        let piece = rows_per_piece(channels) * channels;
        let mask = self.mask();
        let combine = |input, target| Level::current().run(InputGradient { mask, coefficients, input, target });
        match target {
            Target::InPlace(grad) => {
                assert_eq!(input.len(), grad.len());
                let pieces = grad.par_chunks_mut(piece).zip(input.par_chunks(piece));
                pieces.for_each(|(grad, input)| combine(input, Target::InPlace(grad)));
            }
            Target::Elsewhere { grad, out, accumulate } => {
                assert_eq!((input.len(), grad.len()), (out.len(), out.len()));
                let sources = grad.par_chunks(piece).zip(input.par_chunks(piece));
                let pieces = out.par_chunks_mut(piece).zip(sources);
                pieces.for_each(|(out, (grad, input))| combine(input, Target::Elsewhere { grad, out, accumulate }));
            }
        }
    }
}

/// The mask that an activation applies to gradients.
#[derive(Clone, Copy)]
struct ActivationMask<'a> {
    affine: &'a Affine,
    activation: Activation,
}

impl ActivationMask<'_> {
    /// `grad` where the activation's derivative at `x * scale + shift`, computed as in the forward pass, is 1; else 0.
    #[inline(always)]
    fn apply<S: Simd, const V: usize>(
        self,
        simd: S,
        [scale, shift]: [[S::f32s; V]; 2],
        x: [S::f32s; V],
        mut grad: [S::f32s; V],
    ) -> [S::f32s; V] {
        let (zero, six) = (simd.splat_f32s(0.0), simd.splat_f32s(6.0));
        if self.activation == Activation::Identity {
            return grad;
        }
        for v in 0..V {
            let y = simd.add_f32s(simd.mul_f32s(x[v], scale[v]), shift[v]);
            grad[v] = simd.select_f32s(simd.greater_than_f32s(y, zero), grad[v], zero);
            if self.activation == Activation::ReLU6 {
                grad[v] = simd.select_f32s(simd.less_than_f32s(y, six), grad[v], zero);
            }
        }
        grad
    }
}

/// Sums over some rows the gradient, and the gradient times the input's distance from the mean.
struct ParameterSums<'a> {
    mask: ActivationMask<'a>,
    mean: &'a [f32],
    input: &'a [f32],
    grad: &'a [f32],
}

impl WithSimd for ParameterSums<'_> {
    type Output = [Vec<f32>; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [Vec<f32>; 2] {
        let channels = self.mean.len();
        let mut sums = [vec![0.0; channels], vec![0.0; channels]];
        for (channel, vectors, lanes) in blocks::<S>(channels) {
            match vectors {
                4 => self.block::<S, 4>(simd, channel, S::F32_LANES, &mut sums),
                2 => self.block::<S, 2>(simd, channel, S::F32_LANES, &mut sums),
                _ => self.block::<S, 1>(simd, channel, lanes, &mut sums),
            }
        }
        sums
    }
}

impl ParameterSums<'_> {
    /// The sums of `V` vectors of channels.
    #[inline(always)]
    fn block<S: Simd, const V: usize>(&self, simd: S, channel: usize, lanes: usize, sums: &mut [Vec<f32>; 2]) {
        let Self { mask, mean, input, grad } = self;
        let Affine { scale, shift } = mask.affine;
        let affine = [scale, shift].map(|of| load_block::<S, V>(simd, of, channel, lanes));
        let middle: [_; V] = load_block(simd, mean, channel, lanes);
        let [mut plain, mut with_input] = [[simd.splat_f32s(0.0); V]; 2];
        for at in (channel..input.len()).step_by(mean.len()) {
            let x = load_block(simd, input, at, lanes);
            let g = mask.apply::<S, V>(simd, affine, x, load_block(simd, grad, at, lanes));
            for v in 0..V {
                plain[v] = simd.add_f32s(plain[v], g[v]);
                with_input[v] = simd.mul_add_e_f32s(g[v], simd.sub_f32s(x[v], middle[v]), with_input[v]);
            }
        }
        for (sums, total) in sums.iter_mut().zip([plain, with_input]) {
            store_block(simd, sums, channel, lanes, total);
        }
    }
}

/// Computes the input gradient of some rows.
struct InputGradient<'a> {
    mask: ActivationMask<'a>,
    coefficients: [&'a [f32]; 3],
    input: &'a [f32],
    target: Target<'a>,
}

impl WithSimd for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let channels = self.mask.affine.scale.len();
        for row in (0..self.input.len()).step_by(channels) {
            for_each_vector!(S, channels, |channel, lanes| self.vector(simd, row, channel, lanes));
        }
    }
}

impl InputGradient<'_> {
    /// One vector of channels in one row.
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, row: usize, channel: usize, lanes: usize) {
        let Self { mask, coefficients: [a, b, c], input, target } = self;
        let at = row + channel;
        let Affine { scale, shift } = mask.affine;
        let affine = [[load(simd, scale, channel, lanes)], [load(simd, shift, channel, lanes)]];
        let x = load(simd, input, at, lanes);
        let grad = match target {
            Target::InPlace(grad) => load(simd, grad, at, lanes),
            Target::Elsewhere { grad, .. } => load(simd, grad, at, lanes),
        };
        let [grad] = mask.apply::<S, 1>(simd, affine, [x], [grad]);
        let [a, b, c] = [load(simd, a, channel, lanes), load(simd, b, channel, lanes), load(simd, c, channel, lanes)];
        let value = simd.mul_add_e_f32s(a, grad, simd.mul_add_e_f32s(b, x, c));
        match target {
            Target::InPlace(grad) => store(simd, grad, at, lanes, value),
            Target::Elsewhere { out, accumulate, .. } => {
                let value = if *accumulate { simd.add_f32s(load(simd, out, at, lanes), value) } else { value };
                store(simd, out, at, lanes, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;
    use regraft_testing::assert_close_to_scale;

    #[test]
    fn parameter_sums_and_input_gradient_equal_definition_at_every_level() {
        // Channels for blocks of 4, 2 and 1 vectors of 16 lanes, and a tail.
        let (rows, channels) = (9, 7 * 16 + 5);
        let [input, grad] = ["x", "g"].map(|name| values(name, rows * channels));
        let affine = &Affine { scale: values("scale", channels), shift: values("shift", channels) };
        let [mean, a, b, c] = ["mean", "a", "b", "c"].map(|name| values(name, channels));
        let mask = ActivationMask { affine, activation: Activation::ReLU };
        let (mut sums, mut combined) = ([vec![0.0; channels], vec![0.0; channels]], Vec::new());
        for (i, (&x, &g)) in input.iter().zip(&grad).enumerate() {
            let i = i % channels;
            let g = if x * affine.scale[i] + affine.shift[i] > 0.0 { g } else { 0.0 };
            sums[0][i] += g;
            sums[1][i] += g * (x - mean[i]);
            combined.push(a[i] * g + b[i] * x + c[i]);
        }
        for level in Level::available() {
            let (input, mut found) = (&input, grad.clone());
            for (sums, expected) in level.run(ParameterSums { mask, mean: &mean, input, grad: &grad }).iter().zip(&sums)
            {
                assert_close_to_scale(&format!("{level:?}: sums"), sums, expected, 1e-6);
            }
            let target = Target::InPlace(&mut found);
            level.run(InputGradient { mask, coefficients: [&a, &b, &c], input, target });
            assert_close_to_scale(&format!("{level:?}: combined"), &found, &combined, 1e-6);
        }
    }
}

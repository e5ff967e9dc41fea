//! Batch normalisation over the channels of NHWC maps: `torch.nn.BatchNorm2d` (Ioffe and Szegedy 2015).
//!
//! All functions treat a map as `[rows, channels]`. Training normalises with the batch's own statistics; a frozen batch
//! norm is the affine function that its running statistics define.

mod backward;
#[cfg(test)]
mod reference;
mod statistics;

use rayon::prelude::*;

use crate::activation::Activation;
use crate::rows::rows_per_piece;
use crate::simd::dispatch;

pub use backward::{Backward, Gradients, Target};
pub use statistics::{Gather, Statistics};

/// A batch norm with given statistics, as `y = x * scale + shift` per channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Affine {
    /// Factor, one per channel.
    pub scale: Vec<f32>,
    /// Summand, one per channel.
    pub shift: Vec<f32>,
}

impl Affine {
    /// The affine function of a batch norm with these parameters and statistics, one value per channel each.
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
///
/// # Shapes
/// `input`, `residual`, `output`: `[rows, channels]`.
///
/// # Panics
/// If the lengths contradict each other.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation;
    use crate::testing::{assert_gradient, dot, values, values_f64};
    use regraft_testing::assert_close_to_scale;

    const EPS: f32 = 1e-5;

    fn f32s(values: &[f64]) -> Vec<f32> {
        values.iter().map(|&x| x as f32).collect()
    }

    #[test]
    fn reference_gradients_equal_differences() {
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
    fn training_equals_reference() {
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
                continue; // the variance is zero, so the gradients are meaningless
            }
            let mut y = vec![0.0; len];
            let affine = Affine::new(&w, &b, &statistics.mean, &statistics.var, EPS);
            forward(&affine, &x, None, Activation::Identity, &mut y);
            // x * scale + shift cancels the offset of 100 in f32: the error is a few times 100 * 6e-8 / 0.58 (std).
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
    fn fused_activation_has_bits_of_separate_one() {
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
    fn gather_refuses_pivot_far_from_mean() {
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
    fn update_running_follows_pytorch() {
        // torch.nn.BatchNorm2d(1, momentum=0.1) on [1, 2, 3]: mean 2, unbiased variance 1.
        let (mut mean, mut var) = ([0.0], [1.0]);
        Statistics::of(&[1.0, 2.0, 3.0], 1).update_running(3, 0.1, &mut mean, &mut var);
        assert!((mean[0] - 0.2f32).abs() < 1e-7 && (var[0] - 1.0f32).abs() < 1e-7, "{mean:?} {var:?}");
    }

    #[test]
    fn frozen_batch_norm_is_affine() {
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

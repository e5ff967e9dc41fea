//! Parameter updates: `torch.optim.SGD` and `torch.optim.AdamW`, one tensor at a time.

use rayon::prelude::*;

use crate::rows::rows_per_piece;
use crate::simd::dispatch;

/// `torch.optim.SGD` without dampening.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f64,
    /// Factor of the momentum buffer.
    pub momentum: f64,
    /// L2 penalty: this times the parameter is added to the gradient.
    pub weight_decay: f64,
    /// Whether to use Nesterov momentum.
    pub nesterov: bool,
}

impl Sgd {
    /// Updates `parameter` and the momentum `buffer`, which is zero before the first step.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn step(&self, parameter: &mut [f32], grad: &[f32], buffer: &mut [f32]) {
        assert!(parameter.len() == grad.len() && parameter.len() == buffer.len());
        let (lr, momentum, decay) = (self.lr as f32, self.momentum as f32, self.weight_decay as f32);
        let piece = rows_per_piece(1);
        let pieces = parameter.par_chunks_mut(piece).zip(grad.par_chunks(piece)).zip(buffer.par_chunks_mut(piece));
        pieces.for_each(|((parameter, grad), buffer)| {
            dispatch(
                #[inline(always)]
                || {
                    for ((p, &g), b) in parameter.iter_mut().zip(grad).zip(buffer) {
                        let g = g + decay * *p;
                        *b = momentum * *b + g;
                        *p -= lr * if self.nesterov { g + momentum * *b } else { *b };
                    }
                },
            );
        });
    }
}

/// `torch.optim.AdamW` (Loshchilov and Hutter 2019).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay rates of the first and second moments.
    pub betas: [f64; 2],
    /// Added to the square root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay: a step shrinks the parameter by `lr * weight_decay`.
    pub weight_decay: f64,
}

impl AdamW {
    /// Updates `parameter` and its `first` and `second` moments, which are zero before the first step.
    ///
    /// `step` counts from 1.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn step(&self, step: u64, parameter: &mut [f32], grad: &[f32], first: &mut [f32], second: &mut [f32]) {
        assert!(parameter.len() == grad.len() && parameter.len() == first.len() && parameter.len() == second.len());
        let correction = self.betas.map(|beta| 1.0 - beta.powf(step as f64));
        let rate = (self.lr / correction[0]) as f32;
        let root_scale = (1.0 / correction[1].sqrt()) as f32;
        let keep = (1.0 - self.lr * self.weight_decay) as f32;
        let [beta1, beta2] = self.betas.map(|beta| beta as f32);
        let [fresh1, fresh2] = self.betas.map(|beta| (1.0 - beta) as f32);
        let eps = self.eps as f32;
        let piece = rows_per_piece(1);
        let moments = first.par_chunks_mut(piece).zip(second.par_chunks_mut(piece));
        let pieces = parameter.par_chunks_mut(piece).zip(grad.par_chunks(piece)).zip(moments);
        pieces.for_each(|((parameter, grad), (first, second))| {
            dispatch(
                #[inline(always)]
                || {
                    for (((p, &g), m), v) in parameter.iter_mut().zip(grad).zip(first).zip(second) {
                        *m = beta1 * *m + fresh1 * g;
                        *v = beta2 * *v + fresh2 * g * g;
                        *p = *p * keep - rate * *m / (v.sqrt() * root_scale + eps);
                    }
                },
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sgd_follows_published_recursion() {
        for nesterov in [false, true] {
            let sgd = Sgd { lr: 0.1, momentum: 0.9, weight_decay: 0.01, nesterov };
            let (mut p, mut buffer) = ([1.0f32], [0.0f32]);
            let (mut p64, mut b64) = (1.0f64, 0.0f64);
            for step in 0..5 {
                let grad = f64::from(step) * 0.3 - 0.5;
                sgd.step(&mut p, &[grad as f32], &mut buffer);
                let g = grad + 0.01 * p64;
                b64 = 0.9 * b64 + g;
                p64 -= 0.1 * if nesterov { g + 0.9 * b64 } else { b64 };
            }
            assert!((f64::from(p[0]) - p64).abs() < 1e-6, "{p:?} {p64}");
        }
    }

    #[test]
    fn adamw_first_step_is_lr_times_sign_of_gradient() {
        let adamw = AdamW { lr: 0.01, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.1 };
        let (mut p, mut m, mut v) = ([2.0f32, 2.0], [0.0f32; 2], [0.0f32; 2]);
        adamw.step(1, &mut p, &[0.003, -50.0], &mut m, &mut v);
        let kept = 2.0 * (1.0 - 0.01 * 0.1);
        assert!((p[0] - (kept - 0.01)).abs() < 1e-5 && (p[1] - (kept + 0.01)).abs() < 1e-5, "{p:?}");
    }
}

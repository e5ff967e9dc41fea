//! Activation functions, which other kernels apply while their result is still in cache.

use rayon::prelude::*;

use crate::rows::rows_per_piece;
use crate::simd::dispatch;

/// An activation whose derivative can be told from its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x`
    Identity,
    /// `max(x, 0)`
    ReLU,
    /// `min(max(x, 0), 6)`
    ReLU6,
}

impl Activation {
    /// Applies the function in place, on the calling thread.
    #[inline(always)]
    pub(crate) fn apply(self, values: &mut [f32]) {
        match self {
            Activation::Identity => {}
            // NaN must stay NaN: a diverged network must show. `f32::max` would hide it.
            Activation::ReLU => values.iter_mut().for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x }),
            Activation::ReLU6 => values.iter_mut().for_each(|x| {
                let y = if *x < 0.0 { 0.0 } else { *x };
                *x = if y > 6.0 { 6.0 } else { y };
            }),
        }
    }
}

impl Activation {
    /// The function of a vector.
    #[inline(always)]
    pub(crate) fn of<S: pulp::Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        let (zero, six) = (simd.splat_f32s(0.0), simd.splat_f32s(6.0));
        // As in `apply`, NaN stays NaN: x86's maximum and minimum give the second of two values if one is NaN, ARM's give
        // NaN. Without vectors they are `f32::max`, which hides it.
        let (above, below) = if S::F32_LANES == 1 {
            (simd.select_f32s(simd.less_than_f32s(x, zero), zero, x), None)
        } else {
            (simd.max_f32s(zero, x), Some(()))
        };
        match (self, below) {
            (Activation::Identity, _) => x,
            (Activation::ReLU, _) => above,
            (Activation::ReLU6, Some(())) => simd.min_f32s(six, above),
            (Activation::ReLU6, None) => simd.select_f32s(simd.greater_than_f32s(above, six), six, above),
        }
    }
}

/// `output = activation(input)`.
pub fn forward(activation: Activation, input: &[f32], output: &mut [f32]) {
    assert_eq!(input.len(), output.len());
    let piece = rows_per_piece(1);
    output.par_chunks_mut(piece).zip(input.par_chunks(piece)).for_each(|(out, x)| {
        dispatch(
            #[inline(always)]
            || {
                out.copy_from_slice(x);
                activation.apply(out);
            },
        );
    });
}

/// Multiplies `grad` by the derivative, told from the activation's `output` (0 at the kinks, as PyTorch has it).
pub fn backward_in_place(activation: Activation, output: &[f32], grad: &mut [f32]) {
    assert_eq!(output.len(), grad.len());
    let piece = rows_per_piece(1);
    grad.par_chunks_mut(piece).zip(output.par_chunks(piece)).for_each(|(grad, y)| mask(activation, y, grad));
}

/// [`backward_in_place`] on the calling thread.
pub(crate) fn mask(activation: Activation, output: &[f32], grad: &mut [f32]) {
    let top = match activation {
        Activation::Identity => return,
        Activation::ReLU => f32::INFINITY,
        Activation::ReLU6 => 6.0,
    };
    dispatch(
        #[inline(always)]
        || {
            for (g, &y) in grad.iter_mut().zip(output) {
                *g = if y > 0.0 && y < top { *g } else { 0.0 };
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_derivatives_at_and_around_the_kinks() {
        let x = [-1.0, -0.0, 0.0, 0.5, 6.0, 7.0];
        let mut y = [0.0; 6];
        forward(Activation::ReLU, &x, &mut y);
        assert_eq!(y, [0.0, 0.0, 0.0, 0.5, 6.0, 7.0]);
        let mut grad = [1.0; 6];
        backward_in_place(Activation::ReLU, &y, &mut grad);
        assert_eq!(grad, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        forward(Activation::ReLU6, &x, &mut y);
        assert_eq!(y, [0.0, 0.0, 0.0, 0.5, 6.0, 6.0]);
        let mut grad = [1.0; 6];
        backward_in_place(Activation::ReLU6, &y, &mut grad);
        assert_eq!(grad, [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    }

    /// A value of each kind, by way of vectors of a level.
    struct OfVector {
        activation: Activation,
        x: f32,
    }

    impl pulp::WithSimd for OfVector {
        type Output = f32;

        fn with_simd<S: pulp::Simd>(self, simd: S) -> f32 {
            let y = self.activation.of(simd, simd.splat_f32s(self.x));
            bytemuck::cast_slice(std::slice::from_ref(&y))[0]
        }
    }

    #[test]
    fn vectors_of_every_level_equal_the_plain_function() {
        for level in crate::simd::Level::available() {
            for activation in [Activation::Identity, Activation::ReLU, Activation::ReLU6] {
                for x in [-1.0, 0.5, 7.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
                    let mut expected = [x];
                    activation.apply(&mut expected);
                    let found = level.run(OfVector { activation, x });
                    let same = found == expected[0] || found.is_nan() && expected[0].is_nan();
                    assert!(same, "{level:?}, {activation:?} of {x}: {found}");
                }
            }
        }
    }

    #[test]
    fn nan_is_not_hidden() {
        let mut y = [0.0];
        forward(Activation::ReLU6, &[f32::NAN], &mut y);
        assert!(y[0].is_nan());
    }
}

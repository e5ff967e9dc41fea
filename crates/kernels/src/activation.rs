//! Activation functions and their gradients. Other kernels apply them while their result is in cache.

use rayon::prelude::*;

use crate::rows::{Threads, rows_per_piece};
use crate::simd::dispatch;

/// An elementwise activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x`
    Identity,
    /// `max(x, 0)`
    ReLU,
    /// `min(max(x, 0), 6)`
    ReLU6,
    /// `x * min(max(x + 3, 0), 6) / 6`
    Hardswish,
    /// `min(max(x + 3, 0), 6) / 6`
    Hardsigmoid,
    /// `x / (1 + exp(-x))`
    SiLU,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `x * (1 + erf(x / sqrt(2))) / 2`
    GELU,
}

impl Activation {
    /// Whether the derivative can be computed from the output, so that the input need not be kept.
    pub(crate) fn derivative_from_output(self) -> bool {
        matches!(self, Activation::Identity | Activation::ReLU | Activation::ReLU6)
    }

    /// The function at `x`. NaN stays NaN, which `f32::max` would drop: divergence must stay visible.
    #[inline(always)]
    pub(crate) fn value(self, x: f32) -> f32 {
        match self {
            Activation::Identity => x,
            Activation::ReLU => above(x, 0.0),
            Activation::ReLU6 => between(x, 0.0, 6.0),
            Activation::Hardswish => x * (between(x + 3.0, 0.0, 6.0) * (1.0 / 6.0)),
            Activation::Hardsigmoid => between(x + 3.0, 0.0, 6.0) * (1.0 / 6.0),
            Activation::SiLU => x / (1.0 + exp(-x)),
            Activation::Sigmoid => 1.0 / (1.0 + exp(-x)),
            Activation::GELU => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
        }
    }

    /// The derivative at `x`; at a kink, PyTorch's value.
    #[inline(always)]
    fn derivative(self, x: f32) -> f32 {
        let inside = |low: f32, high: f32, value: f32| if x > low && x < high { value } else { 0.0 };
        match self {
            Activation::Identity => 1.0,
            Activation::ReLU => inside(0.0, f32::INFINITY, 1.0),
            Activation::ReLU6 => inside(0.0, 6.0, 1.0),
            Activation::Hardswish if x >= 3.0 => 1.0,
            Activation::Hardswish => inside(-3.0, 3.0, x * (1.0 / 3.0) + 0.5),
            Activation::Hardsigmoid => inside(-3.0, 3.0, 1.0 / 6.0),
            Activation::SiLU => {
                let sigmoid = 1.0 / (1.0 + exp(-x));
                sigmoid * (1.0 + x * (1.0 - sigmoid))
            }
            Activation::Sigmoid => {
                let sigmoid = 1.0 / (1.0 + exp(-x));
                sigmoid * (1.0 - sigmoid)
            }
            Activation::GELU => {
                let density =
                    exp(-0.5 * x * x) * (0.5 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2);
                0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)) + x * density
            }
        }
    }

    /// Applies the function in place, on the calling thread.
    #[inline(always)]
    pub(crate) fn apply(self, values: &mut [f32]) {
        // One loop per function keeps the match out of the loops.
        match self {
            Activation::Identity => {}
            Activation::ReLU => values.iter_mut().for_each(|x| *x = Activation::ReLU.value(*x)),
            Activation::ReLU6 => values.iter_mut().for_each(|x| *x = Activation::ReLU6.value(*x)),
            Activation::Hardswish => values.iter_mut().for_each(|x| *x = Activation::Hardswish.value(*x)),
            Activation::Hardsigmoid => values.iter_mut().for_each(|x| *x = Activation::Hardsigmoid.value(*x)),
            Activation::SiLU => values.iter_mut().for_each(|x| *x = Activation::SiLU.value(*x)),
            Activation::Sigmoid => values.iter_mut().for_each(|x| *x = Activation::Sigmoid.value(*x)),
            Activation::GELU => values.iter_mut().for_each(|x| *x = Activation::GELU.value(*x)),
        }
    }

    /// The function of a vector, for kernels that apply it to sums in registers.
    ///
    /// Only for activations with [`derivative_from_output`](Self::derivative_from_output); the code of the others would
    /// spill the sums. Others return `x`.
    #[inline(always)]
    pub(crate) fn value_vector<S: pulp::Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        let (zero, six) = (simd.splat_f32s(0.0), simd.splat_f32s(6.0));
        // Keeps NaN: x86's maximum and minimum return the second operand if one is NaN, ARM's return NaN. The scalar
        // version is `f32::max`, which drops it, so that level compares and selects.
        let (above, below) = if S::F32_LANES == 1 {
            (simd.select_f32s(simd.less_than_f32s(x, zero), zero, x), None)
        } else {
            (simd.max_f32s(zero, x), Some(()))
        };
        match (self, below) {
            (Activation::ReLU, _) => above,
            (Activation::ReLU6, Some(())) => simd.min_f32s(six, above),
            (Activation::ReLU6, None) => simd.select_f32s(simd.greater_than_f32s(above, six), six, above),
            _ => x,
        }
    }
}

/// `max(x, low)`.
#[inline(always)]
fn above(x: f32, low: f32) -> f32 {
    if x < low { low } else { x }
}

/// `min(max(x, low), high)`.
#[inline(always)]
fn between(x: f32, low: f32, high: f32) -> f32 {
    let x = above(x, low);
    if x > high { high } else { x }
}

/// `exp(x)` with a relative error below 2e-7, constant outside ±87.
///
/// Branch-free, so that loops over it vectorise. Method: `2^n * exp(r)` with `|r| <= ln(2) / 2`, and the polynomial of the
/// Cephes library.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // 1.5 * 2^23, where neighbouring floats are 1 apart: adding it rounds and leaves `n` in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let x = between(x, -87.0, 87.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    // ln 2 in two parts; the product with the first is exact.
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        p = p * r + coefficient;
    }
    let power = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    (p * r * r + r + 1.0) * power
}

/// The error function with an absolute error below 5e-7.
///
/// Method: the rational approximation in `x^2` of Eigen and XLA, clamped at ±4, where the function rounds to ±1.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = between(x, -4.0, 4.0);
    let square = x * x;
    let mut above = -2.726_142_4e-10;
    for coefficient in
        [2.770_681_4e-8, -2.101_024e-6, -5.692_506_3e-5, -7.349_906_3e-4, -2.954_598_3e-3, -1.609_603_3e-2]
    {
        above = above * square + coefficient;
    }
    let mut below = -1.456_607_2e-5;
    for coefficient in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2] {
        below = below * square + coefficient;
    }
    x * above / below
}

/// `output = activation(input)`, elementwise.
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

/// Multiplies `grad` by the derivative, computed from the activation's `output` (0 at the kinks, as in PyTorch).
///
/// # Panics
/// If the derivative of `activation` needs the input, which holds for all but identity, ReLU and ReLU6.
pub fn backward_in_place(activation: Activation, output: &[f32], grad: &mut [f32]) {
    assert_eq!(output.len(), grad.len());
    let piece = rows_per_piece(1);
    grad.par_chunks_mut(piece).zip(output.par_chunks(piece)).for_each(|(grad, y)| mask(activation, y, grad));
}

/// Applies the function in place.
pub(crate) fn in_place(threads: Threads, activation: Activation, values: &mut [f32]) {
    threads.for_each(values.par_chunks_mut(rows_per_piece(1)), |values| {
        dispatch(
            #[inline(always)]
            || activation.apply(values),
        );
    });
}

/// Writes `grad` times the derivative at `input` to `target`; with `accumulate`, adds it.
pub fn backward(activation: Activation, input: &[f32], grad: &[f32], accumulate: bool, target: &mut [f32]) {
    assert_eq!((input.len(), grad.len()), (target.len(), target.len()));
    let piece = rows_per_piece(1);
    let pieces = target.par_chunks_mut(piece).zip(input.par_chunks(piece)).zip(grad.par_chunks(piece));
    pieces.for_each(|((target, x), grad)| {
        dispatch(
            #[inline(always)]
            || {
                for ((t, &x), &g) in target.iter_mut().zip(x).zip(grad) {
                    let added = if accumulate { *t } else { 0.0 };
                    *t = added + g * activation.derivative(x);
                }
            },
        );
    });
}

/// [`backward_in_place`] on the calling thread.
pub(crate) fn mask(activation: Activation, output: &[f32], grad: &mut [f32]) {
    let top = match activation {
        Activation::Identity => return,
        Activation::ReLU => f32::INFINITY,
        Activation::ReLU6 => 6.0,
        _ => unreachable!("the derivative of {activation:?} needs its input"),
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
    fn relu_and_relu6_follow_pytorch_at_kinks() {
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

    /// Evaluates `value_vector` at a level.
    struct ValueVector {
        activation: Activation,
        x: f32,
    }

    impl pulp::WithSimd for ValueVector {
        type Output = f32;

        fn with_simd<S: pulp::Simd>(self, simd: S) -> f32 {
            let y = self.activation.value_vector(simd, simd.splat_f32s(self.x));
            bytemuck::cast_slice(std::slice::from_ref(&y))[0]
        }
    }

    #[test]
    fn value_vector_equals_value_at_every_level() {
        for level in crate::simd::Level::available() {
            for activation in ALL.into_iter().filter(|activation| activation.derivative_from_output()) {
                for x in [-1.0, 0.5, 7.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
                    let mut expected = [x];
                    activation.apply(&mut expected);
                    let found = level.run(ValueVector { activation, x });
                    let same = found == expected[0] || found.is_nan() && expected[0].is_nan();
                    assert!(same, "{level:?}, {activation:?} of {x}: {found}");
                }
            }
        }
    }

    const ALL: [Activation; 8] = [
        Activation::Identity,
        Activation::ReLU,
        Activation::ReLU6,
        Activation::Hardswish,
        Activation::Hardsigmoid,
        Activation::SiLU,
        Activation::Sigmoid,
        Activation::GELU,
    ];

    /// The Taylor series of the error function, which converges for every `x` of these tests.
    fn erf_f64(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    fn exact(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Identity => x,
            Activation::ReLU => x.max(0.0),
            Activation::ReLU6 => x.clamp(0.0, 6.0),
            Activation::Hardswish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Activation::Hardsigmoid => (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Activation::SiLU => x / (1.0 + (-x).exp()),
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Activation::GELU => 0.5 * x * (1.0 + erf_f64(x * std::f64::consts::FRAC_1_SQRT_2)),
        }
    }

    /// Values lie within a few `f32` roundings of the `f64` formula, derivatives within those of its central difference,
    /// except at kinks.
    #[test]
    fn value_and_derivative_follow_formulas() {
        for activation in ALL {
            // Beyond ±4.2 the series of the error function loses digits.
            for i in -300..=300 {
                let x = i as f32 * 0.0137 + 0.001;
                let at = f64::from(x);
                let (value, expected) = (f64::from(activation.value(x)), exact(activation, at));
                assert!(
                    (value - expected).abs() < 5e-7 * (1.0 + at.abs()),
                    "{activation:?} of {x}: {value} for {expected}"
                );
                let h = 1e-5;
                let slope = (exact(activation, at + h) - exact(activation, at - h)) / (2.0 * h);
                let derivative = f64::from(activation.derivative(x));
                let kink = [0.0, 6.0, -3.0, 3.0].iter().any(|kink| (at - kink).abs() < 2e-5);
                assert!(kink || (derivative - slope).abs() < 2e-6, "{activation:?} at {x}: {derivative} for {slope}");
            }
            for x in [-200.0, 200.0, f32::MAX, f32::MIN] {
                assert!(!activation.value(x).is_nan() && !activation.derivative(x).is_nan(), "{activation:?} of {x}");
            }
        }
    }

    #[test]
    fn backward_writes_or_accumulates() {
        let (x, g) = ([-1.0, 0.5, 4.0], [1.0, 2.0, 3.0]);
        let mut grad = [f32::NAN; 3];
        backward(Activation::Hardswish, &x, &g, false, &mut grad);
        let expected = [1.0 / 6.0, 2.0 * (0.5 / 3.0 + 0.5), 3.0];
        assert!(grad.iter().zip(expected).all(|(g, e)| (g - e).abs() < 1e-6), "{grad:?}");
        backward(Activation::Hardswish, &x, &g, true, &mut grad);
        assert!(grad.iter().zip(expected).all(|(g, e)| (g - 2.0 * e).abs() < 2e-6), "{grad:?}");
    }

    #[test]
    fn value_and_forward_keep_nan() {
        for activation in ALL {
            assert!(activation.value(f32::NAN).is_nan(), "{activation:?}");
        }
        let mut y = [0.0];
        forward(Activation::ReLU6, &[f32::NAN], &mut y);
        assert!(y[0].is_nan());
    }
}

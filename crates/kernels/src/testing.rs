//! Test helpers: reproducible values and finite differences.

use regraft_random::{Purpose, hash_name, keyed, unit_f32};

/// Pseudorandom values in `[-1, 1)`, seeded by `name` alone.
pub(crate) fn values(name: &str, len: usize) -> Vec<f32> {
    let mut rng = keyed(0, Purpose::Init, hash_name(name), 0);
    (0..len).map(|_| 2.0 * unit_f32(&mut rng) - 1.0).collect()
}

/// [`values`] in `f64`.
pub(crate) fn values_f64(name: &str, len: usize) -> Vec<f64> {
    values(name, len).into_iter().map(f64::from).collect()
}

/// Asserts that `gradient` is the derivative of `loss` at `x`, by central differences in `f64`.
///
/// With a step of 1e-5 the difference quotient of a smooth function of order one has an error of about 1e-10 (truncation)
/// plus 1e-11 (rounding). The tolerance of 1e-7 leaves room for larger third derivatives.
#[track_caller]
pub(crate) fn assert_gradient(what: &str, x: &[f64], gradient: &[f64], mut loss: impl FnMut(&[f64]) -> f64) {
    assert_eq!(x.len(), gradient.len(), "{what}");
    let step = 1e-5;
    let mut moved = x.to_vec();
    for i in 0..x.len() {
        moved[i] = x[i] + step;
        let above = loss(&moved);
        moved[i] = x[i] - step;
        let below = loss(&moved);
        moved[i] = x[i];
        let numeric = (above - below) / (2.0 * step);
        let error = (numeric - gradient[i]).abs();
        assert!(error < 1e-7 * (1.0 + numeric.abs()), "{what}[{i}]: {} but differences give {numeric}", gradient[i]);
    }
}

/// The inner product: a loss whose gradient with respect to `a` is `b`.
pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

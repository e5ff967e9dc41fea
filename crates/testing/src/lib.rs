//! Helpers for Regraft's own tests: comparisons with a stated tolerance, weights by formula, PyTorch's
//! golden values from `reference/`, and the optional shared material (real weights and photos) that some
//! tests use when it is at hand.

pub mod fixture;
pub mod pattern;
pub mod server;
pub mod steps;
pub mod updates;
pub mod zoo;

use std::path::PathBuf;

/// Asserts that `actual` equals `expected` within `tolerance` times the largest expected magnitude.
///
/// A network's outputs have one scale; an error relative to each single element would demand more of
/// the elements that happen to lie near zero than the arithmetic can give.
///
/// # Panics
/// Naming the worst element and both values, if the tolerance is exceeded, a length differs or a
/// value is not finite.
#[track_caller]
pub fn assert_close_to_scale(what: &str, actual: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: lengths differ");
    let scale = expected.iter().fold(f64::MIN_POSITIVE, |m, &x| m.max(f64::from(x).abs()));
    let mut worst = (0usize, 0.0f64);
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(a) - f64::from(e)).abs() / scale;
        if error > worst.1 || !error.is_finite() {
            worst = (i, if error.is_finite() { error } else { f64::INFINITY });
        }
    }
    assert!(
        worst.1 <= tolerance,
        "{what}: element {} is {} where {} was expected: error {:.3e} of the scale {scale:.3e}, allowed {tolerance:.1e}",
        worst.0,
        actual[worst.0],
        expected[worst.0],
        worst.1,
    );
}

/// The path of `relative` in the shared folder beside the checkout, for tests that are ignored unless it is asked for:
/// `#[ignore = "needs ../shared"]`, run by `make shared`.
///
/// # Panics
/// Naming the path, if it is absent.
pub fn shared(relative: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(relative);
    assert!(path.exists(), "this test needs ../shared/{relative}, which is not here");
    path
}

//! The Wilson score interval.

/// The 97.5% quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// The 95% Wilson score interval of a fraction of `successes` out of `n` (Wilson, 1927).
///
/// Unlike the textbook interval it stays within 0 and 1 and keeps a width where every answer was right.
/// `(0, 1)` if `n` is 0: nothing is known.
pub fn wilson(successes: u64, n: u64) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let (p, n) = (successes as f64 / n as f64, n as f64);
    let centre = p + Z * Z / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (((centre - half) / scale).max(0.0), ((centre + half) / scale).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::wilson;

    #[test]
    fn the_ends_solve_the_score_equation() {
        // By definition each end p satisfies (x/n - p)^2 = z^2 p (1 - p) / n.
        for (x, n) in [(1u64, 10u64), (144, 153), (7, 9), (500, 1000)] {
            let (low, high) = wilson(x, n);
            for p in [low, high] {
                let left = (x as f64 / n as f64 - p).powi(2);
                let right = super::Z.powi(2) * p * (1.0 - p) / n as f64;
                assert!((left - right).abs() < 1e-14, "{x} of {n}: {left} and {right}");
            }
            assert!(low < x as f64 / n as f64 && (x as f64 / n as f64) < high);
        }
    }

    #[test]
    fn extremes_stay_within_zero_and_one() {
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        assert_eq!(wilson(0, 20).0, 0.0);
        assert_eq!(wilson(20, 20).1, 1.0);
        assert!(wilson(20, 20).0 > 0.8 && wilson(20, 20).0 < 0.9);
    }
}

//! Whether two classifiers differ by more than chance on the same photos.

/// The two-sided p-value of McNemar's exact test (McNemar 1947): of the photos that only one of two classifiers gets
/// right, `first` and `second` in number, either is as likely if they are equally good.
pub fn mcnemar(first: usize, second: usize) -> f64 {
    let n = first + second;
    // The probability of so few, or fewer, on the side with less: terms of the binomial distribution by their logarithms.
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=first.min(second) {
        if k > 0 {
            log_term += ((n - k + 1) as f64 / k as f64).ln();
        }
        tail += log_term.exp();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::mcnemar;

    #[test]
    fn the_p_value_is_the_binomial_tail() {
        // scipy.stats.binomtest(k, n, 0.5).pvalue
        for (first, second, p) in
            [(0, 0, 1.0), (3, 3, 1.0), (0, 5, 0.0625), (1, 9, 0.021484375), (10, 20, 0.098737146705389)]
        {
            assert!((mcnemar(first, second) - p).abs() < 1e-12, "{first}, {second}: {}", mcnemar(first, second));
            assert_eq!(mcnemar(first, second), mcnemar(second, first));
        }
        let p = mcnemar(3000, 3300);
        assert!(p > 1e-4 && p < 1e-3, "{p}");
    }
}

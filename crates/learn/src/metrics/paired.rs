//! Whether two models differ by more than chance on the same samples.

use rayon::prelude::*;
use regraft_random::{Purpose, Rng, keyed};

use super::mcnemar;

/// Random changes of sign: a p-value of 0.05 is then within 0.004 of the exact one.
const DRAWS: u64 = 10_000;

/// The two-sided p-value of the difference between two models' [scores](super::MetricAccumulator::per_sample) of the same samples.
///
/// Where all scores are 0 or 1 it is McNemar's exact test. Otherwise the mean difference is held against those where each
/// sample's difference has a random sign, as it would if the models were equally good (Fisher 1935): of 10000 draws
/// under `seed` and the actual outcome, the fraction that is as far from 0.
///
/// # Panics
/// If the numbers of scores differ.
pub fn paired_p_value(a: &[f64], b: &[f64], seed: u64) -> f64 {
    assert_eq!(a.len(), b.len(), "scores of the same samples");
    if a.iter().chain(b).all(|&score| score == 0.0 || score == 1.0) {
        let ahead = |a: &[f64], b: &[f64]| a.iter().zip(b).filter(|(a, b)| a > b).count();
        return mcnemar(ahead(a, b), ahead(b, a));
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).filter(|&d| d != 0.0).collect();
    // What rounding may take from a sum that is as large.
    let rounding = 1e-12 * differences.iter().map(|d| d.abs()).sum::<f64>();
    let actual = differences.iter().sum::<f64>().abs() - rounding;
    let as_far = |&number: &u64| {
        let mut rng = keyed(seed, Purpose::SignFlip, number, 0);
        let of_64 = |differences: &[f64]| {
            let signs = rng.next_u64();
            let signed = |(i, d): (usize, &f64)| if signs >> i & 1 == 1 { *d } else { -d };
            differences.iter().enumerate().map(signed).sum::<f64>()
        };
        differences.chunks(64).map(of_64).sum::<f64>().abs() >= actual
    };
    let hits = (0..DRAWS).into_par_iter().filter(as_far).count();
    (1 + hits) as f64 / (1 + DRAWS) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_and_wrong_are_mcnemars() {
        let (a, b) = ([1.0, 1.0, 1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(paired_p_value(&a, &b, 0), mcnemar(4, 0));
        assert_eq!(paired_p_value(&b, &a, 0), mcnemar(0, 4));
    }

    #[test]
    fn the_p_value_is_that_of_all_signs() {
        let a: Vec<f64> = [0.9, 0.4, 0.7, 1.1, 0.3, 0.8, 1.3, 0.2, 0.75, 0.6].to_vec();
        let b: Vec<f64> = [0.5, 0.45, 0.3, 0.8, 0.35, 0.2, 1.0, 0.4, 0.5, 0.55].to_vec();
        let differences: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
        let sum = |signs: u32| -> f64 {
            differences.iter().enumerate().map(|(i, d)| if signs >> i & 1 == 1 { *d } else { -d }).sum()
        };
        let all = (0..1024).filter(|&signs| sum(signs).abs() >= sum(1023) - 1e-12).count();
        let exact = all as f64 / 1024.0;
        let found = paired_p_value(&a, &b, 1);
        // Four standard errors of a fraction of 10000 draws.
        assert!((found - exact).abs() < 4.0 * (exact * (1.0 - exact) / 1e4).sqrt(), "{found} and not {exact}");
        assert_eq!(found, paired_p_value(&b, &a, 1), "two-sided, and the same draws");
        assert_eq!(paired_p_value(&a, &a, 1), 1.0);
    }
}

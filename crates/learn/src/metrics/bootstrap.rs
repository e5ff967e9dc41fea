//! How much a number would vary with other samples of the same sort.

use rayon::prelude::*;
use regraft_random::{Purpose, below, keyed};

/// Resamples: the ends of a 95% interval are then off by some hundredths of its width.
const RESAMPLES: u64 = 1000;

/// The 95% percentile interval of a statistic of `n` samples (Efron 1979): low and high end of what it is where the samples
/// are drawn anew from themselves. `statistic` gets how often each sample was drawn.
///
/// The draws are always the same, for any number of threads.
pub(super) fn interval(n: usize, statistic: impl Fn(&[u32]) -> f64 + Sync) -> [f64; 2] {
    let resample = |number| {
        let mut rng = keyed(0, Purpose::Bootstrap, number, 0);
        let mut counts = vec![0; n];
        (0..n).for_each(|_| counts[below(&mut rng, n as u64) as usize] += 1);
        statistic(&counts)
    };
    let mut found: Vec<f64> = (0..RESAMPLES).into_par_iter().map(resample).collect();
    found.sort_by(f64::total_cmp);
    // Between two of them in proportion, as NumPy's `percentile`.
    let quantile = |q: f64| {
        let place = q * (found.len() - 1) as f64;
        let (low, high) = (found[place.floor() as usize], found[place.ceil() as usize]);
        low + (high - low) * place.fract()
    };
    [quantile(0.025), quantile(0.975)]
}

#[cfg(test)]
mod tests {
    use super::interval;

    #[test]
    fn the_interval_of_a_mean_is_that_of_the_normal_distribution() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 20)).collect();
        let mean = |counts: &[u32]| values.iter().zip(counts).map(|(v, &c)| v * f64::from(c)).sum::<f64>() / 400.0;
        let half = 1.96 * (399.0f64 / 12.0).sqrt() / 20.0;
        let [low, high] = interval(400, mean);
        // 1000 resamples: the ends' own standard error is a tenth of a standard error of the mean.
        assert!((low - 9.5 + half).abs() < 0.1 && (high - 9.5 - half).abs() < 0.1, "{low} to {high}, not {half}");
        assert_eq!([low, high], interval(400, mean));
        assert_eq!(interval(1, |counts| f64::from(counts[0])), [1.0, 1.0]);
    }
}

//! How near the numbers are that samples should give.

use std::fmt::{Display, Formatter, Result};

use serde::{Deserialize, Serialize};

use super::bootstrap;

/// What an evaluation of numbers found; errors are in the numbers' own unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValueEvaluation {
    /// What the number is.
    pub value: String,
    /// Samples evaluated.
    pub n: u64,
    /// Mean absolute error.
    pub mae: f64,
    /// Its 95% bootstrap interval, low and high end.
    pub mae_ci95: [f64; 2],
    /// Root of the mean squared error.
    pub rmse: f64,
    /// Coefficient of determination, the fraction of the variance that is explained: 1 at best, 0 for always giving the
    /// mean, below 0 for worse. Where all numbers are the same, 1 if they were met and else 0, as scikit-learn's `r2_score`.
    pub r2: f64,
    /// Its 95% bootstrap interval, low and high end.
    pub r2_ci95: [f64; 2],
    /// Correlation coefficient (Pearson); 0 where either side is constant.
    pub pearson: f64,
    /// Mean of the answers less that of the true numbers: above 0 if they are too large.
    pub mean_error: f64,
}

/// Every answer so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Pairs {
    /// Answer and true number, `[n]`.
    pairs: Vec<(f64, f64)>,
}

impl Pairs {
    /// Adds one sample; returns its squared error, and the same with the sign of a score.
    pub fn push(&mut self, answer: f64, value: f64) -> (f64, f64) {
        self.pairs.push((answer, value));
        let squared = (answer - value).powi(2);
        (squared, -squared)
    }

    /// The mean over the samples, sample `i` counting `count(i)` times.
    fn mean(&self, count: impl Fn(usize) -> f64, of: impl Fn(f64, f64) -> f64) -> f64 {
        let (mut sum, mut total) = (0.0, 0.0);
        for (i, &(answer, value)) in self.pairs.iter().enumerate() {
            let count = count(i);
            sum += count * of(answer, value);
            total += count;
        }
        sum / total
    }

    pub fn r2(&self) -> f64 {
        self.r2_of(|_| 1.0)
    }

    fn r2_of(&self, count: impl Fn(usize) -> f64) -> f64 {
        let centre = self.mean(&count, |_, value| value);
        let variance = self.mean(&count, |_, value| (value - centre).powi(2));
        let squared = self.mean(&count, |answer, value| (answer - value).powi(2));
        match varies(variance, centre) {
            true => 1.0 - squared / variance,
            false => f64::from(u8::from(squared == 0.0)),
        }
    }

    fn pearson(&self) -> f64 {
        let mean = |of: &dyn Fn(f64, f64) -> f64| self.mean(|_| 1.0, of);
        let (x, y) = (mean(&|answer, _| answer), mean(&|_, value| value));
        let (xx, yy) = (mean(&|answer, _| (answer - x).powi(2)), mean(&|_, value| (value - y).powi(2)));
        let xy = mean(&|answer, value| (answer - x) * (value - y));
        // The roots apart, so that no product of small variances underflows.
        if varies(xx, x) && varies(yy, y) { (xy / xx.sqrt() / yy.sqrt()).clamp(-1.0, 1.0) } else { 0.0 }
    }

    /// The evaluation of the number called `name`.
    pub fn evaluation(&self, name: &str) -> ValueEvaluation {
        let n = self.pairs.len();
        let absolute = |answer: f64, value: f64| (answer - value).abs();
        let count = |counts: &[u32], i: usize| f64::from(counts[i]);
        ValueEvaluation {
            value: name.into(),
            n: n as u64,
            mae: self.mean(|_| 1.0, absolute),
            mae_ci95: bootstrap::interval(n, |counts| self.mean(|i| count(counts, i), absolute)),
            rmse: self.mean(|_| 1.0, |answer, value| (answer - value).powi(2)).sqrt(),
            r2: self.r2(),
            r2_ci95: bootstrap::interval(n, |counts| self.r2_of(|i| count(counts, i))),
            pearson: self.pearson(),
            mean_error: self.mean(|_| 1.0, |answer, value| answer - value),
        }
    }
}

/// Whether numbers around `centre` with this variance are more than one and the same: equal ones may differ from their mean
/// by its rounding, others by 6e-8 of it, being float32.
fn varies(variance: f64, centre: f64) -> bool {
    variance.sqrt() > 1e-12 * centre.abs()
}

impl Display for ValueEvaluation {
    /// Two summary lines, errors with five significant digits whatever their unit.
    fn fmt(&self, f: &mut Formatter) -> Result {
        let ([low, high], [r2_low, r2_high]) = (self.mae_ci95.map(digits), self.r2_ci95);
        writeln!(f, "mean absolute error {} (95% interval {low} to {high}), n {}", digits(self.mae), self.n)?;
        writeln!(
            f,
            "RMSE {}, R2 {:.4} (95% interval {r2_low:.4} to {r2_high:.4}), Pearson r {:.4}, mean error {}",
            digits(self.rmse),
            self.r2,
            self.pearson,
            digits(self.mean_error)
        )
    }
}

/// A number with five significant digits.
fn digits(value: f64) -> String {
    let magnitude = if value == 0.0 || !value.is_finite() { 0 } else { value.abs().log10().floor() as i32 };
    match magnitude {
        -4..=4 => format!("{value:.0$}", (4 - magnitude) as usize),
        5..=14 => format!("{value:.0}"),
        _ => format!("{value:.4e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Error,
        linear::{HeadKind, Targets},
        metrics::{Evaluation, MetricAccumulator},
    };

    /// What `reference/linear/generate.py` computed with scikit-learn and SciPy.
    #[derive(Deserialize)]
    struct Golden {
        answers: Vec<f32>,
        values: Vec<f32>,
        mse: f64,
        mae: f64,
        r2: f64,
        pearson: f64,
        mean_error: f64,
    }

    fn accumulator(answers: &[f32], values: &[f32]) -> MetricAccumulator {
        let mut accumulator = MetricAccumulator::new(HeadKind::Value, 1);
        accumulator.add(answers, Targets::Values(values)).unwrap();
        accumulator
    }

    fn evaluate(answers: &[f32], values: &[f32]) -> ValueEvaluation {
        match accumulator(answers, values).finish(&["age".into()]).unwrap() {
            Evaluation::Values(evaluation) => evaluation,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_number_equals_scikit_learns() {
        #[derive(Deserialize)]
        struct File {
            metrics: Vec<Golden>,
        }
        let file: File = serde_json::from_str(include_str!("../../../../reference/linear/values.json")).unwrap();
        assert_eq!(file.metrics.len(), 3);
        for golden in file.metrics {
            let found = evaluate(&golden.answers, &golden.values);
            // Both sides are float64 and differ by the order of a few sums, relative to the numbers' size.
            let size = golden.values.iter().fold(1.0, |size: f64, &v| size.max(v.abs().into()));
            let close = |a: f64, b: f64, size: f64| assert!((a - b).abs() < 1e-12 * size, "{a} and {b}: {found:?}");
            close(accumulator(&golden.answers, &golden.values).loss(), golden.mse, size * size);
            close(found.rmse, golden.mse.sqrt(), size);
            close(found.mae, golden.mae, size);
            close(found.mean_error, golden.mean_error, size);
            close(found.r2, golden.r2, 1.0);
            close(found.pearson, golden.pearson, 1.0);
            let ([low, high], [r2_low, r2_high]) = (found.mae_ci95, found.r2_ci95);
            assert!(low < found.mae && found.mae < high && r2_low < found.r2 && found.r2 < r2_high, "{found:?}");
        }
    }

    #[test]
    fn constant_numbers_are_met_or_not() {
        assert_eq!(evaluate(&[2.0, 2.0], &[2.0, 2.0]).r2, 1.0);
        // The mean of seven is not exactly one of them.
        assert_eq!(evaluate(&[0.1; 7], &[0.3; 7]).r2, 0.0);
        let missed = evaluate(&[1.0, 3.0], &[2.0, 2.0]);
        assert_eq!((missed.r2, missed.pearson, missed.mae, missed.mean_error), (0.0, 0.0, 1.0, 0.0));
        assert_eq!(accumulator(&[1.0, 4.0], &[2.0, 2.0]).per_sample(), [-1.0, -4.0]);
    }

    #[test]
    fn text_and_json_hold_everything() {
        let found = evaluate(&[20.0, 31.5, 40.0], &[21.0, 30.0, 42.0]);
        let text = found.to_string();
        assert!(
            text.starts_with("mean absolute error 1.5000 (95% interval 1.0000 to 2.0000), n 3\nRMSE 1.5546, R2 0.")
        );
        assert!(text.ends_with("mean error -0.50000\n"), "{text}");
        let json = serde_json::to_string(&Evaluation::Values(found.clone())).unwrap();
        assert_eq!(serde_json::from_str::<Evaluation>(&json).unwrap(), Evaluation::Values(found));
        assert_eq!([digits(1234567.0), digits(0.0), digits(3e-9)], ["1234567", "0.0000", "3.0000e-9"]);
    }

    #[test]
    fn a_number_that_is_none_is_refused() {
        let mut accumulator = MetricAccumulator::new(HeadKind::Value, 1);
        let bad = accumulator.add(&[0.0, 0.0], Targets::Values(&[1.0, f32::NAN]));
        assert!(matches!(bad, Err(Error::Value { sample: 1, .. })));
        assert!(matches!(accumulator.add(&[f32::NAN], Targets::Values(&[1.0])), Err(Error::Diverged { .. })));
        assert_eq!(accumulator.score(), 0.0);
    }
}

//! The linear head that a fit returns, and the probabilities it stands for.

use serde::{Deserialize, Serialize};

/// What the logits of a linear head mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadKind {
    /// Multinomial: probabilities are the softmax of the logits.
    Softmax,
    /// One-vs-rest: each logit is a binary decision, "this class or not".
    Ovr,
    /// Each logit is a yes/no question of its own: a sample may have any number of the labels.
    Labels,
    /// The output is a number.
    Value,
}

/// Short names of the scores that a head is judged by, as columns of a table carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// In training, where it is summed up step by step.
    pub train: &'static str,
    /// In validation, where all answers are known: [`MetricAccumulator::score`](crate::metrics::MetricAccumulator::score).
    pub val: &'static str,
}

impl HeadKind {
    /// What scores of this kind of head are called: `acc` is the accuracy (of labels, the fraction of their decisions that
    /// are right), `map` the mean average precision, `r2` the coefficient of determination.
    pub fn metric(self) -> Metric {
        match self {
            Self::Softmax | Self::Ovr => Metric { train: "acc", val: "acc" },
            Self::Labels => Metric { train: "acc", val: "map" },
            Self::Value => Metric { train: "r2", val: "r2" },
        }
    }
}

/// A linear head: `logits = weight * features + bias`, an ordinary `fc` layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearHead {
    /// Weights, `[classes, dim]`, row after row, as `torch.nn.Linear` keeps them.
    pub weight: Vec<f32>,
    /// Biases, `[classes]`.
    pub bias: Vec<f32>,
    /// What the logits mean.
    pub kind: HeadKind,
}

impl LinearHead {
    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.bias.len()
    }

    /// The number of features it expects.
    pub fn dim(&self) -> usize {
        self.weight.len() / self.bias.len()
    }

    /// The logits of one sample, `[classes]`, summed in float64.
    ///
    /// # Panics
    /// If `features` does not hold [`dim`](Self::dim) values.
    pub fn logits(&self, features: &[f32]) -> Vec<f64> {
        assert_eq!(features.len(), self.dim(), "features per sample");
        let dot = |row: &[f32]| row.iter().zip(features).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>();
        self.weight.chunks_exact(self.dim()).zip(&self.bias).map(|(row, &b)| dot(row) + f64::from(b)).collect()
    }
}

/// The class probabilities that one sample's `logits` stand for. They sum to 1, but for [`HeadKind::Labels`], where each
/// is the sigmoid of its logit, whatever the others are.
///
/// For [`HeadKind::Ovr`] the per-class sigmoids are divided by their sum, as scikit-learn's
/// `OneVsRestClassifier.predict_proba` does, so that both kinds of head report the same sort of number.
///
/// # Panics
/// For [`HeadKind::Value`]: a number is not a probability of anything.
pub fn probabilities(kind: HeadKind, logits: &[f64]) -> Vec<f64> {
    log_probabilities(kind, logits).iter().map(|l| l.exp()).collect()
}

/// The natural logarithms of [`probabilities`]; finite for finite logits, even where a probability is too
/// small for float64.
///
/// # Panics
/// As [`probabilities`].
pub fn log_probabilities(kind: HeadKind, logits: &[f64]) -> Vec<f64> {
    let logs: Vec<f64> = match kind {
        HeadKind::Softmax => logits.to_vec(),
        HeadKind::Ovr | HeadKind::Labels => logits.iter().map(|&z| -softplus(-z)).collect(),
        HeadKind::Value => panic!("a number has no probabilities"),
    };
    if kind == HeadKind::Labels {
        return logs;
    }
    let max = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total = max + logs.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
    logs.iter().map(|l| l - total).collect()
}

/// `ln(1 + exp(z))` without overflow, also the binary log loss of logit `-z`.
pub(crate) fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_even_for_extreme_logits() {
        for kind in [HeadKind::Softmax, HeadKind::Ovr] {
            for logits in [vec![0.0, 1.0, -2.0], vec![-900.0, -901.0], vec![900.0, -900.0, 900.0]] {
                let p = probabilities(kind, &logits);
                assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{kind:?} {logits:?}: {p:?}");
            }
        }
        assert_eq!(probabilities(HeadKind::Ovr, &[0.0, 0.0]), [0.5, 0.5]);
    }

    #[test]
    fn probabilities_of_labels_are_sigmoids_of_their_own() {
        assert_eq!(probabilities(HeadKind::Labels, &[0.0, 0.0, 800.0]), [0.5, 0.5, 1.0]);
        // The exponential of -30 is its own sigmoid within 1e-13 of it.
        assert!((log_probabilities(HeadKind::Labels, &[-30.0, 5.0])[0] + 30.0).abs() < 1e-12);
        assert_eq!(log_probabilities(HeadKind::Labels, &[-800.0]), [-800.0]);
    }

    #[test]
    fn one_vs_rest_probabilities_are_normalised_sigmoids() {
        let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
        let logits = [0.3, -1.2, 2.0];
        let sum: f64 = logits.iter().map(|&z| sigmoid(z)).sum();
        for (p, z) in probabilities(HeadKind::Ovr, &logits).iter().zip(logits) {
            assert!((p - sigmoid(z) / sum).abs() < 1e-15);
        }
    }
}

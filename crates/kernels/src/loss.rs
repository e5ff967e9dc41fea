//! Softmax cross-entropy: `torch.nn.functional.cross_entropy` with class weights and label smoothing.

/// What rows of logits should have given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Labels<'a> {
    /// The class of each row.
    Classes(&'a [usize]),
    /// The probability of every class in each row: `[rows, classes]`, row-major, those of a row adding up to one.
    Probabilities(&'a [f32]),
}

impl Labels<'_> {
    /// How many rows of `classes` logits they are for; `None` if not for a whole number.
    pub fn rows(&self, classes: usize) -> Option<usize> {
        match self {
            Labels::Classes(labels) => Some(labels.len()),
            Labels::Probabilities(targets) => targets.len().is_multiple_of(classes).then(|| targets.len() / classes),
        }
    }
}

/// How the loss is formed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CrossEntropy<'a> {
    /// Share of the target spread evenly over all classes (Szegedy et al. 2016).
    pub label_smoothing: f64,
    /// Weight of each class; all 1 without.
    pub class_weights: Option<&'a [f32]>,
}

/// The loss of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// Sum over the samples of their weighted losses; divided by `weight` it is PyTorch's mean.
    pub sum: f64,
    /// Sum of the weights of the samples' classes; without class weights, or with probabilities, the samples' number.
    pub weight: f64,
}

impl Loss {
    /// The weighted mean, as PyTorch reports it.
    pub fn mean(&self) -> f64 {
        self.sum / self.weight
    }
}

/// The logarithms of the softmax of one row of logits.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
    let log_sum = top + logits.iter().map(|&x| (f64::from(x) - top).exp()).sum::<f64>().ln();
    logits.iter().map(|&x| f64::from(x) - log_sum).collect()
}

impl CrossEntropy<'_> {
    /// The loss of rows of `classes` logits, and into `grad` (if given) the gradient of the *mean* loss. As in PyTorch,
    /// the mean is over the weights of the labels' classes, or over the rows where labels are probabilities.
    ///
    /// # Panics
    /// If a label is not below `classes` or a length does not fit.
    pub fn evaluate(&self, logits: &[f32], classes: usize, labels: Labels, mut grad: Option<&mut [f32]>) -> Loss {
        let rows = logits.len() / classes;
        assert_eq!((labels.rows(classes), rows * classes), (Some(rows), logits.len()), "one row of logits a label");
        let weight_of = |class: usize| self.class_weights.map_or(1.0, |w| f64::from(w[class]));
        let weight: f64 = match labels {
            Labels::Classes(labels) => labels.iter().map(|&label| weight_of(label)).sum(),
            Labels::Probabilities(_) => rows as f64,
        };
        let spread = self.label_smoothing / classes as f64;
        let mut sum = 0.0;
        for (i, row) in logits.chunks_exact(classes).enumerate() {
            let log_p = log_softmax(row);
            // Each class pulls with its share of the target times its weight.
            let mut pull: Vec<f64> = (0..classes).map(|c| spread * weight_of(c)).collect();
            let mut pull_to = |class: usize, p: f64| pull[class] += (1.0 - self.label_smoothing) * p * weight_of(class);
            match labels {
                Labels::Classes(labels) => pull_to(labels[i], 1.0),
                Labels::Probabilities(targets) => {
                    targets[i * classes..][..classes].iter().enumerate().for_each(|(c, &p)| pull_to(c, p.into()));
                }
            }
            sum -= pull.iter().zip(&log_p).filter(|(p, _)| **p != 0.0).map(|(p, l)| p * l).sum::<f64>();
            if let Some(grad) = grad.as_deref_mut() {
                let total: f64 = pull.iter().sum();
                for (c, g) in grad[i * classes..][..classes].iter_mut().enumerate() {
                    *g = ((total * log_p[c].exp() - pull[c]) / weight) as f32;
                }
            }
        }
        Loss { sum, weight }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    #[test]
    fn the_gradient_is_the_derivative_of_the_mean() {
        let weights = [0.5, 2.0, 1.0, 3.0];
        for class_weights in [None, Some(&weights[..])] {
            for label_smoothing in [0.0, 0.1] {
                let loss = CrossEntropy { label_smoothing, class_weights };
                let logits = values("logits", 12);
                let probabilities = [0.1, 0.2, 0.3, 0.4, 0.0, 1.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.5];
                for labels in [Labels::Classes(&[2, 0, 3]), Labels::Probabilities(&probabilities)] {
                    let mut grad = vec![0.0; 12];
                    loss.evaluate(&logits, 4, labels, Some(&mut grad));
                    for i in 0..12 {
                        let at = |step: f32| {
                            let mut moved = logits.clone();
                            moved[i] += step;
                            (loss.evaluate(&moved, 4, labels, None).mean(), f64::from(moved[i]))
                        };
                        let ((above, x1), (below, x0)) = (at(1e-3), at(-1e-3));
                        // Inputs are f32, the loss is f64: the quotient's own error is 1e-6 / 6.
                        let slope = (above - below) / (x1 - x0);
                        assert!((slope - f64::from(grad[i])).abs() < 1e-6, "{loss:?} {labels:?} {i}");
                    }
                }
            }
        }
    }

    #[test]
    fn certain_probabilities_are_classes() {
        let (logits, certain) = (values("logits", 8), [0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        let loss = CrossEntropy { label_smoothing: 0.1, class_weights: None };
        let (mut soft, mut hard) = ([0.0; 8], [0.0; 8]);
        let of_soft = loss.evaluate(&logits, 4, Labels::Probabilities(&certain), Some(&mut soft));
        let of_hard = loss.evaluate(&logits, 4, Labels::Classes(&[2, 0]), Some(&mut hard));
        assert_eq!((of_soft, soft), (of_hard, hard));
    }

    #[test]
    fn huge_logits_stay_finite() {
        let mut grad = [0.0; 2];
        let loss = CrossEntropy::default().evaluate(&[1e30, -1e30], 2, Labels::Classes(&[0]), Some(&mut grad));
        assert_eq!((loss.mean(), grad), (0.0, [0.0, 0.0]));
        // log-sum-exp near 1000 carries an error of 1000 * 1e-16.
        assert!(log_softmax(&[1000.0, 1000.0]).iter().all(|log_p| (log_p - 0.5f64.ln()).abs() < 1e-12));
    }
}

//! Losses and their gradients: cross-entropy, binary cross-entropy and squared error.

mod cross_entropy;
mod elementwise;

/// The targets of a batch, one row per sample, and with them the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Labels<'a> {
    /// Class indices, `[rows]`: softmax cross-entropy.
    Classes(&'a [usize]),
    /// Class probabilities, `[rows, classes]`, where each row sums to one: softmax cross-entropy.
    Probabilities(&'a [f32]),
    /// Independent binary targets from 0 to 1, `[rows, classes]`: binary cross-entropy, averaged over a row.
    Binary(&'a [f32]),
    /// Regression targets, `[rows, outputs]`: squared error, averaged over a row.
    Values(&'a [f32]),
}

impl Labels<'_> {
    /// Number of rows, given `classes` outputs per row. `None` if the length is not a multiple of `classes`.
    pub fn rows(&self, classes: usize) -> Option<usize> {
        match self {
            Labels::Classes(labels) => Some(labels.len()),
            Labels::Probabilities(targets) | Labels::Binary(targets) | Labels::Values(targets) => {
                targets.len().is_multiple_of(classes).then(|| targets.len() / classes)
            }
        }
    }
}

/// Settings of the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Criterion<'a> {
    /// Share of the target spread evenly over all classes (Szegedy et al. 2016), for binary targets over 0 and 1.
    /// Regression ignores it.
    pub label_smoothing: f64,
    /// Weight of each class, for binary targets PyTorch's `pos_weight`; all 1 if `None`. Regression ignores it.
    pub class_weights: Option<&'a [f32]>,
}

/// The loss of a batch, as a weighted sum and its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// Sum of the samples' weighted losses. `sum / weight` is PyTorch's mean.
    pub sum: f64,
    /// Sum of the weights of the samples' classes. Without class weights, or for other labels than classes, the number of
    /// samples.
    pub weight: f64,
}

impl Loss {
    /// The weighted mean, as PyTorch reports it.
    #[cfg(test)]
    fn mean(&self) -> f64 {
        self.sum / self.weight
    }
}

impl Criterion<'_> {
    /// The loss of `outputs`, `[rows, classes]`; writes the gradient of the *mean* loss to `grad`, if given.
    ///
    /// # Panics
    /// If a class index is not below `classes`, or the lengths contradict each other.
    pub fn evaluate(&self, outputs: &[f32], classes: usize, labels: Labels, grad: Option<&mut [f32]>) -> Loss {
        let rows = outputs.len() / classes;
        assert_eq!((labels.rows(classes), rows * classes), (Some(rows), outputs.len()), "one row of outputs a label");
        match labels {
            Labels::Classes(_) | Labels::Probabilities(_) => {
                cross_entropy::evaluate(self, outputs, classes, labels, grad)
            }
            Labels::Binary(targets) => {
                elementwise::evaluate(outputs, classes, targets, grad, |c, z, y| self.binary(c, z, y))
            }
            Labels::Values(targets) => {
                elementwise::evaluate(outputs, classes, targets, grad, |_, z, y| elementwise::squared(z, y))
            }
        }
    }

    /// Weight of a class, 1 without class weights.
    fn weight_of(&self, class: usize) -> f64 {
        self.class_weights.map_or(1.0, |weights| f64::from(weights[class]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    #[test]
    fn evaluate_gradient_equals_differences_of_mean() {
        let weights = [0.5, 2.0, 1.0, 3.0];
        for class_weights in [None, Some(&weights[..])] {
            for label_smoothing in [0.0, 0.1] {
                let loss = Criterion { label_smoothing, class_weights };
                let logits = values("logits", 12);
                let probabilities = [0.1, 0.2, 0.3, 0.4, 0.0, 1.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.5];
                let numbers = values("numbers", 12);
                for labels in [
                    Labels::Classes(&[2, 0, 3]),
                    Labels::Probabilities(&probabilities),
                    Labels::Binary(&probabilities),
                    Labels::Values(&numbers),
                ] {
                    let mut grad = vec![0.0; 12];
                    loss.evaluate(&logits, 4, labels, Some(&mut grad));
                    for i in 0..12 {
                        let at = |step: f32| {
                            let mut moved = logits.clone();
                            moved[i] += step;
                            (loss.evaluate(&moved, 4, labels, None).mean(), f64::from(moved[i]))
                        };
                        let ((above, x1), (below, x0)) = (at(1e-3), at(-1e-3));
                        // The inputs are f32, the loss is f64: the truncation error of the quotient is 1e-6 / 6.
                        let slope = (above - below) / (x1 - x0);
                        assert!((slope - f64::from(grad[i])).abs() < 1e-6, "{loss:?} {labels:?} {i}");
                    }
                }
            }
        }
    }
}

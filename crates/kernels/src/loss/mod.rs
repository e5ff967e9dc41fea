//! What a network's outputs are held against, and how a miss is counted.

mod cross_entropy;
mod elementwise;

/// What rows of outputs should have given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Labels<'a> {
    /// The class of each row: softmax cross-entropy.
    Classes(&'a [usize]),
    /// The probability of every class in each row: `[rows, classes]`, row-major, those of a row adding up to one. Softmax
    /// cross-entropy.
    Probabilities(&'a [f32]),
    /// The answers to independent yes/no questions, 0 to 1: `[rows, classes]`, row-major. Binary cross-entropy, a row's
    /// loss being the mean over its questions.
    Binary(&'a [f32]),
    /// Numbers: `[rows, outputs]`, row-major. Squared error, a row's loss being the mean over its outputs.
    Values(&'a [f32]),
}

impl Labels<'_> {
    /// How many rows of `classes` outputs they are for; `None` if not for a whole number.
    pub fn rows(&self, classes: usize) -> Option<usize> {
        match self {
            Labels::Classes(labels) => Some(labels.len()),
            Labels::Probabilities(targets) | Labels::Binary(targets) | Labels::Values(targets) => {
                targets.len().is_multiple_of(classes).then(|| targets.len() / classes)
            }
        }
    }
}

/// How the loss is formed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Criterion<'a> {
    /// Share of the target spread evenly over all classes (Szegedy et al. 2016), of a yes/no question's over both answers.
    /// Numbers have none.
    pub label_smoothing: f64,
    /// Weight of each class, of a yes/no question that of the yes (PyTorch's `pos_weight`); all 1 without. Numbers have
    /// none.
    pub class_weights: Option<&'a [f32]>,
}

/// The loss of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// Sum over the samples of their weighted losses; divided by `weight` it is PyTorch's mean.
    pub sum: f64,
    /// Sum of the weights of the samples' classes; without class weights, or where labels are not classes, the samples'
    /// number.
    pub weight: f64,
}

impl Loss {
    /// The weighted mean, as PyTorch reports it.
    pub fn mean(&self) -> f64 {
        self.sum / self.weight
    }
}

impl Criterion<'_> {
    /// The loss of rows of `classes` outputs, and into `grad` (if given) the gradient of the *mean* loss.
    ///
    /// # Panics
    /// If a label is not below `classes` or a length does not fit.
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

    fn weight_of(&self, class: usize) -> f64 {
        self.class_weights.map_or(1.0, |weights| f64::from(weights[class]))
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
                        // Inputs are f32, the loss is f64: the quotient's own error is 1e-6 / 6.
                        let slope = (above - below) / (x1 - x0);
                        assert!((slope - f64::from(grad[i])).abs() < 1e-6, "{loss:?} {labels:?} {i}");
                    }
                }
            }
        }
    }
}

//! Softmax cross-entropy: `torch.nn.functional.cross_entropy` with class weights and label smoothing.

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
    /// Sum of the samples' weights: their number, without class weights.
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
    /// The loss of rows of `classes` logits, and into `grad` (if given) the gradient of the *mean* loss.
    ///
    /// # Panics
    /// If a label is not below `classes` or a length does not fit.
    pub fn evaluate(&self, logits: &[f32], classes: usize, labels: &[usize], mut grad: Option<&mut [f32]>) -> Loss {
        assert_eq!(logits.len(), labels.len() * classes, "one row of logits a label");
        let weight_of = |class: usize| self.class_weights.map_or(1.0, |w| f64::from(w[class]));
        let weight: f64 = labels.iter().map(|&label| weight_of(label)).sum();
        let spread = self.label_smoothing / classes as f64;
        let mut sum = 0.0;
        for (i, (row, &label)) in logits.chunks_exact(classes).zip(labels).enumerate() {
            let log_p = log_softmax(row);
            // Each class pulls with its share of the target times its weight.
            let mut pull: Vec<f64> = (0..classes).map(|c| spread * weight_of(c)).collect();
            pull[label] += (1.0 - self.label_smoothing) * weight_of(label);
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
                let (logits, labels) = (values("logits", 12), [2, 0, 3]);
                let mut grad = vec![0.0; 12];
                loss.evaluate(&logits, 4, &labels, Some(&mut grad));
                for i in 0..12 {
                    let at = |step: f32| {
                        let mut moved = logits.clone();
                        moved[i] += step;
                        (loss.evaluate(&moved, 4, &labels, None).mean(), f64::from(moved[i]))
                    };
                    let ((above, x1), (below, x0)) = (at(1e-3), at(-1e-3));
                    // Inputs are f32, the loss is f64: the quotient's own error is 1e-6 / 6.
                    assert!(((above - below) / (x1 - x0) - f64::from(grad[i])).abs() < 1e-6, "{loss:?} {i}");
                }
            }
        }
    }

    #[test]
    fn huge_logits_stay_finite() {
        let mut grad = [0.0; 2];
        let loss = CrossEntropy::default().evaluate(&[1e30, -1e30], 2, &[0], Some(&mut grad));
        assert_eq!((loss.mean(), grad), (0.0, [0.0, 0.0]));
        // log-sum-exp near 1000 carries an error of 1000 * 1e-16.
        assert!(log_softmax(&[1000.0, 1000.0]).iter().all(|log_p| (log_p - 0.5f64.ln()).abs() < 1e-12));
    }
}

//! Elementwise losses: binary cross-entropy and squared error.

use super::{Criterion, Loss};

/// Squared error of one output and its derivative: `torch.nn.MSELoss`.
pub(super) fn squared(output: f64, target: f64) -> (f64, f64) {
    let error = output - target;
    (error * error, 2.0 * error)
}

impl Criterion<'_> {
    /// Binary cross-entropy of one logit and its derivative, with the class weight as `pos_weight`:
    /// `torch.nn.BCEWithLogitsLoss`.
    pub(super) fn binary(&self, class: usize, logit: f64, target: f64) -> (f64, f64) {
        let target = target * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing;
        let (positive, negative) = (target * self.weight_of(class), 1.0 - target);
        // The two terms are computed separately, so that nothing cancels for large logits.
        (
            positive * softplus(-logit) + negative * softplus(logit),
            negative * sigmoid(logit) - positive * sigmoid(-logit),
        )
    }
}

/// The loss of `outputs`, `[rows, per_row]`, where `element(column, output, target)` returns one element's loss and
/// derivative.
///
/// A row's loss is the mean over its elements, so the mean over rows is PyTorch's mean over all elements.
pub(super) fn evaluate(
    outputs: &[f32],
    per_row: usize,
    targets: &[f32],
    mut grad: Option<&mut [f32]>,
    element: impl Fn(usize, f64, f64) -> (f64, f64),
) -> Loss {
    let mut total = 0.0;
    for (i, (&output, &target)) in outputs.iter().zip(targets).enumerate() {
        let (loss, slope) = element(i % per_row, output.into(), target.into());
        total += loss;
        if let Some(grad) = grad.as_deref_mut() {
            grad[i] = (slope / outputs.len() as f64) as f32;
        }
    }
    Loss { sum: total / per_row as f64, weight: (outputs.len() / per_row) as f64 }
}

/// `ln(1 + exp(z))`, without overflow.
fn softplus(z: f64) -> f64 {
    z.max(0.0) + (-z.abs()).exp().ln_1p()
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

#[cfg(test)]
mod tests {
    use crate::loss::{Criterion, Labels};

    #[test]
    fn huge_logits_stay_finite() {
        let mut grad = [0.0; 4];
        let logits = [1e30, -1e30, 1e30, -1e30];
        let right = Labels::Binary(&[1.0, 0.0, 1.0, 0.0]);
        let loss = Criterion::default().evaluate(&logits, 2, right, Some(&mut grad));
        assert_eq!((loss.mean(), grad), (0.0, [0.0; 4]));
        let wrong = Labels::Binary(&[0.0, 1.0, 0.0, 1.0]);
        let loss = Criterion::default().evaluate(&logits, 2, wrong, Some(&mut grad));
        assert_eq!((loss.mean(), grad), (f64::from(1e30f32), [0.25, -0.25, 0.25, -0.25]));
    }

    #[test]
    fn binary_equals_cross_entropy_of_two_classes() {
        // The sigmoid of z is the softmax of (0, z).
        let loss = Criterion::default();
        for z in [-3.0, 0.5, 20.0] {
            for class in [0, 1] {
                let binary = loss.evaluate(&[z], 1, Labels::Binary(&[class as f32]), None);
                let classes = loss.evaluate(&[0.0, z], 2, Labels::Classes(&[class]), None);
                // Both are f64; log-sum-exp has an error of about 1e-16 times the largest logit.
                assert!((binary.mean() - classes.mean()).abs() < 1e-14, "{z} {class}");
            }
        }
    }

    #[test]
    fn squared_error_ignores_weights_and_smoothing() {
        let plain = Criterion::default();
        let other = Criterion { label_smoothing: 0.3, class_weights: Some(&[5.0, 0.1]) };
        let targets = Labels::Values(&[1.0, 2.0, 0.0, -1.0]);
        let found = plain.evaluate(&[1.5, 2.0, 3.0, -1.0], 2, targets, None);
        assert_eq!((found.sum, found.weight), (0.125 + 4.5, 2.0));
        assert_eq!(found, other.evaluate(&[1.5, 2.0, 3.0, -1.0], 2, targets, None));
    }
}

//! Losses to which each output contributes alone: yes/no questions and numbers.

use super::{Criterion, Loss};

/// A number's miss: `torch.nn.MSELoss`. The loss of an output and its derivative.
pub(super) fn squared(output: f64, target: f64) -> (f64, f64) {
    let miss = output - target;
    (miss * miss, 2.0 * miss)
}

impl Criterion<'_> {
    /// A yes/no question: `torch.nn.BCEWithLogitsLoss`, the class's weight being its `pos_weight`. The loss of a logit and
    /// its derivative, for the probability `target` of a yes.
    pub(super) fn binary(&self, class: usize, logit: f64, target: f64) -> (f64, f64) {
        let target = target * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing;
        let (yes, no) = (target * self.weight_of(class), 1.0 - target);
        // Both sides by themselves: nothing cancels where the answer is nearly certain.
        (yes * softplus(-logit) + no * softplus(logit), no * sigmoid(logit) - yes * sigmoid(-logit))
    }
}

/// The loss of rows of `outputs` numbers: `of(place in the row, output, target)` gives that of one and its derivative, a
/// row's is the mean. The mean over the rows is PyTorch's over all elements.
pub(super) fn evaluate(
    outputs: &[f32],
    per_row: usize,
    targets: &[f32],
    mut grad: Option<&mut [f32]>,
    of: impl Fn(usize, f64, f64) -> (f64, f64),
) -> Loss {
    let mut total = 0.0;
    for (i, (&output, &target)) in outputs.iter().zip(targets).enumerate() {
        let (loss, slope) = of(i % per_row, output.into(), target.into());
        total += loss;
        if let Some(grad) = grad.as_deref_mut() {
            grad[i] = (slope / outputs.len() as f64) as f32;
        }
    }
    Loss { sum: total / per_row as f64, weight: (outputs.len() / per_row) as f64 }
}

/// `ln(1 + exp(z))` without overflow.
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
    fn a_question_alone_is_answered_as_one_of_two_classes() {
        // The sigmoid of z is the softmax of (0, z).
        let loss = Criterion::default();
        for z in [-3.0, 0.5, 20.0] {
            for yes in [0, 1] {
                let binary = loss.evaluate(&[z], 1, Labels::Binary(&[yes as f32]), None);
                let classes = loss.evaluate(&[0.0, z], 2, Labels::Classes(&[yes]), None);
                // Both in f64; log-sum-exp loses what is below 1e-16 of the largest logit.
                assert!((binary.mean() - classes.mean()).abs() < 1e-14, "{z} {yes}");
            }
        }
    }

    #[test]
    fn numbers_heed_neither_weights_nor_smoothing() {
        let plain = Criterion::default();
        let other = Criterion { label_smoothing: 0.3, class_weights: Some(&[5.0, 0.1]) };
        let targets = Labels::Values(&[1.0, 2.0, 0.0, -1.0]);
        let found = plain.evaluate(&[1.5, 2.0, 3.0, -1.0], 2, targets, None);
        assert_eq!((found.sum, found.weight), (0.125 + 4.5, 2.0));
        assert_eq!(found, other.evaluate(&[1.5, 2.0, 3.0, -1.0], 2, targets, None));
    }
}

//! Softmax cross-entropy: `torch.nn.functional.cross_entropy` with class weights and label smoothing.

use super::{Criterion, Labels, Loss};

/// Log-softmax of one row of logits.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
    let log_sum = top + logits.iter().map(|&x| (f64::from(x) - top).exp()).sum::<f64>().ln();
    logits.iter().map(|&x| f64::from(x) - log_sum).collect()
}

/// The loss of `logits`, `[rows, classes]`, for labels that are classes or probabilities.
///
/// As in PyTorch, the weight is the sum of the labels' class weights, or the number of rows for probabilities.
pub(super) fn evaluate(
    criterion: &Criterion,
    logits: &[f32],
    classes: usize,
    labels: Labels,
    mut grad: Option<&mut [f32]>,
) -> Loss {
    let Criterion { label_smoothing, .. } = *criterion;
    let weight_of = |class| criterion.weight_of(class);
    let weight: f64 = match labels {
        Labels::Classes(labels) => labels.iter().map(|&label| weight_of(label)).sum(),
        _ => (logits.len() / classes) as f64,
    };
    let spread = label_smoothing / classes as f64;
    let mut sum = 0.0;
    for (i, row) in logits.chunks_exact(classes).enumerate() {
        let log_p = log_softmax(row);
        // The target of each class times its weight.
        let mut target: Vec<f64> = (0..classes).map(|c| spread * weight_of(c)).collect();
        let mut add = |class: usize, p: f64| target[class] += (1.0 - label_smoothing) * p * weight_of(class);
        match labels {
            Labels::Classes(labels) => add(labels[i], 1.0),
            Labels::Probabilities(probabilities) => {
                probabilities[i * classes..][..classes].iter().enumerate().for_each(|(c, &p)| add(c, p.into()));
            }
            Labels::Binary(_) | Labels::Values(_) => unreachable!("no targets of cross-entropy"),
        }
        sum -= target.iter().zip(&log_p).filter(|(p, _)| **p != 0.0).map(|(p, l)| p * l).sum::<f64>();
        if let Some(grad) = grad.as_deref_mut() {
            let total: f64 = target.iter().sum();
            for (c, g) in grad[i * classes..][..classes].iter_mut().enumerate() {
                *g = ((total * log_p[c].exp() - target[c]) / weight) as f32;
            }
        }
    }
    Loss { sum, weight }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    #[test]
    fn one_hot_probabilities_equal_classes() {
        let (logits, certain) = (values("logits", 8), [0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        let loss = Criterion { label_smoothing: 0.1, class_weights: None };
        let (mut soft, mut hard) = ([0.0; 8], [0.0; 8]);
        let of_soft = loss.evaluate(&logits, 4, Labels::Probabilities(&certain), Some(&mut soft));
        let of_hard = loss.evaluate(&logits, 4, Labels::Classes(&[2, 0]), Some(&mut hard));
        assert_eq!((of_soft, soft), (of_hard, hard));
    }

    #[test]
    fn huge_logits_stay_finite() {
        let mut grad = [0.0; 2];
        let loss = Criterion::default().evaluate(&[1e30, -1e30], 2, Labels::Classes(&[0]), Some(&mut grad));
        assert_eq!((loss.mean(), grad), (0.0, [0.0, 0.0]));
        // The error of log-sum-exp near 1000 is about 1000 * 1e-16.
        assert!(log_softmax(&[1000.0, 1000.0]).iter().all(|log_p| (log_p - 0.5f64.ln()).abs() < 1e-12));
    }
}

//! Nearest class mean: a linear head without a solver.

use super::{HeadKind, LinearHead, Samples};
use crate::Error;
use crate::metrics::argmax;

/// The head that says which class's mean is nearest (Mensink et al. 2013): few photos a class are enough, and new classes
/// need no training.
///
/// Distances become logits as if the samples of each class lay around its mean in a normal distribution that is the same
/// in all directions and for all classes: `(mean . x - mean . mean / 2) / variance`, which is linear in `x`. The variance
/// is the samples' own around their means; with a single sample in every class, that of the means.
///
/// # Errors
/// [`Error::Kind`] if the samples have no classes.
pub fn class_means(samples: Samples) -> Result<LinearHead, Error> {
    samples.targets().require(HeadKind::Softmax)?;
    Ok(of_rows(samples, &(0..samples.len()).collect::<Vec<_>>()))
}

/// Whether each sample is answered right by the [`class_means`] of the other folds, `[samples]`; `folds` holds the fold of
/// each.
///
/// # Errors
/// [`Error::Shape`] if `folds` does not hold one number per sample; [`Error::TooFewSamples`] if a class lies in one fold
/// alone; [`Error::Kind`] if the samples have no classes.
pub fn held_out_by_means(samples: Samples, folds: &[u32]) -> Result<Vec<bool>, Error> {
    samples.targets().require(HeadKind::Softmax)?;
    if folds.len() != samples.len() {
        return Err(Error::Shape { what: "number of fold labels", expected: samples.len(), found: folds.len() });
    }
    let mut correct = vec![false; samples.len()];
    for fold in 0..=folds.iter().copied().max().unwrap_or(0) {
        let (held_out, rest): (Vec<usize>, Vec<usize>) = (0..samples.len()).partition(|&i| folds[i] == fold);
        if let Some(class) = samples.counts(rest.iter().copied()).iter().position(|&count| count == 0) {
            let purpose = "the training part of each cross-validation fold";
            return Err(Error::TooFewSamples { class, found: 0, needed: 1, purpose });
        }
        let head = of_rows(samples, &rest);
        for i in held_out {
            correct[i] = argmax(&head.logits(samples.row(i))) == samples.label(i);
        }
    }
    Ok(correct)
}

/// The head of some samples, among which every class is.
fn of_rows(samples: Samples, rows: &[usize]) -> LinearHead {
    let (classes, dim) = (samples.classes(), samples.dim());
    let mut means = vec![0.0f64; classes * dim];
    let counts = samples.counts(rows.iter().copied());
    for &i in rows {
        let mean = &mut means[samples.label(i) * dim..][..dim];
        mean.iter_mut().zip(samples.row(i)).for_each(|(mean, &x)| *mean += f64::from(x));
    }
    for (mean, &count) in means.chunks_exact_mut(dim).zip(&counts) {
        mean.iter_mut().for_each(|mean| *mean /= count as f64);
    }
    let within: f64 = rows
        .iter()
        .map(|&i| distance(samples.row(i).iter().map(|&x| f64::from(x)), &means[samples.label(i) * dim..][..dim]))
        .sum();
    let freedom = (rows.len() - classes) * dim;
    let variance = if within > 0.0 {
        within / freedom as f64
    } else {
        let all: Vec<f64> = (0..dim).map(|f| means.iter().skip(f).step_by(dim).sum::<f64>() / classes as f64).collect();
        let between: f64 = means.chunks_exact(dim).map(|mean| distance(mean.iter().copied(), &all)).sum();
        between / ((classes - 1) * dim) as f64
    };
    // Classes that all have one and the same mean are told apart by nothing.
    let scale = if variance > 0.0 { 1.0 / variance } else { 0.0 };
    LinearHead {
        weight: means.iter().map(|&mean| (mean * scale) as f32).collect(),
        bias: means.chunks_exact(dim).map(|m| (-0.5 * scale * m.iter().map(|x| x * x).sum::<f64>()) as f32).collect(),
        kind: HeadKind::Softmax,
    }
}

/// The squared distance of two vectors.
fn distance(a: impl Iterator<Item = f64>, b: &[f64]) -> f64 {
    a.zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::probabilities;

    #[test]
    fn logits_are_those_of_equal_round_normal_distributions() {
        let features = [0.0, 0.0, 2.0, 0.0, 5.0, 1.0, 5.0, 3.0, 9.0, -1.0, 9.0, -1.0];
        let samples = Samples::new(&features, 2, &[0, 0, 1, 1, 2, 2], 3).unwrap();
        let head = class_means(samples).unwrap();
        // Means (1, 0), (5, 2), (9, -1); squared distances from them sum to 4, over 3 degrees of freedom in 2 dimensions.
        let (means, variance) = ([[1.0, 0.0], [5.0, 2.0], [9.0, -1.0]], 4.0 / 6.0);
        for x in [[1.0f32, 0.5], [3.0, 1.0], [7.5, 0.0]] {
            let density = |mean: &[f64; 2]| {
                let square = (f64::from(x[0]) - mean[0]).powi(2) + (f64::from(x[1]) - mean[1]).powi(2);
                (-square / (2.0 * variance)).exp()
            };
            let total: f64 = means.iter().map(density).sum();
            let found = probabilities(head.kind, &head.logits(&x));
            for (p, mean) in found.iter().zip(&means) {
                assert!((p - density(mean) / total).abs() < 1e-5, "{x:?}: {found:?}");
            }
        }
    }

    #[test]
    fn one_sample_a_class_is_enough_and_equal_ones_do_no_harm() {
        let one = class_means(Samples::new(&[0.0, 1.0, 4.0, 1.0], 2, &[0, 1], 2).unwrap()).unwrap();
        let logits = one.logits(&[1.0, 7.0]);
        assert!(logits[0] > logits[1] && logits.iter().all(|logit| logit.is_finite()));
        let same = class_means(Samples::new(&[3.0, 3.0, 3.0], 1, &[0, 1, 1], 2).unwrap()).unwrap();
        assert_eq!(same.logits(&[3.0]), [0.0, 0.0]);
    }

    #[test]
    fn held_out_samples_have_no_part_in_their_answer() {
        // The sample at 4 would be on its own class's side if it counted itself.
        let features = [0.0, 1.0, 4.0, 6.0, 7.0, 8.0];
        let samples = Samples::new(&features, 1, &[0, 0, 0, 1, 1, 1], 2).unwrap();
        let found = held_out_by_means(samples, &[0, 1, 2, 0, 1, 2]).unwrap();
        assert_eq!(found, [true, true, false, true, true, true]);
        assert!(held_out_by_means(samples, &[0, 0, 0, 1, 2, 2]).is_err());
    }
}

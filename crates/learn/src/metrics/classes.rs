//! How well samples are told to be of their class.

use serde::{Deserialize, Serialize};

use super::{argmax, fraction, wilson};
use crate::linear::{HeadKind, log_probabilities};

/// What an evaluation of classes found; fractions are 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassEvaluation {
    /// Samples evaluated.
    pub n: u64,
    /// Mean negative log of the true class's probability (natural logarithm).
    pub loss: f64,
    /// Fraction of the samples whose most probable class was the true one.
    pub top1: f64,
    /// Fraction of the samples whose true class was among the five most probable; 1 with five classes or fewer.
    pub top5: f64,
    /// The 95% Wilson interval of `top1`, low and high end.
    pub top1_ci95: [f64; 2],
    /// The classes' names.
    pub classes: Vec<String>,
    /// Samples by true class (row) and predicted class (column).
    pub confusion: Vec<Vec<u64>>,
    /// The numbers of each class, in the order of `classes`.
    pub per_class: Vec<ClassMetrics>,
    /// Their unweighted means over all classes, those without samples included.
    #[serde(rename = "macro")]
    pub macro_average: Averages,
}

/// How one class fared. A fraction without a denominator is 0, as scikit-learn's `zero_division=0`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// The class's name.
    pub class: String,
    /// Of the samples predicted to be of this class, the fraction that are.
    pub precision: f64,
    /// Of the samples of this class, the fraction predicted to be.
    pub recall: f64,
    /// The harmonic mean of the two.
    pub f1: f64,
    /// Samples of this class.
    pub support: u64,
}

/// Unweighted means over the classes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Averages {
    /// Mean precision.
    pub precision: f64,
    /// Mean recall, also called balanced accuracy.
    pub recall: f64,
    /// Mean F1.
    pub f1: f64,
}

/// The answers so far, counted.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    kind: HeadKind,
    classes: usize,
    top5: u64,
    /// `[true class, predicted class]`
    confusion: Vec<u64>,
}

impl Counts {
    pub fn new(kind: HeadKind, classes: usize) -> Self {
        Self { kind, classes, top5: 0, confusion: vec![0; classes * classes] }
    }

    /// Adds one sample; returns its loss and whether the answer was right, 1 or 0.
    pub fn push(&mut self, logits: &[f64], label: usize) -> (f64, f64) {
        let answer = argmax(logits);
        self.confusion[label * self.classes + answer] += 1;
        // Ties go to the lower index, as in `argmax`.
        let ahead = logits.iter().enumerate().filter(|&(i, &z)| z > logits[label] || (z == logits[label] && i < label));
        self.top5 += u64::from(ahead.count() < 5);
        (-log_probabilities(self.kind, logits)[label], f64::from(u8::from(answer == label)))
    }

    /// Samples on the diagonal of the confusion matrix.
    pub fn correct(&self) -> u64 {
        (0..self.classes).map(|k| self.confusion[k * (self.classes + 1)]).sum()
    }

    /// The evaluation of `n` samples, under the classes' names.
    pub fn evaluation(&self, n: u64, loss: f64, classes: &[String]) -> ClassEvaluation {
        let confusion: Vec<Vec<u64>> = self.confusion.chunks_exact(self.classes).map(<[u64]>::to_vec).collect();
        let per_class: Vec<ClassMetrics> = classes
            .iter()
            .enumerate()
            .map(|(k, name)| {
                let support: u64 = confusion[k].iter().sum();
                let predicted: u64 = confusion.iter().map(|row| row[k]).sum();
                let hits = confusion[k][k];
                ClassMetrics {
                    class: name.clone(),
                    precision: fraction(hits, predicted),
                    recall: fraction(hits, support),
                    f1: fraction(2 * hits, predicted + support),
                    support,
                }
            })
            .collect();
        let mean = |value: fn(&ClassMetrics) -> f64| per_class.iter().map(value).sum::<f64>() / classes.len() as f64;
        let macro_average =
            Averages { precision: mean(|c| c.precision), recall: mean(|c| c.recall), f1: mean(|c| c.f1) };
        let (low, high) = wilson(self.correct(), n);
        ClassEvaluation {
            n,
            loss,
            top1: fraction(self.correct(), n),
            top5: fraction(self.top5, n),
            top1_ci95: [low, high],
            classes: classes.to_vec(),
            confusion,
            per_class,
            macro_average,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::{
        Error,
        linear::Targets,
        metrics::{Evaluation, MetricAccumulator},
    };

    /// What `reference/linear/generate.py` computed with scikit-learn.
    #[derive(Deserialize)]
    struct Golden {
        logits: Vec<f32>,
        labels: Vec<u32>,
        classes: usize,
        loss: f64,
        top1: f64,
        top5: f64,
        top1_ci95: [f64; 2],
        confusion: Vec<Vec<u64>>,
        precision: Vec<f64>,
        recall: Vec<f64>,
        f1: Vec<f64>,
        support: Vec<u64>,
        #[serde(rename = "macro")]
        macro_average: [f64; 3],
    }

    fn names(classes: usize) -> Vec<String> {
        (0..classes).map(|k| format!("class {k}")).collect()
    }

    fn finish(accumulator: MetricAccumulator, classes: usize) -> ClassEvaluation {
        match accumulator.finish(&names(classes)).unwrap() {
            Evaluation::Classes(evaluation) => evaluation,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_number_equals_scikit_learns_whatever_the_batch_size() {
        let text = include_str!("../../../../reference/linear/metrics.json");
        let cases: Vec<Golden> = serde_json::from_str(text).unwrap();
        assert_eq!(cases.len(), 3);
        for golden in cases {
            let mut first: Option<ClassEvaluation> = None;
            for batch in [1, 7, 1000] {
                let mut accumulator = MetricAccumulator::new(HeadKind::Softmax, golden.classes);
                for (logits, labels) in golden.logits.chunks(batch * golden.classes).zip(golden.labels.chunks(batch)) {
                    accumulator.add(logits, Targets::Classes(labels)).unwrap();
                }
                let found = finish(accumulator, golden.classes);
                assert_eq!(first.get_or_insert_with(|| found.clone()), &found, "batches of {batch}");
            }
            let found = first.unwrap();
            // Both sides are float64 and differ by the order of a few sums.
            let close = |a: f64, b: f64, what: &str| assert!((a - b).abs() < 1e-12, "{what}: {a} and {b}");
            assert_eq!(found.n as usize, golden.labels.len());
            assert_eq!(found.confusion, golden.confusion);
            close(found.loss, golden.loss, "loss");
            close(found.top1, golden.top1, "top1");
            close(found.top5, golden.top5, "top5");
            close(found.top1_ci95[0], golden.top1_ci95[0], "low end");
            close(found.top1_ci95[1], golden.top1_ci95[1], "high end");
            for (k, class) in found.per_class.iter().enumerate() {
                close(class.precision, golden.precision[k], "precision");
                close(class.recall, golden.recall[k], "recall");
                close(class.f1, golden.f1[k], "f1");
                assert_eq!(class.support, golden.support[k]);
            }
            let Averages { precision, recall, f1 } = found.macro_average;
            for (a, b) in [precision, recall, f1].into_iter().zip(golden.macro_average) {
                close(a, b, "macro average");
            }
        }
    }

    #[test]
    fn the_json_has_the_fields_scripts_rely_on() {
        let mut accumulator = MetricAccumulator::new(HeadKind::Softmax, 2);
        accumulator.add(&[1.0, 0.0, 0.0, 1.0], Targets::Classes(&[0, 0])).unwrap();
        assert_eq!(accumulator.per_sample(), [1.0, 0.0]);
        let evaluation = accumulator.finish(&names(2)).unwrap();
        let json = serde_json::to_value(&evaluation).unwrap();
        for field in ["n", "loss", "top1", "top5", "top1_ci95", "classes", "confusion", "per_class", "macro"] {
            assert!(json.get(field).is_some(), "{field} is missing from {json}");
        }
        assert_eq!(json["top5"], 1.0);
        assert_eq!(json["confusion"], serde_json::json!([[1, 1], [0, 0]]));
        assert_eq!(serde_json::from_value::<Evaluation>(json).unwrap(), evaluation);
    }

    #[test]
    fn bad_batches_are_refused_by_name_and_leave_the_tally_alone() {
        let mut accumulator = MetricAccumulator::new(HeadKind::Ovr, 2);
        accumulator.add(&[1.0, -1.0], Targets::Classes(&[0])).unwrap();
        assert!(matches!(
            accumulator.add(&[0.0; 3], Targets::Classes(&[0])),
            Err(Error::Shape { expected: 2, found: 3, .. })
        ));
        assert!(matches!(
            accumulator.add(&[0.0; 4], Targets::Classes(&[0, 2])),
            Err(Error::Label { sample: 2, label: 2, classes: 2 })
        ));
        let diverged = accumulator.add(&[0.0, 0.0, 0.0, f32::NAN], Targets::Classes(&[0, 1]));
        assert!(matches!(diverged, Err(Error::Diverged { sample: 2, class: 1, .. })));
        assert_eq!((accumulator.n(), accumulator.score()), (1, 1.0));
        assert!(matches!(MetricAccumulator::new(HeadKind::Ovr, 2).finish(&names(2)), Err(Error::NoSamples)));
        assert!(matches!(accumulator.finish(&names(3)), Err(Error::Shape { .. })));
    }
}

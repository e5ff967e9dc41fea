//! How well it is told which labels samples have.

use std::fmt::{Display, Formatter, Result};

use serde::{Deserialize, Serialize};
use unicode_width::UnicodeWidthStr;

use super::{
    bootstrap, fraction,
    ranking::Ranking,
    text::{fit_name, pad},
};
use crate::linear::softplus;

/// What an evaluation of labels found; fractions are 0 to 1. A label is taken to be there if its probability is above 0.5.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelEvaluation {
    /// Samples evaluated.
    pub n: u64,
    /// Mean binary cross-entropy over samples and labels (natural logarithm).
    pub loss: f64,
    /// Mean of the labels' average precision, over those that a sample has.
    pub map: f64,
    /// Its 95% bootstrap interval, low and high end.
    pub map_ci95: [f64; 2],
    /// F1 of all labels' decisions together.
    pub micro_f1: f64,
    /// Unweighted mean of the labels' F1, those without samples included.
    pub macro_f1: f64,
    /// Fraction of the samples all of whose labels were told rightly.
    pub exact_match: f64,
    /// Fraction of all decisions that were wrong.
    pub hamming_loss: f64,
    /// The numbers of each label, in the order of the logits.
    pub per_label: Vec<LabelMetrics>,
}

/// How one label fared. A fraction without a denominator is 0, as scikit-learn's `zero_division=0`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelMetrics {
    /// The label's name.
    pub label: String,
    /// Average precision, as scikit-learn's `average_precision_score`; none if no sample has the label.
    pub average_precision: Option<f64>,
    /// Of the samples said to have this label, the fraction that do.
    pub precision: f64,
    /// Of the samples that have this label, the fraction said to.
    pub recall: f64,
    /// The harmonic mean of the two.
    pub f1: f64,
    /// Samples that have this label.
    pub support: u64,
    /// They as a fraction of all samples, which is what guessing has for an average precision.
    pub prevalence: f64,
}

/// Every answer so far: average precision needs them all.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    labels: usize,
    /// Logit and whether the sample has the label, `[n, labels]`.
    answers: Vec<(f64, bool)>,
}

impl Answers {
    pub fn new(labels: usize) -> Self {
        Self { labels, answers: Vec::new() }
    }

    /// Adds one sample; returns its loss and the fraction of its labels that were told rightly.
    pub fn push(&mut self, logits: &[f64], truth: &[f32]) -> (f64, f64) {
        let (mut loss, mut right) = (0.0, 0);
        for (&logit, &has) in logits.iter().zip(truth) {
            let has = has == 1.0;
            loss += softplus(if has { -logit } else { logit });
            right += u32::from((logit > 0.0) == has);
            self.answers.push((logit, has));
        }
        (loss / self.labels as f64, f64::from(right) / self.labels as f64)
    }

    fn of_label(&self, label: usize) -> impl Iterator<Item = (f64, bool)> {
        self.answers.iter().skip(label).step_by(self.labels).copied()
    }

    fn rankings(&self) -> Vec<Ranking> {
        (0..self.labels).map(|label| Ranking::new(&self.of_label(label).collect::<Vec<_>>())).collect()
    }

    pub fn mean_average_precision(&self) -> f64 {
        mean(&self.rankings(), |_| 1)
    }

    /// The evaluation under the labels' names.
    pub fn evaluation(&self, loss: f64, names: &[String]) -> LabelEvaluation {
        let n = (self.answers.len() / self.labels) as u64;
        let rankings = self.rankings();
        let (mut all_hits, mut all_said, mut all_support) = (0, 0, 0);
        let metrics = |(k, name): (usize, &String)| {
            let count = |of: fn(&(f64, bool)) -> bool| self.of_label(k).filter(of).count() as u64;
            let (said, support) = (count(|a| a.0 > 0.0), count(|a| a.1));
            let hits = count(|a| a.0 > 0.0 && a.1);
            (all_hits, all_said, all_support) = (all_hits + hits, all_said + said, all_support + support);
            LabelMetrics {
                label: name.clone(),
                average_precision: rankings[k].average_precision(|_| 1),
                precision: fraction(hits, said),
                recall: fraction(hits, support),
                f1: fraction(2 * hits, said + support),
                support,
                prevalence: fraction(support, n),
            }
        };
        let per_label: Vec<LabelMetrics> = names.iter().enumerate().map(metrics).collect();
        let right = |row: &[(f64, bool)]| row.iter().filter(|(logit, has)| (*logit > 0.0) == *has).count();
        let rows = self.answers.chunks_exact(self.labels);
        let exact = rows.filter(|row| right(row) == self.labels).count() as u64;
        let wrong = self.answers.len() - right(&self.answers);
        LabelEvaluation {
            n,
            loss,
            map: mean(&rankings, |_| 1),
            map_ci95: bootstrap::interval(n as usize, |counts| mean(&rankings, |i| counts[i])),
            micro_f1: fraction(2 * all_hits, all_said + all_support),
            macro_f1: per_label.iter().map(|label| label.f1).sum::<f64>() / names.len() as f64,
            exact_match: fraction(exact, n),
            hamming_loss: fraction(wrong as u64, self.answers.len() as u64),
            per_label,
        }
    }
}

/// The mean average precision over the labels that a sample has, sample `i` counting `count(i)` times; 0 if there are none.
fn mean(rankings: &[Ranking], count: impl Fn(usize) -> u32) -> f64 {
    let (mut sum, mut labels) = (0.0, 0);
    for precision in rankings.iter().filter_map(|ranking| ranking.average_precision(&count)) {
        (sum, labels) = (sum + precision, labels + 1);
    }
    if labels == 0 { 0.0 } else { sum / f64::from(labels) }
}

impl Display for LabelEvaluation {
    /// Two summary lines and a table of the labels.
    fn fmt(&self, f: &mut Formatter) -> Result {
        let ([low, high], Self { n, loss, map, .. }) = (self.map_ci95, self);
        writeln!(f, "mAP {map:.4} (95% interval {low:.4} to {high:.4}), loss {loss:.4}, n {n}")?;
        writeln!(
            f,
            "F1 {:.4} micro, {:.4} macro; exact match {:.4}, Hamming loss {:.4}\n",
            self.micro_f1, self.macro_f1, self.exact_match, self.hamming_loss
        )?;
        let names: Vec<String> = self.per_label.iter().map(|label| fit_name(&label.label)).collect();
        let width = names.iter().map(|name| name.width()).chain([5]).max().unwrap_or(5);
        writeln!(f, "{}      AP  precision  recall      f1  support  prevalence", pad("label", width))?;
        for (label, name) in self.per_label.iter().zip(&names) {
            let LabelMetrics { average_precision, precision, recall, f1, support, prevalence, .. } = label;
            let ap = average_precision.map_or("-".into(), |ap| format!("{ap:.4}"));
            let name = pad(name, width);
            writeln!(
                f,
                "{name}  {ap:>6}  {precision:>9.4}  {recall:>6.4}  {f1:>6.4}  {support:>7}  {prevalence:>10.4}"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Error,
        linear::{HeadKind, Targets},
        metrics::{Evaluation, MetricAccumulator},
    };

    /// What `reference/linear/generate.py` computed with scikit-learn.
    #[derive(Deserialize)]
    struct Golden {
        logits: Vec<f32>,
        truth: Vec<f32>,
        labels: usize,
        loss: f64,
        map: f64,
        average_precision: Vec<Option<f64>>,
        precision: Vec<f64>,
        recall: Vec<f64>,
        f1: Vec<f64>,
        support: Vec<u64>,
        micro_f1: f64,
        macro_f1: f64,
        exact_match: f64,
        hamming_loss: f64,
    }

    fn evaluate(logits: &[f32], truth: &[f32], labels: usize) -> LabelEvaluation {
        let mut accumulator = MetricAccumulator::new(HeadKind::Labels, labels);
        accumulator.add(logits, Targets::Labels(truth)).unwrap();
        let names: Vec<String> = (0..labels).map(|k| format!("label {k}")).collect();
        match accumulator.finish(&names).unwrap() {
            Evaluation::Labels(evaluation) => evaluation,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_number_equals_scikit_learns() {
        #[derive(Deserialize)]
        struct File {
            metrics: Vec<Golden>,
        }
        let file: File = serde_json::from_str(include_str!("../../../../reference/linear/labels.json")).unwrap();
        assert_eq!(file.metrics.len(), 3);
        for golden in file.metrics {
            let found = evaluate(&golden.logits, &golden.truth, golden.labels);
            // Both sides are float64 and differ by the order of a few sums.
            let close = |a: f64, b: f64, what: &str| assert!((a - b).abs() < 1e-12, "{what}: {a} and {b}");
            close(found.loss, golden.loss, "loss");
            close(found.map, golden.map, "mAP");
            close(found.micro_f1, golden.micro_f1, "micro F1");
            close(found.macro_f1, golden.macro_f1, "macro F1");
            close(found.exact_match, golden.exact_match, "exact match");
            close(found.hamming_loss, golden.hamming_loss, "Hamming loss");
            let [low, high] = found.map_ci95;
            assert!(low < found.map && found.map < high, "{low} to {high}");
            for (k, label) in found.per_label.iter().enumerate() {
                close(label.precision, golden.precision[k], "precision");
                close(label.recall, golden.recall[k], "recall");
                close(label.f1, golden.f1[k], "F1");
                assert_eq!(label.support, golden.support[k]);
                assert_eq!(label.average_precision.is_some(), golden.average_precision[k].is_some());
                close(label.average_precision.unwrap_or(0.0), golden.average_precision[k].unwrap_or(0.0), "AP");
            }
        }
    }

    #[test]
    fn text_and_json_hold_everything() {
        let found = evaluate(&[2.0, -1.0, 0.5, -1.0, -3.0, -2.0], &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0], 2);
        let text = found.to_string();
        let table = "
label        AP  precision  recall      f1  support  prevalence
label 0  1.0000     0.5000  1.0000  0.6667        1      0.3333
label 1       -     0.0000  0.0000  0.0000        0      0.0000
";
        assert!(text.starts_with("mAP 1.0000 (95% interval 0.0000 to 1.0000), loss 0.3"), "{text}");
        assert!(text.ends_with(table), "{text}");
        let json = serde_json::to_string(&Evaluation::Labels(found.clone())).unwrap();
        assert_eq!(serde_json::from_str::<Evaluation>(&json).unwrap(), Evaluation::Labels(found));
    }

    #[test]
    fn scores_of_samples_are_fractions_of_right_decisions_and_bad_truth_is_refused() {
        let mut accumulator = MetricAccumulator::new(HeadKind::Labels, 2);
        accumulator.add(&[1.0, -1.0, 1.0, 1.0], Targets::Labels(&[1.0, 0.0, 0.0, 1.0])).unwrap();
        assert_eq!(accumulator.per_sample(), [1.0, 0.5]);
        let bad = accumulator.add(&[0.0; 4], Targets::Labels(&[0.0, 1.0, 0.5, 0.0]));
        assert!(matches!(bad, Err(Error::Answer { sample: 3, label: 0, .. })));
        assert!(matches!(accumulator.add(&[0.0; 2], Targets::Classes(&[0])), Err(Error::Kind { .. })));
        assert!(matches!(accumulator.add(&[0.0; 2], Targets::Labels(&[0.0; 3])), Err(Error::Shape { .. })));
        assert_eq!(accumulator.n(), 2);
    }
}

//! Counting, batch by batch.

use super::{Evaluation, classes, fraction, labels, values};
use crate::{
    Error,
    linear::{HeadKind, Targets},
};

/// What was seen of the samples so far.
///
/// Sums are float64 in the order of the samples, so batches of any size give the same result.
#[derive(Clone, Debug)]
pub struct MetricAccumulator {
    kind: HeadKind,
    classes: usize,
    loss: f64,
    per_sample: Vec<f64>,
    seen: Seen,
}

#[derive(Clone, Debug)]
enum Seen {
    Classes(classes::Counts),
    Labels(labels::Answers),
    Values(values::Pairs),
}

impl MetricAccumulator {
    /// An empty accumulator for outputs of `classes` logits that mean what `kind` says; one output for [`HeadKind::Value`].
    pub fn new(kind: HeadKind, classes: usize) -> Self {
        let seen = match kind {
            HeadKind::Softmax | HeadKind::Ovr => Seen::Classes(classes::Counts::new(kind, classes)),
            HeadKind::Labels => Seen::Labels(labels::Answers::new(classes)),
            HeadKind::Value => Seen::Values(values::Pairs::default()),
        };
        Self { kind, classes, loss: 0.0, per_sample: Vec::new(), seen }
    }

    /// Adds a batch: `logits`, `[n, classes]` row after row, and the targets of each row. Numbers are in the unit of the
    /// targets.
    ///
    /// # Errors
    /// [`Error::Kind`] if the targets is of another kind than the outputs, [`Error::Shape`] if `logits` does not hold
    /// `n * classes` values; [`Error::Label`], [`Error::Answer`], [`Error::Value`] or [`Error::Diverged`] naming the
    /// sample (counted over all batches). The batch is then not added.
    pub fn add(&mut self, logits: &[f32], targets: Targets) -> Result<(), Error> {
        targets.require(self.kind)?;
        let samples = targets.samples(self.classes);
        let expected = samples.map_or(0, |n| n * self.classes);
        if logits.len() != expected {
            return Err(Error::Shape { what: "number of logits", expected, found: logits.len() });
        }
        targets.validate(self.classes, self.per_sample.len())?;
        if let Some(i) = logits.iter().position(|z| !z.is_finite()) {
            let (sample, class) = (self.per_sample.len() + i / self.classes, i % self.classes);
            return Err(Error::Diverged { sample, class, value: logits[i] });
        }
        let mut row = Vec::with_capacity(self.classes);
        for (i, logits) in logits.chunks_exact(self.classes).enumerate() {
            row.clear();
            row.extend(logits.iter().map(|&z| f64::from(z)));
            self.push(&row, targets.of(i, self.classes));
        }
        Ok(())
    }

    /// Adds one sample, which [`add`](Self::add) would not refuse.
    pub(crate) fn push(&mut self, outputs: &[f64], targets: Targets) {
        let (loss, score) = match (&mut self.seen, targets) {
            (Seen::Classes(counts), Targets::Classes(class)) => counts.push(outputs, class[0] as usize),
            (Seen::Labels(answers), Targets::Labels(labels)) => answers.push(outputs, labels),
            (Seen::Values(pairs), Targets::Values(value)) => pairs.push(outputs[0], value[0].into()),
            _ => unreachable!("targets of another kind is refused"),
        };
        self.loss += loss;
        self.per_sample.push(score);
    }

    /// Samples seen.
    pub fn n(&self) -> u64 {
        self.per_sample.len() as u64
    }

    /// Mean loss so far; 0 before the first sample. The negative log of the true class's
    /// [probability](crate::linear::probabilities); of labels, the mean binary cross-entropy; of numbers, the squared
    /// error.
    pub fn loss(&self) -> f64 {
        self.loss / self.n().max(1) as f64
    }

    /// The one number that says how good the answers are; 0 before the first sample. The fraction of the samples whose
    /// largest logit is the true class's; of labels, the mean average precision over those that a sample has; of numbers,
    /// R², the fraction of their variance that is explained.
    pub fn score(&self) -> f64 {
        match &self.seen {
            _ if self.per_sample.is_empty() => 0.0,
            Seen::Classes(counts) => fraction(counts.correct(), self.n()),
            Seen::Labels(answers) => answers.mean_average_precision(),
            Seen::Values(pairs) => pairs.r2(),
        }
    }

    /// How well each sample was answered, in their order, for [`paired_p_value`](super::paired_p_value): 1 if right and 0
    /// if not; the fraction of the labels of which it was rightly said whether the sample has them; the negative squared
    /// error.
    pub fn per_sample(&self) -> &[f64] {
        &self.per_sample
    }

    pub(crate) fn into_per_sample(self) -> Vec<f64> {
        self.per_sample
    }

    /// The evaluation of everything added, with the classes' or labels' names in the order of the logits, or with one name
    /// for the number.
    ///
    /// # Errors
    /// [`Error::NoSamples`] if nothing was added, [`Error::Shape`] if the number of names is wrong.
    pub fn finish(self, names: &[String]) -> Result<Evaluation, Error> {
        if names.len() != self.classes {
            return Err(Error::Shape { what: "number of class names", expected: self.classes, found: names.len() });
        }
        if self.per_sample.is_empty() {
            return Err(Error::NoSamples);
        }
        let (n, loss) = (self.n(), self.loss());
        Ok(match self.seen {
            Seen::Classes(counts) => Evaluation::Classes(counts.evaluation(n, loss, names)),
            Seen::Labels(answers) => Evaluation::Labels(answers.evaluation(loss, names)),
            Seen::Values(pairs) => Evaluation::Values(pairs.evaluation(&names[0])),
        })
    }
}

//! Counting, batch by batch.

use super::{Evaluation, argmax};
use crate::{
    Error,
    linear::{HeadKind, log_probabilities},
};

/// Running sums over the samples seen so far.
///
/// Sums are float64 in the order of the samples, so batches of any size give the same result.
#[derive(Clone, Debug)]
pub struct Tally {
    pub(super) kind: HeadKind,
    pub(super) classes: usize,
    pub(super) n: u64,
    pub(super) loss: f64,
    pub(super) top5: u64,
    /// `[true class, predicted class]`
    pub(super) confusion: Vec<u64>,
}

impl Tally {
    /// An empty tally for outputs of `classes` logits that mean what `kind` says.
    pub fn new(kind: HeadKind, classes: usize) -> Self {
        Self { kind, classes, n: 0, loss: 0.0, top5: 0, confusion: vec![0; classes * classes] }
    }

    /// Adds a batch: `logits`, `[labels.len(), classes]` row after row, and the true class of each row.
    ///
    /// # Errors
    /// [`Error::Shape`] if `logits` does not hold `labels.len() * classes` values, [`Error::Label`] or
    /// [`Error::Diverged`] naming the sample (counted over all batches); the batch is then not added.
    pub fn add(&mut self, logits: &[f32], labels: &[u32]) -> Result<(), Error> {
        let expected = labels.len() * self.classes;
        if logits.len() != expected {
            return Err(Error::Shape { what: "number of logits", expected, found: logits.len() });
        }
        if let Some(i) = labels.iter().position(|&l| l as usize >= self.classes) {
            return Err(Error::Label { sample: self.n as usize + i, label: labels[i], classes: self.classes });
        }
        if let Some(i) = logits.iter().position(|z| !z.is_finite()) {
            let (sample, class) = (self.n as usize + i / self.classes, i % self.classes);
            return Err(Error::Diverged { sample, class, value: logits[i] });
        }
        let mut row = Vec::with_capacity(self.classes);
        for (logits, &label) in logits.chunks_exact(self.classes).zip(labels) {
            row.clear();
            row.extend(logits.iter().map(|&z| f64::from(z)));
            let label = label as usize;
            self.n += 1;
            self.loss -= log_probabilities(self.kind, &row)[label];
            self.confusion[label * self.classes + argmax(&row)] += 1;
            // Ties go to the lower index, as in `argmax`.
            let ahead = row.iter().enumerate().filter(|&(i, &z)| z > row[label] || (z == row[label] && i < label));
            self.top5 += u64::from(ahead.count() < 5);
        }
        Ok(())
    }

    /// Samples seen.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Mean loss so far, the negative log of the true class's [probability](crate::linear::probabilities); 0 before
    /// the first sample.
    pub fn loss(&self) -> f64 {
        self.loss / self.n.max(1) as f64
    }

    /// Fraction of the samples whose largest logit is the true class's; 0 before the first sample.
    pub fn top1(&self) -> f64 {
        self.correct() as f64 / self.n.max(1) as f64
    }

    /// Samples on the diagonal of the confusion matrix.
    pub(super) fn correct(&self) -> u64 {
        (0..self.classes).map(|k| self.confusion[k * (self.classes + 1)]).sum()
    }

    /// The evaluation of everything added, with the classes' names in the order of the logits.
    ///
    /// # Errors
    /// [`Error::NoSamples`] if nothing was added, [`Error::Shape`] if the number of names is wrong.
    pub fn finish(self, classes: &[String]) -> Result<Evaluation, Error> {
        Evaluation::new(&self, classes)
    }
}

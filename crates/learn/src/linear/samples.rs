//! Features and labels, validated once for everything that follows.

use crate::Error;

/// Labelled feature vectors.
#[derive(Clone, Copy, Debug)]
pub struct Samples<'a> {
    features: &'a [f32],
    labels: &'a [u32],
    dim: usize,
    classes: usize,
}

impl<'a> Samples<'a> {
    /// Takes `features`, `[labels.len(), dim]` row after row, and the class index of each row.
    ///
    /// # Errors
    /// [`Error::Setting`] if `dim` is 0 or there are fewer than two classes; [`Error::Shape`] if `features` does
    /// not hold `labels.len() * dim` values; [`Error::Label`], [`Error::NonFinite`] naming the first
    /// offending sample; [`Error::TooFewSamples`] if a class has no sample.
    pub fn new(features: &'a [f32], dim: usize, labels: &'a [u32], classes: usize) -> Result<Self, Error> {
        if dim == 0 {
            return Err(Error::Setting { name: "feature dimension", value: "0".into(), allowed: "at least 1" });
        }
        if classes < 2 {
            return Err(Error::Setting {
                name: "number of classes",
                value: classes.to_string(),
                allowed: "at least 2",
            });
        }
        let expected = labels.len().saturating_mul(dim);
        if features.len() != expected {
            return Err(Error::Shape { what: "number of feature values", expected, found: features.len() });
        }
        if let Some(sample) = labels.iter().position(|&l| l as usize >= classes) {
            return Err(Error::Label { sample, label: labels[sample], classes });
        }
        if let Some(i) = features.iter().position(|x| !x.is_finite()) {
            return Err(Error::NonFinite { sample: i / dim, feature: i % dim, value: features[i] });
        }
        let samples = Self { features, labels, dim, classes };
        samples.require_per_class(1, "training")?;
        Ok(samples)
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no samples; never so, since each class has one.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Features per sample.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The features of sample `i`, `[dim]`.
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.features[i * self.dim..][..self.dim]
    }

    /// The class index of sample `i`.
    pub fn label(&self, i: usize) -> usize {
        self.labels[i] as usize
    }

    /// Samples per class, `[classes]`, among `rows`.
    pub(super) fn counts(&self, rows: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let mut counts = vec![0; self.classes];
        rows.into_iter().for_each(|i| counts[self.label(i)] += 1);
        counts
    }

    /// Fails naming the first class with fewer than `needed` samples.
    pub(super) fn require_per_class(&self, needed: usize, purpose: &'static str) -> Result<(), Error> {
        match self.counts(0..self.len()).into_iter().enumerate().find(|&(_, count)| count < needed) {
            Some((class, found)) => Err(Error::TooFewSamples { class, found, needed, purpose }),
            None => Ok(()),
        }
    }

    /// Mean and variance of each feature over all samples, each `[dim]`, in float64.
    ///
    /// Two passes, because the one-pass formula cancels where the mean is large beside the deviation.
    pub(super) fn moments(&self) -> (Vec<f64>, Vec<f64>) {
        let n = self.len() as f64;
        let mut mean = vec![0.0; self.dim];
        for row in self.features.chunks_exact(self.dim) {
            mean.iter_mut().zip(row).for_each(|(m, &x)| *m += f64::from(x));
        }
        mean.iter_mut().for_each(|m| *m /= n);
        let mut variance = vec![0.0; self.dim];
        for row in self.features.chunks_exact(self.dim) {
            for ((v, &x), m) in variance.iter_mut().zip(row).zip(&mean) {
                *v += (f64::from(x) - m).powi(2);
            }
        }
        variance.iter_mut().for_each(|v| *v /= n);
        (mean, variance)
    }
}

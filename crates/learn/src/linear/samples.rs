//! Features and what should come of them, validated once for everything that follows.

use super::Targets;
use crate::Error;

/// Feature vectors and what each should give.
#[derive(Clone, Copy, Debug)]
pub struct Samples<'a> {
    features: &'a [f32],
    targets: Targets<'a>,
    dim: usize,
    classes: usize,
    unit: Unit,
}

/// How the solver counts the samples' numbers: from their mean, in standard deviations. Ridge regression's optimum is the
/// same in any unit, and so is then what a tolerance means.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub offset: f64,
    pub scale: f64,
}

impl Unit {
    fn of(targets: Targets) -> Self {
        let Targets::Values(values) = targets else { return Self { offset: 0.0, scale: 1.0 } };
        let n = values.len().max(1) as f64;
        let offset = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let scale = (values.iter().map(|&v| (f64::from(v) - offset).powi(2)).sum::<f64>() / n).sqrt();
        // Numbers that are all the same differ from their mean by its rounding.
        Self { offset, scale: if scale > 1e-12 * offset.abs() { scale } else { 1.0 } }
    }
}

impl<'a> Samples<'a> {
    /// Takes `features`, `[labels.len(), dim]` row after row, and the class index of each row.
    ///
    /// # Errors
    /// [`Error::Setting`] if `dim` is 0 or there are fewer than two classes; [`Error::Shape`] if `features` does
    /// not hold `labels.len() * dim` values; [`Error::Label`], [`Error::NonFinite`] naming the first
    /// offending sample; [`Error::TooFewSamples`] if a class has no sample.
    pub fn new(features: &'a [f32], dim: usize, labels: &'a [u32], classes: usize) -> Result<Self, Error> {
        let samples = Self::checked(features, dim, Targets::Classes(labels), classes, 2)?;
        samples.require_per_class(1, "training")?;
        Ok(samples)
    }

    /// Takes `features`, `[n, dim]` row after row, and which of the `classes` labels each row has, `[n, classes]`, 1 for
    /// yes and 0 for no.
    ///
    /// # Errors
    /// [`Error::Setting`] if `dim` is 0 or there is no label; [`Error::Shape`] if the lengths don't go together;
    /// [`Error::Answer`], [`Error::NonFinite`] naming the first offending sample; [`Error::OneSided`] if a label is that of
    /// all samples, or of none.
    pub fn with_labels(features: &'a [f32], dim: usize, labels: &'a [f32], classes: usize) -> Result<Self, Error> {
        let samples = Self::checked(features, dim, Targets::Labels(labels), classes, 1)?;
        let counts = samples.counts(0..samples.len());
        match counts.iter().position(|&count| count == 0 || count == samples.len()) {
            Some(label) => Err(Error::OneSided { label, always: counts[label] > 0 }),
            None => Ok(samples),
        }
    }

    /// Takes `features`, `[values.len(), dim]` row after row, and the number that each row should give.
    ///
    /// # Errors
    /// [`Error::Setting`] if `dim` is 0; [`Error::Shape`] if `features` does not hold `values.len() * dim` values;
    /// [`Error::Value`], [`Error::NonFinite`] naming the first offending sample; [`Error::NoSamples`].
    pub fn with_values(features: &'a [f32], dim: usize, values: &'a [f32]) -> Result<Self, Error> {
        let samples = Self::checked(features, dim, Targets::Values(values), 1, 1)?;
        if samples.is_empty() { Err(Error::NoSamples) } else { Ok(samples) }
    }

    fn checked(
        features: &'a [f32],
        dim: usize,
        targets: Targets<'a>,
        classes: usize,
        at_least: usize,
    ) -> Result<Self, Error> {
        if dim == 0 {
            return Err(Error::Setting { name: "feature dimension", value: "0".into(), allowed: "at least 1" });
        }
        if classes < at_least {
            let allowed = if at_least == 2 { "at least 2" } else { "at least 1" };
            return Err(Error::Setting { name: "number of classes", value: classes.to_string(), allowed });
        }
        let Some(n) = targets.samples(classes) else {
            let (what, expected) = ("number of label answers", features.len() / dim * classes);
            let found = if let Targets::Labels(answers) = targets { answers.len() } else { 0 };
            return Err(Error::Shape { what, expected, found });
        };
        let expected = n.saturating_mul(dim);
        if features.len() != expected {
            return Err(Error::Shape { what: "number of feature values", expected, found: features.len() });
        }
        targets.validate(classes, 0)?;
        if let Some(i) = features.iter().position(|x| !x.is_finite()) {
            return Err(Error::NonFinite { sample: i / dim, feature: i % dim, value: features[i] });
        }
        Ok(Self { features, targets, dim, classes, unit: Unit::of(targets) })
    }

    /// The number of samples.
    pub fn len(&self) -> usize {
        self.features.len() / self.dim
    }

    /// Whether there are no samples; never so once validated.
    pub fn is_empty(&self) -> bool {
        self.features.is_empty()
    }

    /// Features per sample.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The number of classes or labels; 1 where samples have a number.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The features of sample `i`, `[dim]`.
    pub fn row(&self, i: usize) -> &'a [f32] {
        &self.features[i * self.dim..][..self.dim]
    }

    /// What the samples should give.
    pub fn targets(&self) -> Targets<'a> {
        self.targets
    }

    /// The class index of sample `i`.
    ///
    /// # Panics
    /// If samples do not have classes.
    pub fn label(&self, i: usize) -> usize {
        match self.targets {
            Targets::Classes(classes) => classes[i] as usize,
            _ => panic!("these samples have {} and not classes", self.targets.name()),
        }
    }

    /// Whether sample `i` is of class `class`, or has that label; a number is of none.
    pub(super) fn has(&self, i: usize, class: usize) -> bool {
        match self.targets {
            Targets::Classes(classes) => classes[i] as usize == class,
            Targets::Labels(answers) => answers[i * self.classes + class] == 1.0,
            Targets::Values(_) => false,
        }
    }

    /// The unit of [`value`](Self::value).
    pub(super) fn unit(&self) -> Unit {
        self.unit
    }

    /// The number that sample `i` should give, in the solver's unit.
    ///
    /// # Panics
    /// If samples do not have numbers.
    pub(super) fn value(&self, i: usize) -> f64 {
        match self.targets {
            Targets::Values(values) => (f64::from(values[i]) - self.unit.offset) / self.unit.scale,
            _ => panic!("these samples have {} and not values", self.targets.name()),
        }
    }

    /// Samples per class or label, `[classes]`, among `rows`.
    pub(super) fn counts(&self, rows: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let mut counts = vec![0; self.classes];
        for i in rows {
            match self.targets {
                Targets::Classes(classes) => counts[classes[i] as usize] += 1,
                _ => counts.iter_mut().enumerate().for_each(|(k, count)| *count += usize::from(self.has(i, k))),
            }
        }
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

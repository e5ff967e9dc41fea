//! What samples should give.

use super::HeadKind;
use crate::Error;

/// What each sample should give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Targets<'a> {
    /// The index of its class, `[n]`.
    Classes(&'a [u32]),
    /// Which of the labels it has, 1 for yes and 0 for no: `[n, labels]`, row after row.
    Labels(&'a [f32]),
    /// A number, `[n]`.
    Values(&'a [f32]),
}

impl<'a> Targets<'a> {
    /// What it is, in the plural.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Classes(_) => "classes",
            Self::Labels(_) => "labels",
            Self::Values(_) => "values",
        }
    }

    /// The number of samples where each has `outputs`; `None` if not a whole number.
    pub(crate) fn samples(&self, outputs: usize) -> Option<usize> {
        match self {
            Self::Classes(classes) => Some(classes.len()),
            Self::Labels(answers) => answers.len().is_multiple_of(outputs).then(|| answers.len() / outputs),
            Self::Values(values) => Some(values.len()),
        }
    }

    /// The targets about sample `i` alone.
    pub(crate) fn of(&self, i: usize, outputs: usize) -> Self {
        match *self {
            Self::Classes(classes) => Self::Classes(&classes[i..=i]),
            Self::Labels(answers) => Self::Labels(&answers[i * outputs..][..outputs]),
            Self::Values(values) => Self::Values(&values[i..=i]),
        }
    }

    /// Fails with [`Error::Kind`] if a head of this kind gives something else.
    pub(crate) fn require(&self, kind: HeadKind) -> Result<(), Error> {
        let expected = match kind {
            HeadKind::Softmax | HeadKind::Ovr => "classes",
            HeadKind::Labels => "labels",
            HeadKind::Value => "values",
        };
        if self.name() == expected { Ok(()) } else { Err(Error::Kind { expected, found: self.name() }) }
    }

    /// Fails naming the first sample, counted from `first`, whose targets cannot be one among `outputs`.
    pub(crate) fn validate(&self, outputs: usize, first: usize) -> Result<(), Error> {
        let fault = match *self {
            Self::Classes(classes) => classes.iter().position(|&class| class as usize >= outputs).map(|i| {
                let (sample, label) = (first + i, classes[i]);
                Error::Label { sample, label, classes: outputs }
            }),
            Self::Labels(answers) => answers.iter().position(|&answer| answer != 0.0 && answer != 1.0).map(|i| {
                let (sample, label) = (first + i / outputs, i % outputs);
                Error::Answer { sample, label, value: answers[i] }
            }),
            Self::Values(values) => values.iter().position(|value| !value.is_finite()).map(|i| {
                let sample = first + i;
                Error::Value { sample, value: values[i] }
            }),
        };
        fault.map_or(Ok(()), Err)
    }
}

//! Targets of samples, in the forms that losses, heads and metrics take.

use std::ops::Range;

use regraft_data::{Dataset, Mixed, Sample, Target, Task};
use regraft_engine::Labels;
use regraft_learn::linear::{HeadKind, Samples, Targets};
use regraft_learn::metrics::MetricAccumulator;
use serde::{Deserialize, Serialize};

use crate::{Head, Result};

/// The scale in which a network learns a number: standard deviations of the training targets from their mean, so that
/// learning rates mean what they mean elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetScale {
    /// Mean of the training targets.
    pub mean: f64,
    /// Their standard deviation; 1 if they are all the same.
    pub std: f64,
}

impl TargetScale {
    /// The scale of a dataset's training targets; none if they are not numbers.
    pub(crate) fn of(dataset: &Dataset) -> Option<Self> {
        if dataset.task != Task::Value {
            return None;
        }
        let values = || dataset.train.iter().map(value_of);
        let n = dataset.train.len().max(1) as f64;
        let mean = values().sum::<f64>() / n;
        let std = (values().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt();
        // Numbers that are all the same differ from their mean by its rounding.
        Some(Self { mean, std: if std > 1e-12 * mean.abs() { std } else { 1.0 } })
    }

    /// A network's output in the unit of the targets.
    pub fn to_value(self, output: f32) -> f64 {
        f64::from(output) * self.std + self.mean
    }

    fn to_output(self, value: f64) -> f32 {
        ((value - self.mean) / self.std) as f32
    }
}

fn value_of(sample: &Sample) -> f64 {
    match sample.target {
        Target::Value(value) => value,
        Target::Class(_) | Target::Labels(_) => 0.0,
    }
}

/// What a network's outputs mean for a task under a head.
pub(crate) fn head_kind(task: Task, head: &Head) -> HeadKind {
    match task {
        Task::Classes => head.kind(),
        Task::Labels => HeadKind::Labels,
        Task::Value => HeadKind::Value,
    }
}

/// The targets of some samples, in their order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SampleTargets {
    kind: Kind,
    /// Outputs of a network for them.
    outputs: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// The class of each sample.
    Classes(Vec<usize>),
    /// The share of every class in each sample: `[n, outputs]`.
    Shares(Vec<f32>),
    /// Which labels each sample has, 1 for yes and 0 for no, or shares of both: `[n, outputs]`.
    Labels(Vec<f32>),
    /// Numbers: `[n, outputs]`.
    Values(Vec<f32>),
}

impl SampleTargets {
    /// The targets of `samples`, which are of one task. Numbers are in `scale`, without one in their own unit.
    pub fn new(samples: &[Sample], task: Task, outputs: usize, scale: Option<TargetScale>) -> Self {
        let kind = match task {
            Task::Classes => {
                Kind::Classes(samples.iter().map(|sample| *sample.target.indices().first().unwrap_or(&0)).collect())
            }
            Task::Labels => {
                let mut rows = vec![0.0; samples.len() * outputs];
                for (row, sample) in rows.chunks_exact_mut(outputs).zip(samples) {
                    sample.target.indices().iter().for_each(|&label| row[label] = 1.0);
                }
                Kind::Labels(rows)
            }
            Task::Value => {
                let value = |sample| scale.map_or(value_of(sample) as f32, |scale| scale.to_output(value_of(sample)));
                Kind::Values(samples.iter().map(value).collect())
            }
        };
        Self { kind, outputs }
    }

    /// Several numbers a sample: `rows` is `[n, outputs]`.
    pub fn values(rows: Vec<f32>, outputs: usize) -> Self {
        Self { kind: Kind::Values(rows), outputs }
    }

    /// The targets of the samples with these indices.
    pub fn select(&self, indices: &[u64]) -> Self {
        let rows = |rows: &[f32]| {
            let row = |&i: &u64| &rows[i as usize * self.outputs..][..self.outputs];
            indices.iter().flat_map(row).copied().collect()
        };
        let kind = match &self.kind {
            Kind::Classes(classes) => Kind::Classes(indices.iter().map(|&i| classes[i as usize]).collect()),
            Kind::Shares(shares) => Kind::Shares(rows(shares)),
            Kind::Labels(labels) => Kind::Labels(rows(labels)),
            Kind::Values(values) => Kind::Values(rows(values)),
        };
        Self { kind, outputs: self.outputs }
    }

    /// The targets of samples that have been mixed, `step_size` at a time and each step in its own way.
    pub fn mixed(self, step_size: usize, mixed: &[Mixed]) -> Self {
        let outputs = self.outputs;
        let mix = |mut rows: Vec<f32>| {
            let steps = rows.chunks_mut(step_size * outputs).zip(mixed);
            steps.for_each(|(rows, mixed)| mixed.mix_targets(rows, outputs));
            rows
        };
        let kind = match self.kind {
            Kind::Classes(classes) => {
                let mut shares = vec![0.0; classes.len() * outputs];
                shares.chunks_exact_mut(outputs).zip(&classes).for_each(|(row, &class)| row[class] = 1.0);
                Kind::Shares(mix(shares))
            }
            Kind::Shares(rows) => Kind::Shares(mix(rows)),
            Kind::Labels(rows) => Kind::Labels(mix(rows)),
            Kind::Values(rows) => Kind::Values(mix(rows)),
        };
        Self { kind, outputs }
    }

    /// Some of them as a loss takes them.
    pub fn labels(&self, samples: Range<usize>) -> Labels<'_> {
        let rows = samples.start * self.outputs..samples.end * self.outputs;
        match &self.kind {
            Kind::Classes(classes) => Labels::Classes(&classes[samples]),
            Kind::Shares(shares) => Labels::Probabilities(&shares[rows]),
            Kind::Labels(labels) => Labels::Binary(&labels[rows]),
            Kind::Values(values) => Labels::Values(&values[rows]),
        }
    }

    /// Features of these samples, `[n, dim]`, as a linear head is fitted to them. `classes` are those of
    /// [`classes`](Self::classes).
    ///
    /// # Errors
    /// [`crate::Error::Learn`] naming what is wrong with them.
    pub fn with_features<'a>(&'a self, features: &'a [f32], dim: usize, classes: &'a [u32]) -> Result<Samples<'a>> {
        Ok(match &self.kind {
            Kind::Classes(_) => Samples::new(features, dim, classes, self.outputs)?,
            Kind::Labels(labels) | Kind::Shares(labels) => Samples::with_labels(features, dim, labels, self.outputs)?,
            Kind::Values(values) => Samples::with_values(features, dim, values)?,
        })
    }

    /// The class of each sample; empty where they don't have one.
    pub fn classes(&self) -> Vec<u32> {
        match &self.kind {
            Kind::Classes(classes) => classes_u32(classes),
            Kind::Shares(_) | Kind::Labels(_) | Kind::Values(_) => Vec::new(),
        }
    }
}

fn classes_u32(classes: &[usize]) -> Vec<u32> {
    classes.iter().map(|&class| u32::try_from(class).expect("there are fewer classes than 2^32")).collect()
}

/// Adds a batch of outputs and targets to a metric accumulator.
///
/// # Errors
/// Errors of [`MetricAccumulator::add`].
pub(crate) fn add(accumulator: &mut MetricAccumulator, outputs: &[f32], labels: Labels) -> Result<()> {
    match labels {
        Labels::Classes(classes) => accumulator.add(outputs, Targets::Classes(&classes_u32(classes)))?,
        Labels::Binary(labels) | Labels::Probabilities(labels) => accumulator.add(outputs, Targets::Labels(labels))?,
        Labels::Values(values) => accumulator.add(outputs, Targets::Values(values))?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(targets: impl IntoIterator<Item = Target>) -> Vec<Sample> {
        targets.into_iter().map(|target| Sample { path: "photo".into(), target }).collect()
    }

    #[test]
    fn sample_targets_mix_rows_of_labels() {
        let samples = samples([Target::Labels(vec![0, 2]), Target::Labels(vec![]), Target::Labels(vec![1])]);
        let targets = SampleTargets::new(&samples, Task::Labels, 3, None);
        assert_eq!(targets.labels(0..3), Labels::Binary(&[1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]));
        let picked = targets.select(&[2, 0]);
        assert_eq!(picked.labels(1..2), Labels::Binary(&[1.0, 0.0, 1.0]));
        let mixed = picked.mixed(2, &[Mixed::MixUp { lambda: 0.75 }]);
        assert_eq!(mixed.labels(0..2), Labels::Binary(&[0.25, 0.75, 0.25, 0.75, 0.25, 0.75]));
    }

    #[test]
    fn sample_targets_mix_classes_into_shares() {
        let targets = SampleTargets::new(
            &samples([Target::Class(1), Target::Class(0), Target::Class(1)]),
            Task::Classes,
            2,
            None,
        );
        assert_eq!(targets.labels(0..2), Labels::Classes(&[1, 0]));
        // The last is a step of its own, and mixes with itself.
        let ways = [Mixed::MixUp { lambda: 0.75 }, Mixed::MixUp { lambda: 0.5 }];
        assert_eq!(targets.mixed(2, &ways).labels(0..3), Labels::Probabilities(&[0.25, 0.75, 0.75, 0.25, 0.0, 1.0]));
    }

    #[test]
    fn target_scale_standardises_numbers() {
        let train = samples([2.0, 4.0, 6.0, 8.0].map(Target::Value));
        let dataset =
            Dataset { root: "".into(), task: Task::Value, classes: vec!["value".into()], train, val: Vec::new() };
        let scale = TargetScale::of(&dataset).unwrap();
        assert_eq!((scale.mean, scale.std), (5.0, 5.0f64.sqrt()));
        let targets = SampleTargets::new(&dataset.train, Task::Value, 1, Some(scale));
        let Labels::Values(outputs) = targets.labels(0..4) else { panic!("numbers") };
        for (output, sample) in outputs.iter().zip(&dataset.train) {
            // f32 in between.
            assert!((scale.to_value(*output) - value_of(sample)).abs() < 1e-6);
        }
        assert_eq!(SampleTargets::new(&dataset.train, Task::Value, 1, None).labels(3..4), Labels::Values(&[8.0]));
        let same = Dataset { train: samples([0.1; 3].map(Target::Value)), ..dataset };
        assert_eq!(TargetScale::of(&same).unwrap().std, 1.0);
    }
}

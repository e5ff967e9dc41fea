//! A model's outputs for labelled images: what every measurement is a function of.

use std::path::Path;

use regraft_data::{Sample, Target, Task};
use regraft_learn::linear::{HeadKind, probabilities};
use regraft_learn::metrics::{Evaluation, MetricAccumulator};

use crate::photos::targets::{self, SampleTargets};
use crate::{Model, Result};

/// A model's outputs for labelled images, with their paths and targets.
///
/// Metrics, intervals, paired tests and galleries are functions of it; [`write_csv`](Self::write_csv) saves it.
#[derive(Clone, Debug)]
pub struct Scores {
    kind: HeadKind,
    /// Names of the classes or labels in the order of the logits; the name of the number.
    classes: Vec<String>,
    samples: Vec<Sample>,
    /// `[n, outputs]`: logits; numbers in their own unit.
    logits: Vec<f32>,
}

/// An image with its target and a model's outputs for it.
#[derive(Clone, Copy, Debug)]
pub struct Scored<'a> {
    /// The image's file.
    pub path: &'a Path,
    /// What it shows.
    pub target: &'a Target,
    /// Logits; a number in its own unit.
    pub logits: &'a [f32],
}

impl Scores {
    pub(crate) fn new(kind: HeadKind, model: &Model) -> Self {
        Self { kind, classes: model.classes.clone(), samples: Vec::new(), logits: Vec::new() }
    }

    /// Adds images with their outputs, row after row.
    pub(crate) fn push(&mut self, samples: impl Iterator<Item = Sample>, logits: &[f32]) {
        self.samples.extend(samples);
        self.logits.extend_from_slice(logits);
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// What the outputs mean.
    pub fn kind(&self) -> HeadKind {
        self.kind
    }

    /// Names of the classes or labels in the order of the logits; the name of the number.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The images in their order.
    pub fn iter(&self) -> impl Iterator<Item = Scored<'_>> {
        let rows = self.logits.chunks_exact(self.classes.len().max(1));
        self.samples.iter().zip(rows).map(|(sample, logits)| Scored {
            path: &sample.path,
            target: &sample.target,
            logits,
        })
    }

    /// Everything that is measured of a model.
    ///
    /// # Errors
    /// [`crate::Error::Learn`] if there are no images, or an output is not finite.
    pub fn evaluation(&self) -> Result<Evaluation> {
        Ok(self.metrics()?.finish(&self.classes)?)
    }

    /// How well each image is answered, for paired tests: 1 if right and 0 if not; the fraction of the labels of which it is
    /// rightly said whether the image has them; the negative squared error.
    ///
    /// # Errors
    /// [`crate::Error::Learn`] if an output is not finite.
    pub fn per_image(&self) -> Result<Vec<f64>> {
        Ok(self.metrics()?.per_sample().to_vec())
    }

    fn metrics(&self) -> Result<MetricAccumulator> {
        let mut metrics = MetricAccumulator::new(self.kind, self.classes.len());
        let targets = SampleTargets::new(&self.samples, task(self.kind), self.classes.len(), None);
        targets::add(&mut metrics, &self.logits, targets.labels(0..self.samples.len()))?;
        Ok(metrics)
    }

    /// Writes one line an image: `path,target`, then for classes `predicted,prob` and each class's probability, for labels
    /// each label's probability, for numbers `predicted`. The file is whole or absent.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if it cannot be written.
    pub fn write_csv(&self, path: &Path) -> Result<()> {
        Ok(regraft_io::write_atomically(path, |file| {
            let mut csv = csv::Writer::from_writer(file);
            csv.write_record(self.columns())?;
            for scored in self.iter() {
                csv.write_record(self.record(scored))?;
            }
            csv.flush()
        })?)
    }

    fn columns(&self) -> Vec<String> {
        let mut columns = vec!["path".into(), "target".into()];
        match self.kind {
            HeadKind::Softmax | HeadKind::Ovr => columns.extend(["predicted".into(), "prob".into()]),
            HeadKind::Labels => {}
            HeadKind::Value => {
                columns.push("predicted".into());
                return columns;
            }
        }
        columns.extend(self.classes.iter().map(|class| format!("prob_{class}")));
        columns
    }

    fn record(&self, scored: Scored) -> Vec<String> {
        let name = |&class: &usize| self.classes[class].as_str();
        let target = match scored.target {
            Target::Value(value) => value.to_string(),
            other => other.indices().iter().map(name).collect::<Vec<_>>().join("|"),
        };
        let mut record = vec![scored.path.to_string_lossy().into_owned(), target];
        let logits: Vec<f64> = scored.logits.iter().map(|&z| f64::from(z)).collect();
        if self.kind == HeadKind::Value {
            record.push(logits[0].to_string());
            return record;
        }
        let probabilities = probabilities(self.kind, &logits);
        if self.kind != HeadKind::Labels {
            let best = regraft_learn::metrics::argmax(&probabilities);
            record.extend([self.classes[best].clone(), probabilities[best].to_string()]);
        }
        record.extend(probabilities.iter().map(ToString::to_string));
        record
    }
}

/// What outputs of a kind say about an image.
pub(crate) fn task(kind: HeadKind) -> Task {
    match kind {
        HeadKind::Softmax | HeadKind::Ovr => Task::Classes,
        HeadKind::Labels => Task::Labels,
        HeadKind::Value => Task::Value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(kind: HeadKind, classes: &[&str], rows: &[(Target, &[f32])]) -> Scores {
        let sample = |(i, (target, _)): (usize, &(Target, &[f32]))| Sample {
            path: format!("{i}.jpg").into(),
            target: target.clone(),
        };
        Scores {
            kind,
            classes: classes.iter().map(|class| (*class).into()).collect(),
            samples: rows.iter().enumerate().map(sample).collect(),
            logits: rows.iter().flat_map(|(_, logits)| logits.iter().copied()).collect(),
        }
    }

    fn csv(scores: &Scores) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("predictions.csv");
        scores.write_csv(&path).unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn write_csv_has_a_line_for_each_image() {
        let classes = scores(
            HeadKind::Softmax,
            &["a,b", "c"],
            &[(Target::Class(0), &[0.0, 0.0]), (Target::Class(1), &[9.0, 0.0])],
        );
        let text = csv(&classes);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["path,target,predicted,prob,\"prob_a,b\",prob_c", "0.jpg,\"a,b\",\"a,b\",0.5,0.5,0.5"]);
        assert!(lines[2].starts_with("1.jpg,c,\"a,b\",0.99"), "{text}");
        let labels = scores(HeadKind::Labels, &["x", "y"], &[(Target::Labels(vec![0, 1]), &[0.0, 0.0])]);
        assert_eq!(csv(&labels), "path,target,prob_x,prob_y\n0.jpg,x|y,0.5,0.5\n");
        let values = scores(HeadKind::Value, &["age"], &[(Target::Value(2.5), &[3.0])]);
        assert_eq!(csv(&values), "path,target,predicted\n0.jpg,2.5,3\n");
    }

    #[test]
    fn per_image_is_right_or_wrong() {
        let rows: [(Target, &[f32]); 3] =
            [(Target::Class(0), &[1.0, 0.0]), (Target::Class(1), &[1.0, 0.0]), (Target::Class(1), &[0.0, 1.0])];
        let scores = scores(HeadKind::Softmax, &["a", "b"], &rows);
        assert_eq!(scores.per_image().unwrap(), [1.0, 0.0, 1.0]);
        let Evaluation::Classes(evaluation) = scores.evaluation().unwrap() else { panic!("classes") };
        assert_eq!((evaluation.n, scores.len()), (3, 3));
    }
}

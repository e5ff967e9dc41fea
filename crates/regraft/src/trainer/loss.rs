//! How a miss is counted.

use regraft_data::Dataset;
use regraft_engine::Targets;

use crate::Settings;
use crate::trainer::inputs::Step;

/// The settings of a loss that are the same for every batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loss {
    label_smoothing: f64,
    class_weights: Option<Vec<f32>>,
}

impl Loss {
    /// Of a run's settings, for its training samples.
    pub fn new(settings: &Settings, dataset: &Dataset) -> Self {
        Self { label_smoothing: settings.label_smoothing, class_weights: settings.loss_weights(dataset) }
    }

    /// What a batch should have given.
    pub fn targets<'a>(&'a self, step: &Step<'a>) -> Targets<'a> {
        let class_weights = self.class_weights.as_deref();
        Targets { labels: step.labels, label_smoothing: self.label_smoothing, class_weights }
    }
}

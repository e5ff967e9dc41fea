//! What every photo of a run counts in the loss.

use regraft_data::Dataset;
use regraft_engine::Targets;

use crate::Config;
use crate::trainer::inputs::Step;

/// How a miss is counted.
pub(crate) struct Loss {
    label_smoothing: f64,
    class_weights: Option<Vec<f32>>,
}

impl Loss {
    /// As the settings say for these training photos.
    pub fn new(config: &Config, dataset: &Dataset) -> Self {
        let class_weights = config.loss_weights(dataset);
        Self { label_smoothing: config.label_smoothing, class_weights }
    }

    /// What the network should say of a step's photos.
    pub fn targets<'a>(&'a self, step: &Step<'a>) -> Targets<'a> {
        let class_weights = self.class_weights.as_deref();
        Targets { labels: step.labels, label_smoothing: self.label_smoothing, class_weights }
    }
}

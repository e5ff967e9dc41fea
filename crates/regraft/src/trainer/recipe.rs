//! How gradient descent goes.

use regraft_learn::schedule::Schedule;

use crate::Settings;

/// Gradient descent for any kind of targets.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub epochs: usize,
    /// Epochs without a better validation score after which training ends.
    pub patience: Option<usize>,
    /// Learning rate at the start.
    pub lr: f64,
    pub schedule: Schedule,
    /// Batches whose gradients make one step.
    pub accumulate: usize,
    pub max_grad_norm: Option<f64>,
    /// Decay of the moving average of the weights.
    pub ema: Option<f64>,
    /// Steps between two checkpoints within an epoch; none within one if absent.
    pub save_every: Option<usize>,
}

impl Recipe {
    /// Of a run's settings.
    pub fn new(settings: &Settings) -> Self {
        Self {
            epochs: settings.epochs,
            patience: settings.patience,
            lr: settings.lr,
            schedule: settings.schedule(),
            accumulate: settings.accumulate,
            max_grad_norm: settings.clip_grad_norm,
            ema: settings.ema,
            save_every: None,
        }
    }

    /// The learning rate of the step that a batch of an epoch of `batches` belongs to, all counted from 0.
    pub fn rate(&self, epoch: usize, batch: usize, batches: usize) -> f64 {
        let steps = batches.div_ceil(self.accumulate);
        self.schedule.rate(self.lr, epoch, batch / self.accumulate, steps, self.epochs)
    }
}

//! How a run ended.

use std::path::PathBuf;

use regraft_learn::linear::HeadKind;

use crate::{AutoResult, RunFolder};

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A model was trained.
    Trained(Trained),
    /// A student learned from its teachers.
    Distilled(Distilled),
    /// It was cancelled; [`crate::resume`] continues it.
    Interrupted(Interrupted),
}

/// A finished training run.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The run's folder.
    pub folder: RunFolder,
    /// Score of the saved model on the validation images: accuracy, 0 to 1; of labels, mean average precision; of numbers,
    /// R².
    pub best_val_score: f64,
    /// What the network's outputs mean.
    pub kind: HeadKind,
    /// The saved model's epoch, from 1.
    pub best_epoch: usize,
    /// Whether the epoch was chosen for its score on these images, which is then slightly optimistic.
    pub chosen: bool,
    /// Number of validation images.
    pub val_n: usize,
    /// Seconds spent training and validating, in all sittings.
    pub seconds: f64,
    /// What auto mode tried.
    pub auto: Option<AutoResult>,
    /// How well the network of the last epoch answers each validation image, if this sitting measured it.
    pub(crate) scores: Option<Vec<f64>>,
}

impl Trained {
    /// The saved model.
    pub fn model(&self) -> PathBuf {
        self.folder.best_path()
    }
}

/// A finished distillation.
#[derive(Clone, Debug)]
pub struct Distilled {
    /// Name of the student's architecture.
    pub student: String,
    /// Its weights.
    pub weights: PathBuf,
    /// The student as a trained model, if the teacher was one.
    pub model: Option<PathBuf>,
    /// Fraction of the variance of the teachers' outputs that it explains on held-out images (R²).
    pub val_r2: f64,
    /// Images that it has seen, repetitions included.
    pub seen: u64,
    /// Seconds spent training.
    pub seconds: f64,
}

/// A run that was cancelled, with its state saved.
#[derive(Clone, Debug)]
pub struct Interrupted {
    /// The run's folder.
    pub folder: RunFolder,
    /// Epochs finished.
    pub epoch: usize,
    /// Steps taken in the next one.
    pub step: usize,
}

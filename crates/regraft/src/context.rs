//! What a run is given, and what it gives back.

use regraft_engine::Engine;
use regraft_learn::linear::HeadKind;

use crate::{Cancel, Error, Ladder, Progress, Result, RunFolder};

/// What a run works with.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Where networks run.
    pub engine: &'a dyn Engine,
    /// Who hears about the progress.
    pub progress: &'a dyn Progress,
    /// The wish to stop after the current step, with everything saved.
    pub cancel: &'a Cancel,
    /// Threads for reading and preparing photos.
    pub threads: usize,
}

impl Context<'_> {
    /// Ends the current stage if the caller has asked to stop.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub(crate) fn check_cancelled(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            self.progress.end();
            return Err(Error::Interrupted);
        }
        Ok(())
    }
}

/// A run that came to its end.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The run's folder.
    pub folder: RunFolder,
    /// Score of the best model on the validation photos: accuracy, 0 to 1; of labels, mean average precision; of numbers,
    /// R².
    pub best_val_score: f64,
    /// What the network's outputs mean.
    pub kind: HeadKind,
    /// Its epoch, from 1.
    pub best_epoch: usize,
    /// Whether it was chosen among others for its accuracy on these photos, which flatters it.
    pub chosen: bool,
    /// Number of validation photos.
    pub val_n: usize,
    /// Time spent training and validating, in all sittings.
    pub seconds: f64,
    /// What was tried, if the run decided itself.
    pub ladder: Option<Ladder>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The best model is in the run's folder.
    Finished(Finished),
    /// The state is in the run's folder; [`crate::resume`] goes on.
    Interrupted {
        /// The run's folder.
        folder: RunFolder,
        /// Epochs finished.
        epoch: usize,
        /// Steps done in the next one.
        step: usize,
    },
}

//! Progress and cancellation of long work: downloads, decoding, fitting and training use the same two types.

mod cancel;

pub use cancel::{Cancel, Cancelled};

use std::path::Path;

/// The unit of a stage that counts bytes, so that a listener can show KiB and MiB.
pub const BYTES: &str = "bytes";

/// Receives reports of long work. It cannot change the result.
///
/// By default every method does nothing, so an implementation overrides those it needs.
pub trait Progress: Sync {
    /// Reports a fact that the user may want to know.
    fn note(&self, _text: &str) {}

    /// Reports something that is probably not intended.
    fn warn(&self, _text: &str) {}

    /// A stage begins: its name, its unit ([`BYTES`], `images`), and how many of them it has.
    fn begin(&self, _stage: &str, _unit: &str, _total: u64) {}

    /// `done` units of the current stage are done; `detail` is for display, such as the loss. May come from any thread.
    fn advance(&self, _done: u64, _detail: &str) {}

    /// Position of the current stage in the whole work, from which the remaining time follows: the units done before the
    /// stage began and those of the whole work, both in the stage's unit.
    fn overall(&self, _before: u64, _total: u64) {}

    /// The current stage has ended, complete or not.
    fn end(&self) {}

    /// An epoch is complete and saved.
    fn epoch(&self, _epoch: &Epoch) {}

    /// The folder of the run has been created.
    fn run_folder(&self, _path: &Path) {}
}

/// Results of an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epoch {
    /// Number of the epoch, from 1.
    pub epoch: usize,
    /// Number of epochs in the run.
    pub epochs: usize,
    /// Mean loss on the training samples, measured during training.
    pub train_loss: f64,
    /// Score on the training samples; `train_metric` names it.
    pub train_score: f64,
    /// Mean loss on the validation samples after the epoch.
    pub val_loss: f64,
    /// Score on the validation samples; `val_metric` names it.
    pub val_score: f64,
    /// Column name of the training score: `acc`, `r2`.
    pub train_metric: &'static str,
    /// Column name of the validation score: `acc`, `map`, `r2`.
    pub val_metric: &'static str,
    /// Duration of the epoch in seconds.
    pub seconds: f64,
    /// Whether the weights after this epoch are the best so far.
    pub best: bool,
}

/// Ignores every report.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}

//! Progress of long work, and the wish to cancel it: the same two for downloads, decoding, fitting and training.

mod cancel;

pub use cancel::{Cancel, Cancelled};

use std::path::Path;

/// The unit of a stage that counts bytes, so that a listener can show KiB and MiB.
pub const BYTES: &str = "bytes";

/// Hears about long work. Nothing it does changes the result.
///
/// Every method does nothing unless it is implemented, so a listener implements what it wants to hear.
pub trait Progress: Sync {
    /// Something worth knowing.
    fn note(&self, _text: &str) {}

    /// Something that is probably not as intended.
    fn warn(&self, _text: &str) {}

    /// A stage begins: its name, its unit ([`BYTES`], `images`), and how many of them it has.
    fn begin(&self, _stage: &str, _unit: &str, _total: u64) {}

    /// Units of the current stage that are done, and what else there is to say (a loss). May come from any thread.
    fn advance(&self, _done: u64, _detail: &str) {}

    /// How far the whole work was when the current stage began, and its size, in the current stage's units: for the time
    /// left of all of it.
    fn overall(&self, _before: u64, _total: u64) {}

    /// The current stage is finished, or given up.
    fn end(&self) {}

    /// An epoch is finished and saved.
    fn epoch(&self, _epoch: &Epoch) {}

    /// The run's folder has been made.
    fn run_folder(&self, _path: &Path) {}
}

/// The results of an epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Epoch {
    /// Its number, from 1.
    pub epoch: usize,
    /// Epochs of the run.
    pub epochs: usize,
    /// Mean loss on the training samples while the network learned.
    pub train_loss: f64,
    /// Score on them, named by `train_metric`.
    pub train_score: f64,
    /// Mean loss on the validation samples after the epoch.
    pub val_loss: f64,
    /// Score on them, named by `val_metric`.
    pub val_score: f64,
    /// Name of the training score's column: `acc`, `r2`.
    pub train_metric: &'static str,
    /// Name of the validation score's column: `acc`, `map`, `r2`.
    pub val_metric: &'static str,
    /// Seconds it took.
    pub seconds: f64,
    /// Whether its weights are the best so far.
    pub best: bool,
}

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}

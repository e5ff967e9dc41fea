//! What a long piece of work tells its caller.

use std::path::Path;

use regraft_learn::history::Row;
use regraft_learn::linear::HeadKind;

/// The end of an epoch.
#[derive(Clone, Copy, Debug)]
pub struct EpochEnd<'a> {
    /// Its results.
    pub row: &'a Row,
    /// Epochs in all.
    pub epochs: usize,
    /// Whether its weights are the best so far.
    pub best: bool,
    /// What the network's outputs mean, and so what the scores are.
    pub kind: HeadKind,
}

/// Hears about the progress of long work. Nothing it does changes the result.
pub trait Reporter: Sync {
    /// Something worth knowing.
    fn note(&self, text: &str);
    /// Something that is probably not as intended.
    fn warn(&self, text: &str);
    /// A piece of work begins: `what`, and how many `unit`s it has.
    fn begin(&self, what: &str, unit: &str, total: u64);
    /// How many units of the piece at hand are done, and what else there is to say (a loss).
    fn advance(&self, done: u64, detail: &str);
    /// The piece at hand is finished.
    fn end(&self);
    /// An epoch is finished and saved.
    fn epoch(&self, end: EpochEnd);
    /// The run's folder has been made.
    fn run_folder(&self, path: &Path);
}

/// Hears nothing: for tests of what needs a listener.
#[cfg(test)]
pub(crate) struct Silent;

#[cfg(test)]
impl Reporter for Silent {
    fn note(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn begin(&self, _: &str, _: &str, _: u64) {}
    fn advance(&self, _: u64, _: &str) {}
    fn end(&self) {}
    fn epoch(&self, _: EpochEnd) {}
    fn run_folder(&self, _: &Path) {}
}

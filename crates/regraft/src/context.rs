//! What a run works with.

use regraft_engine::Engine;

use crate::{Cancel, Error, Progress, Result};

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

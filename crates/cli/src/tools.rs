//! What every command works with: the engine, the terminal, and Ctrl-C.

use anyhow::Result;
use regraft::{Cancel, Context, Hub};
use regraft_engine::Engine;

use crate::args::Common;
use crate::setup;
use crate::terminal::Terminal;

/// What every command works with.
pub struct Tools {
    pub threads: usize,
    engine: Box<dyn Engine>,
    pub terminal: Terminal,
    pub cancel: Cancel,
}

impl Tools {
    /// # Errors
    /// Errors of starting the engine and of listening for Ctrl-C.
    pub fn new(common: &Common) -> Result<Self> {
        let threads = setup::threads(common);
        Ok(Self {
            threads,
            engine: setup::engine(common, threads)?,
            terminal: Terminal::new(common.json),
            cancel: setup::cancel_on_interrupt()?,
        })
    }

    pub fn engine(&self) -> &dyn Engine {
        self.engine.as_ref()
    }

    pub fn context(&self) -> Context<'_> {
        Context { engine: self.engine(), progress: &self.terminal, cancel: &self.cancel, threads: self.threads }
    }

    /// The published weights that are known, and how they are downloaded.
    ///
    /// # Errors
    /// A wrong environment variable, or a wrong entry among a user's own weights.
    pub fn hub(&self, offline: bool) -> Result<Hub> {
        Ok(Hub::from_env(offline)?)
    }
}

//! The CPU engine with somebody who can interfere with what its sessions do.

use regraft_engine::{Batch, Engine, Error, Losses, Precision, Session, SessionOptions, Targets};
use regraft_engine_cpu::CpuEngine;
use regraft_graph::{Graph, StateDict};

/// Who interferes with a session.
pub trait Watch: Clone + Send + Sync + 'static {
    /// Changes what it answers.
    fn answered(&mut self, outputs: &mut [f32]);

    /// Refuses a step.
    fn step(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Hears of an update.
    fn updated(&mut self);
}

/// An engine whose sessions are watched, each by a copy.
pub struct Watched<W> {
    engine: CpuEngine,
    watch: W,
}

impl<W> Watched<W> {
    pub fn by(watch: W) -> Self {
        Self { engine: CpuEngine::new(1).unwrap(), watch }
    }
}

impl<W: Watch> Engine for Watched<W> {
    fn describe(&self) -> String {
        self.engine.describe()
    }

    fn supports(&self, precision: Precision) -> Result<(), Error> {
        self.engine.supports(precision)
    }

    fn compile(&self, graph: &Graph, state: &StateDict, options: SessionOptions) -> Result<Box<dyn Session>, Error> {
        let session = self.engine.compile(graph, state, options)?;
        Ok(Box::new(WatchedSession { session, watch: self.watch.clone() }))
    }
}

struct WatchedSession<W> {
    session: Box<dyn Session>,
    watch: W,
}

impl<W: Watch> Session for WatchedSession<W> {
    fn infer(&mut self, inputs: &[f32]) -> Result<Vec<f32>, Error> {
        let mut outputs = self.session.infer(inputs)?;
        self.watch.answered(&mut outputs);
        Ok(outputs)
    }

    fn gradients(&mut self, batch: Batch, targets: Targets) -> Result<Losses, Error> {
        self.watch.step()?;
        self.session.gradients(batch, targets)
    }

    fn visit_gradients(&mut self, visit: &mut dyn FnMut(&str, &mut [f32])) {
        self.session.visit_gradients(visit);
    }

    fn update(&mut self, lr: f64) {
        self.session.update(lr);
        self.watch.updated();
    }

    fn trained_state(&self) -> StateDict {
        self.session.trained_state()
    }

    fn visit_trained(&mut self, visit: &mut dyn FnMut(&str, &mut [f32])) {
        self.session.visit_trained(visit);
    }

    fn optimizer_state(&self) -> StateDict {
        self.session.optimizer_state()
    }

    fn restore_trained(&mut self, state: &StateDict) -> Result<(), Error> {
        self.session.restore_trained(state)
    }

    fn restore_optimizer(&mut self, state: &StateDict) -> Result<(), Error> {
        self.session.restore_optimizer(state)
    }
}

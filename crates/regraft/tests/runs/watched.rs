//! The CPU engine with sessions that are interfered with.

use regraft_engine::{
    Activation, Batch, Device, Engine, Error, Images, Input, Losses, Precision, Session, SessionOptions, SessionState,
    StepOptions, StepReport, Targets, Trunk, Want,
};
use regraft_engine_cpu::CpuEngine;
use regraft_graph::{Graph, NodeId, StateDict, Tensor};

/// Interferes with a session.
pub trait Watch: Clone + Send + Sync + 'static {
    /// Changes the outputs of inference.
    fn inferred(&mut self, outputs: &mut [f32]);

    /// Refuses a batch.
    fn batch(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Hears of a step.
    fn stepped(&mut self);
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
    fn device(&self) -> Device {
        self.engine.device()
    }

    fn supports(&self, precision: Precision) -> Result<(), Error> {
        self.engine.supports(precision)
    }

    fn tolerance(&self, precision: Precision) -> f32 {
        self.engine.tolerance(precision)
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
    fn infer(&mut self, input: Input, outputs: &[NodeId]) -> Result<Vec<Tensor>, Error> {
        let mut values = self.session.infer(input, outputs)?;
        values.iter_mut().for_each(|value| self.watch.inferred(value.data_mut()));
        Ok(values)
    }

    fn accumulate(&mut self, batch: Batch, targets: Targets, want: Want) -> Result<Losses, Error> {
        self.watch.batch()?;
        self.session.accumulate(batch, targets, want)
    }

    fn step(&mut self, options: &StepOptions) -> Result<StepReport, Error> {
        let report = self.session.step(options)?;
        self.watch.stepped();
        Ok(report)
    }

    fn use_average(&mut self, on: bool) -> Result<(), Error> {
        self.session.use_average(on)
    }

    fn gradient_at(&mut self, image: Images, node: NodeId, output: usize) -> Result<Activation, Error> {
        self.session.gradient_at(image, node, output)
    }

    fn weights(&self) -> Result<StateDict, Error> {
        self.session.weights()
    }

    fn state(&self) -> Result<SessionState, Error> {
        self.session.state()
    }

    fn restore(&mut self, state: &SessionState) -> Result<(), Error> {
        self.session.restore(state)
    }

    fn trunk(&self) -> Option<Trunk> {
        self.session.trunk()
    }

    fn cache_features(&mut self, images: Images, keys: &[u64]) -> Result<(), Error> {
        self.session.cache_features(images, keys)
    }

    fn forget_features(&mut self) {
        self.session.forget_features();
    }
}

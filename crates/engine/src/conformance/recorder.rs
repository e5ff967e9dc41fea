//! An engine that notes the bits of everything that another one computes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use regraft_graph::{Graph, NodeId, StateDict, Tensor};

use crate::{
    Activation, Batch, Device, Engine, Error, Images, Input, LayerTime, Losses, Precision, Session, SessionOptions,
    SessionState, StepOptions, StepReport, Targets, Trunk, Want,
};

/// Another engine, and a digest of all bits that its sessions have given: two engines that should compute the same, such as
/// one with another number of threads, have the same digest after the same work.
pub struct Recorder<'a> {
    engine: &'a dyn Engine,
    digest: Arc<AtomicU64>,
}

impl<'a> Recorder<'a> {
    /// Records what `engine` computes from here on.
    pub fn new(engine: &'a dyn Engine) -> Self {
        Self { engine, digest: Arc::default() }
    }

    /// The digest so far. The order of the calls does not count, so that sessions may run on several threads.
    pub fn digest(&self) -> u64 {
        self.digest.load(Ordering::Relaxed)
    }
}

impl Engine for Recorder<'_> {
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
        Ok(Box::new(Recorded { session, digest: self.digest.clone() }))
    }
}

struct Recorded {
    session: Box<dyn Session>,
    digest: Arc<AtomicU64>,
}

/// FNV-1a over the bits of one call's results.
struct Bits(u64);

impl Bits {
    fn new(call: &str) -> Self {
        Self(call.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| Self::mix(hash, byte.into())))
    }

    fn mix(hash: u64, value: u64) -> u64 {
        (hash ^ value).wrapping_mul(0x100_0000_01b3)
    }

    fn add(&mut self, value: u64) {
        self.0 = Self::mix(self.0, value);
    }

    fn add_all(&mut self, values: &[f32]) {
        self.add(values.len() as u64);
        values.iter().for_each(|value| self.add(value.to_bits().into()));
    }

    fn add_state(&mut self, state: &StateDict) {
        state.values().for_each(|tensor| self.add_all(tensor.data()));
    }
}

impl Recorded {
    fn note(&self, bits: Bits) {
        self.digest.fetch_add(bits.0, Ordering::Relaxed);
    }
}

impl Session for Recorded {
    fn infer(&mut self, input: Input, outputs: &[NodeId]) -> Result<Vec<Tensor>, Error> {
        let values = self.session.infer(input, outputs)?;
        let mut bits = Bits::new("infer");
        values.iter().for_each(|tensor| bits.add_all(tensor.data()));
        self.note(bits);
        Ok(values)
    }

    fn accumulate(&mut self, batch: Batch, targets: Targets, want: Want) -> Result<Losses, Error> {
        let losses = self.session.accumulate(batch, targets, want)?;
        let mut bits = Bits::new("accumulate");
        [losses.sum.to_bits(), losses.weight.to_bits(), losses.correct].into_iter().for_each(|value| bits.add(value));
        bits.add_all(losses.logits.as_deref().unwrap_or_default());
        self.note(bits);
        Ok(losses)
    }

    fn step(&mut self, options: &StepOptions) -> Result<StepReport, Error> {
        let report = self.session.step(options)?;
        let mut bits = Bits::new("step");
        bits.add(report.grad_norm.map_or(0, f64::to_bits));
        bits.add_state(&self.session.weights()?);
        self.note(bits);
        Ok(report)
    }

    fn use_average(&mut self, on: bool) -> Result<(), Error> {
        self.session.use_average(on)
    }

    fn gradient_at(&mut self, image: Images, node: NodeId, output: usize) -> Result<Activation, Error> {
        let activation = self.session.gradient_at(image, node, output)?;
        let mut bits = Bits::new("gradient_at");
        [&activation.values, &activation.gradients].into_iter().for_each(|tensor| bits.add_all(tensor.data()));
        self.note(bits);
        Ok(activation)
    }

    fn weights(&self) -> Result<StateDict, Error> {
        self.session.weights()
    }

    fn state(&self) -> Result<SessionState, Error> {
        let state = self.session.state()?;
        let mut bits = Bits::new("state");
        let SessionState { trained, optimizer, pending, average } = &state;
        for tensors in [trained, optimizer, &pending.gradients].into_iter().chain(average) {
            bits.add_state(tensors);
        }
        self.note(bits);
        Ok(state)
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

    fn measure_layers(&mut self) {
        self.session.measure_layers();
    }

    fn layer_times(&self) -> Vec<LayerTime> {
        self.session.layer_times()
    }
}

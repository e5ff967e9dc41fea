//! An engine that shares each batch among several sessions of another: data-parallel training as a wrapper. That the
//! contract allows it is a promise of its own.

use std::ops::Range;
use std::thread;

use regraft_collective::{Member, threads};
use regraft_graph::{Graph, NodeId, StateDict, Tensor, Trainable};

use super::common::{Network, Samples, accumulate, assert_close, step};
use super::{Tolerances, accumulation, averaging, clipping};
use crate::{
    Activation, Batch, BatchNormMode, Device, Engine, Error, Images, Input, Labels, Losses, Pending, Precision,
    Session, SessionOptions, SessionState, StepOptions, StepReport, Targets, Trunk, Want,
};

/// `count` sessions of `engine` for each network.
struct Sharded<'a> {
    engine: &'a dyn Engine,
    count: usize,
}

struct Shard {
    member: Member,
    session: Box<dyn Session>,
}

struct ShardedSession {
    shards: Vec<Shard>,
    /// Elements of one image.
    image_len: usize,
    /// Accumulated batches, each counted once for all shards.
    batches: usize,
}

impl Engine for Sharded<'_> {
    fn device(&self) -> Device {
        let device = self.engine.device();
        Device { name: format!("{} sessions on {}", self.count, device.name), ..device }
    }

    fn supports(&self, precision: Precision) -> Result<(), Error> {
        self.engine.supports(precision)
    }

    fn tolerance(&self, precision: Precision) -> f32 {
        self.engine.tolerance(precision)
    }

    fn compile(&self, graph: &Graph, state: &StateDict, options: SessionOptions) -> Result<Box<dyn Session>, Error> {
        let shard = |member| Ok(Shard { member, session: self.engine.compile(graph, state, options.clone())? });
        let shards = threads(self.count).into_iter().map(shard).collect::<Result<_, Error>>()?;
        Ok(Box::new(ShardedSession { shards, image_len: graph.input_shape().len(), batches: 0 }))
    }
}

/// Some samples of an input.
fn part<'a>(input: Input<'a>, image_len: usize, range: Range<usize>) -> Input<'a> {
    let pixels = range.start * image_len..range.end * image_len;
    match input {
        Input::Images(Images::Floats(values)) => Input::Images(Images::Floats(&values[pixels])),
        Input::Images(Images::Bytes { pixels: bytes, normalization }) => {
            Input::Images(Images::Bytes { pixels: &bytes[pixels], normalization })
        }
        Input::Cached(keys) => Input::Cached(&keys[range]),
    }
}

/// The targets of some samples.
fn part_of_targets<'a>(targets: Targets<'a>, n: usize, range: Range<usize>) -> Targets<'a> {
    let rows = |values: &'a [f32]| &values[range.start * values.len() / n..range.end * values.len() / n];
    let labels = match targets.labels {
        Labels::Classes(classes) => Labels::Classes(&classes[range]),
        Labels::Probabilities(shares) => Labels::Probabilities(rows(shares)),
        Labels::Binary(answers) => Labels::Binary(rows(answers)),
        Labels::Values(values) => Labels::Values(rows(values)),
    };
    Targets { labels, ..targets }
}

/// Adds `factor` times each tensor.
fn add(sums: &mut StateDict, gradients: &StateDict, factor: f32) {
    for (name, gradient) in gradients {
        let sum = sums.entry(name.clone()).or_insert_with(|| Tensor::full(gradient.shape(), 0.0));
        sum.data_mut().iter_mut().zip(gradient.data()).for_each(|(sum, &gradient)| *sum += factor * gradient);
    }
}

impl ShardedSession {
    fn first(&self) -> &dyn Session {
        self.shards[0].session.as_ref()
    }

    fn first_mut(&mut self) -> &mut dyn Session {
        self.shards[0].session.as_mut()
    }
}

impl Session for ShardedSession {
    fn infer(&mut self, input: Input, outputs: &[NodeId]) -> Result<Vec<Tensor>, Error> {
        self.first_mut().infer(input, outputs)
    }

    fn accumulate(&mut self, batch: Batch, targets: Targets, want: Want) -> Result<Losses, Error> {
        let (n, image_len, each) =
            (batch.sample_keys.len(), self.image_len, batch.sample_keys.len().div_ceil(self.shards.len()));
        let outcome = |(i, Shard { session, .. }): (usize, &mut Shard)| {
            let range = (i * each).min(n)..((i + 1) * each).min(n);
            let share = Batch {
                input: part(batch.input, image_len, range.clone()),
                sample_keys: &batch.sample_keys[range.clone()],
            };
            let targets = part_of_targets(targets, n, range.clone());
            (!range.is_empty()).then(|| session.accumulate(share, targets, want))
        };
        let outcome = &outcome;
        let outcomes: Vec<_> = thread::scope(|scope| {
            let shards = self.shards.iter_mut().enumerate();
            let threads: Vec<_> = shards.map(|shard| scope.spawn(move || outcome(shard))).collect();
            threads.into_iter().filter_map(|thread| thread.join().expect("a shard has panicked")).collect()
        });
        let mut all = Losses { sum: 0.0, weight: 0.0, correct: 0, logits: (want == Want::Logits).then(Vec::new) };
        for losses in outcomes {
            let losses = losses?;
            all.sum += losses.sum;
            all.weight += losses.weight;
            all.correct += losses.correct;
            if let (Some(all), Some(logits)) = (&mut all.logits, losses.logits) {
                all.extend(logits);
            }
        }
        self.batches += 1;
        Ok(all)
    }

    fn step(&mut self, options: &StepOptions) -> Result<StepReport, Error> {
        let reports: Vec<_> = thread::scope(|scope| {
            let step = |Shard { member, session }: &mut Shard| {
                session.step(&StepOptions { collective: Some(member), ..*options })
            };
            let threads: Vec<_> = self.shards.iter_mut().map(|shard| scope.spawn(move || step(shard))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a shard has panicked")).collect()
        });
        let report = reports.into_iter().collect::<Result<Vec<_>, _>>()?.remove(0);
        self.batches = 0;
        Ok(report)
    }

    fn use_average(&mut self, on: bool) -> Result<(), Error> {
        self.shards.iter_mut().try_for_each(|shard| shard.session.use_average(on))
    }

    fn gradient_at(&mut self, image: Images, node: NodeId, output: usize) -> Result<Activation, Error> {
        self.first_mut().gradient_at(image, node, output)
    }

    fn weights(&self) -> Result<StateDict, Error> {
        self.first().weights()
    }

    fn state(&self) -> Result<SessionState, Error> {
        let (mut gradients, mut weight) = (StateDict::new(), 0.0);
        for shard in &self.shards {
            let pending = shard.session.state()?.pending;
            // One batch's gradient is not weighted yet.
            let factor = if pending.batches == 1 { pending.weight as f32 } else { 1.0 };
            add(&mut gradients, &pending.gradients, factor);
            weight += pending.weight;
        }
        if self.batches == 1 {
            let scale = (1.0 / weight) as f32;
            gradients.values_mut().flat_map(|tensor| tensor.data_mut()).for_each(|gradient| *gradient *= scale);
        }
        Ok(SessionState { pending: Pending { batches: self.batches, weight, gradients }, ..self.first().state()? })
    }

    fn restore(&mut self, state: &SessionState) -> Result<(), Error> {
        self.first_mut().restore(state)?;
        let rest = SessionState { pending: Pending::default(), ..state.clone() };
        self.shards[1..].iter_mut().try_for_each(|shard| shard.session.restore(&rest))?;
        self.batches = state.pending.batches;
        Ok(())
    }

    fn trunk(&self) -> Option<Trunk> {
        self.first().trunk()
    }

    fn cache_features(&mut self, images: Images, keys: &[u64]) -> Result<(), Error> {
        self.shards.iter_mut().try_for_each(|shard| shard.session.cache_features(images, keys))
    }

    fn forget_features(&mut self) {
        self.shards.iter_mut().for_each(|shard| shard.session.forget_features());
    }
}

/// A wrapper that shares batches among sessions trains as a single session does.
pub fn sharding(engine: &dyn Engine, tolerances: &Tolerances) {
    for (name, count) in [("resnet18", 2), ("squeezenet1_1", 3)] {
        let network = Network::new(name);
        let sharded = Sharded { engine, count };
        let trainable = Trainable::all(&network.graph);
        let options = SessionOptions { trainable, ..network.all(BatchNormMode::Frozen) };
        let (mut alone, mut together) = (network.compile(engine, options.clone()), network.compile(&sharded, options));
        for n in [5, 4] {
            let samples = Samples::new(n);
            let (found, expected) = (accumulate(together.as_mut(), &samples), accumulate(alone.as_mut(), &samples));
            assert_eq!((found.weight, found.correct), (expected.weight, expected.correct), "{name}");
            let error = (found.sum / expected.sum - 1.0).abs();
            assert!(error < tolerances.order, "{name}: {} and {}", found.sum, expected.sum);
            [&mut alone, &mut together].into_iter().for_each(|session| step(session.as_mut(), 1e-2));
        }
        let (found, expected) = (together.weights().unwrap(), alone.weights().unwrap());
        assert_close(name, &found, &expected, tolerances.order);
    }
    // What a wrapper has to add up itself keeps the contract's other promises.
    let sharded = Sharded { engine, count: 2 };
    for group in [accumulation, clipping, averaging] {
        group(&sharded, tolerances);
    }
    let network = Network::new("squeezenet1_1");
    let mut session = network.compile(&sharded, network.options("features.12", BatchNormMode::Train));
    accumulate(session.as_mut(), &Samples::new(5));
    let state = session.state().unwrap();
    let mut resumed = network.compile(&sharded, network.options("features.12", BatchNormMode::Train));
    resumed.restore(&state).unwrap();
    // The one batch's gradient is weighted and divided again on the way.
    assert_close("what waits", &resumed.state().unwrap().pending.gradients, &state.pending.gradients, 1e-6);
}

//! Networks, samples and comparisons that several groups use.

use std::ops::Range;

use regraft_graph::{Graph, NodeId, Shape, StateDict, Trainable, zoo};
use regraft_testing::pattern;

use crate::{
    Batch, BatchNormMode, Engine, Labels, Losses, Session, SessionOptions, SessionState, StepOptions, Targets,
    UpdateRule, Want,
};

/// Height and width of the images, in pixels.
pub const SIDE: usize = 32;

/// Classes of the networks.
pub const CLASSES: usize = 4;

/// A weight for each class.
pub const CLASS_WEIGHTS: [f32; CLASSES] = [1.0, 2.0, 0.5, 1.5];

/// Plain stochastic gradient descent: a step is the gradient times the rate.
pub const PLAIN: UpdateRule = UpdateRule::Sgd { momentum: 0.0, weight_decay: 0.0, nesterov: false };

/// SGD with everything.
pub const SGD: UpdateRule = UpdateRule::Sgd { momentum: 0.9, weight_decay: 1e-4, nesterov: true };

/// AdamW with PyTorch's defaults.
pub const ADAMW: UpdateRule = UpdateRule::AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 };

/// A network and its weights.
pub struct Network {
    pub graph: Graph,
    pub state: StateDict,
}

impl Network {
    /// A network of the zoo for small images, with pattern weights.
    pub fn new(name: &str) -> Self {
        let graph = zoo::build(name, CLASSES).and_then(|graph| graph.with_input_shape(Shape::rgb(SIDE)));
        Self::of(graph.expect("a known name"))
    }

    /// A network with pattern weights.
    pub fn of(graph: Graph) -> Self {
        Self { state: pattern::state(&graph), graph }
    }

    /// The node of this name.
    #[track_caller]
    pub fn node(&self, name: &str) -> NodeId {
        let node = self.graph.nodes().iter().position(|node| node.name == name);
        node.unwrap_or_else(|| panic!("no node is called {name}"))
    }

    /// Options to train everything from a layer on by SGD.
    pub fn options(&self, first_layer: &str, batch_norm: BatchNormMode) -> SessionOptions {
        let trainable = Trainable::from_layer(&self.graph, first_layer).expect("the network has this layer");
        SessionOptions { trainable, batch_norm, update: SGD, seed: 7, ..SessionOptions::inference(&self.graph) }
    }

    /// Options to train everything by SGD.
    pub fn all(&self, batch_norm: BatchNormMode) -> SessionOptions {
        SessionOptions {
            trainable: Trainable::all(&self.graph),
            ..self.options(&self.graph.nodes()[1].name, batch_norm)
        }
    }

    #[track_caller]
    pub fn compile(&self, engine: &dyn Engine, options: SessionOptions) -> Box<dyn Session> {
        engine.compile(&self.graph, &self.state, options).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The network's output for some images in evaluation mode.
    #[track_caller]
    pub fn infer(&self, session: &mut dyn Session, images: &[f32]) -> Vec<f32> {
        infer(session, images, self.graph.output())
    }
}

/// One node's values for some images in evaluation mode.
#[track_caller]
pub fn infer(session: &mut dyn Session, images: &[f32], node: NodeId) -> Vec<f32> {
    session.infer(images.into(), &[node]).unwrap().remove(0).into_data()
}

/// Images with what belongs to them.
#[derive(Clone, Default)]
pub struct Samples {
    pub images: Vec<f32>,
    pub keys: Vec<u64>,
    pub classes: Vec<usize>,
}

impl Samples {
    /// The first `n` samples of a fixed sequence.
    pub fn new(n: usize) -> Self {
        Self {
            images: pattern::values("conformance images", n * 3 * SIDE * SIDE),
            keys: (100..100 + n as u64).collect(),
            classes: (0..n).map(|i| i % CLASSES).collect(),
        }
    }

    /// Some of them.
    pub fn part(&self, range: Range<usize>) -> Self {
        self.pick(&range.collect::<Vec<_>>())
    }

    /// Some of them in another order.
    pub fn pick(&self, which: &[usize]) -> Self {
        let len = self.images.len() / self.keys.len();
        Self {
            images: which.iter().flat_map(|&i| &self.images[i * len..][..len]).copied().collect(),
            keys: which.iter().map(|&i| self.keys[i]).collect(),
            classes: which.iter().map(|&i| self.classes[i]).collect(),
        }
    }

    pub fn batch(&self) -> Batch<'_> {
        Batch { input: self.images[..].into(), sample_keys: &self.keys }
    }

    /// Smoothed and weighted classes.
    pub fn targets(&self) -> Targets<'_> {
        let labels = Labels::Classes(&self.classes);
        Targets { labels, label_smoothing: 0.1, class_weights: Some(&CLASS_WEIGHTS) }
    }
}

/// Accumulates the gradient of some samples.
#[track_caller]
pub fn accumulate(session: &mut dyn Session, samples: &Samples) -> Losses {
    session.accumulate(samples.batch(), samples.targets(), Want::Logits).unwrap()
}

/// Takes a step at a rate.
#[track_caller]
pub fn step(session: &mut dyn Session, lr: f64) {
    session.step(&StepOptions { lr, ..StepOptions::default() }).unwrap();
}

/// Trains on some samples: one step.
#[track_caller]
pub fn train(session: &mut dyn Session, samples: &Samples, lr: f64) -> Losses {
    let losses = accumulate(session, samples);
    step(session, lr);
    losses
}

/// Asserts that two sets of tensors are the same, bit for bit.
#[track_caller]
pub fn assert_same(what: &str, found: &StateDict, expected: &StateDict) {
    let names = |state: &StateDict| state.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{what}: other tensors");
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for (name, tensor) in found {
        let expected = &expected[name];
        assert_eq!(tensor.shape(), expected.shape(), "{what}: {name}");
        assert!(bits(tensor.data()) == bits(expected.data()), "{what}: {name} differs");
    }
}

/// Asserts that two states are the same, bit for bit.
#[track_caller]
pub fn assert_same_state(what: &str, found: &SessionState, expected: &SessionState) {
    assert_same(&format!("{what}: trained"), &found.trained, &expected.trained);
    assert_same(&format!("{what}: optimizer"), &found.optimizer, &expected.optimizer);
    assert_eq!(found.pending.batches, expected.pending.batches, "{what}: pending batches");
    assert_eq!(found.pending.weight, expected.pending.weight, "{what}: pending weight");
    assert_same(&format!("{what}: pending"), &found.pending.gradients, &expected.pending.gradients);
    assert_eq!(found.average.is_some(), expected.average.is_some(), "{what}: average");
    if let (Some(found), Some(expected)) = (&found.average, &expected.average) {
        assert_same(&format!("{what}: average"), found, expected);
    }
}

/// Asserts that sets of tensors agree to a tolerance, relative to the largest element of each tensor.
#[track_caller]
pub fn assert_close(what: &str, found: &StateDict, expected: &StateDict, tolerance: f64) {
    assert!(found.keys().eq(expected.keys()), "{what}: other tensors");
    for (name, tensor) in found {
        regraft_testing::assert_close_to_scale(
            &format!("{what}: {name}"),
            tensor.data(),
            expected[name].data(),
            tolerance,
        );
    }
}

/// From PyTorch's order of maps, `[n, channels, pixels]`, to `[n, pixels, channels]`.
pub fn channels_last(values: &[f32], shape: Shape) -> Vec<f32> {
    let channels = shape.channels();
    let pixels = shape.len() / channels;
    let of_sample = |sample: &[f32]| (0..shape.len()).map(|i| sample[i % channels * pixels + i / channels]).collect();
    values.chunks_exact(shape.len()).flat_map(|sample| -> Vec<f32> { of_sample(sample) }).collect()
}

//! What every engine offers.

use crate::Labels;
use regraft_graph::{Graph, NodeId, StateDict, Trainable};
use serde::{Deserialize, Serialize};

use crate::{Error, UpdateRule};

/// Samples on their way into a network.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[n, height, width, channels]` for images, `[n, features]` for features: normalised, row-major.
    pub inputs: &'a [f32],
    /// One key a sample, different for each sample and epoch: random masks are keyed by it, so that they
    /// don't depend on how samples are dealt to batches, threads or machines. Only training reads it.
    pub keys: &'a [u64],
}

/// What a batch should have given, and how a miss is counted.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// The class of each sample, the probabilities of all classes, answers to a yes/no question a class, or numbers: what
    /// they are decides what the loss is.
    pub labels: Labels<'a>,
    /// Share of the target spread evenly over all classes, of a yes/no question's over both answers; numbers have none.
    pub label_smoothing: f64,
    /// Weight of each class, or of the yes to each question; all 1 without. Numbers have none.
    pub class_weights: Option<&'a [f32]>,
}

/// The outcome of a training step's forward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Losses {
    /// The samples' weighted losses added up; over `weight` it is the mean loss.
    pub sum: f64,
    /// The weights of the samples' classes added up; without class weights, or where labels are not classes, the number
    /// of samples.
    pub weight: f64,
    /// `[n, classes]`, row-major.
    pub logits: Vec<f32>,
}

/// What the batch norms of trainable layers do in training. Those of frozen layers never move, and those of
/// [new](Trainable::is_new) layers always do: their running statistics stand for nothing yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchNormMode {
    /// Normalise with the batch's statistics and move the running ones.
    Train,
    /// Normalise with the running statistics, which stay; weight and bias learn.
    Frozen,
}

impl BatchNormMode {
    /// Whether a batch norm normalises with the batch's statistics and moves the running ones.
    pub fn takes_batch_statistics(self, trainable: &Trainable, node: NodeId) -> bool {
        trainable.contains(node) && (self == Self::Train || trainable.is_new(node))
    }
}

/// What the convolutions of a session are computed in. Parameters, sums and everything else are `f32` in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// bfloat16, where the engine finds that faster.
    Bf16,
}

/// How a network is to be compiled.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// The layers that learn, how fast each of them, and which are new.
    pub trainable: Trainable,
    /// What their batch norms do.
    pub batch_norm: BatchNormMode,
    /// The optimiser.
    pub update: UpdateRule,
    /// Seed of random masks.
    pub seed: u64,
    /// What [`Session::gradients`] computes in.
    pub precision: Precision,
    /// What [`Session::infer`] computes in.
    pub infer_precision: Precision,
}

impl SessionOptions {
    /// For inference alone: nothing learns.
    pub fn inference(graph: &Graph) -> Self {
        Self {
            trainable: Trainable::none(graph),
            batch_norm: BatchNormMode::Frozen,
            update: UpdateRule::Sgd { momentum: 0.0, weight_decay: 0.0, nesterov: false },
            seed: 0,
            precision: Precision::F32,
            infer_precision: Precision::F32,
        }
    }
}

/// The time that one layer took in one pass over a batch, for `bench`.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTime {
    /// Name of the layer in its graph.
    pub layer: String,
    /// The pass: `forward`, `backward`, `input gradient`, `weight gradient`.
    pub pass: &'static str,
    /// What computed it.
    pub kernel: &'static str,
    /// Seconds, summed over the batches that were measured.
    pub seconds: f64,
    /// Multiplications and additions that the definition of a convolution asks for, in the same batches; 0 for the rest.
    pub operations: f64,
}

/// A way to run networks: a kind of device with its kernels.
pub trait Engine: Send + Sync {
    /// What runs where, for people: device, instruction set, threads.
    fn describe(&self) -> String;

    /// Whether the device has a precision, before anything is compiled for it.
    ///
    /// # Errors
    /// [`Error::Precision`] if not.
    fn supports(&self, precision: Precision) -> Result<(), Error>;

    /// Makes a network ready to train and to infer.
    ///
    /// `state` holds every tensor that the graph names, in PyTorch's layouts; others are ignored.
    ///
    /// # Errors
    /// [`Error::Tensor`] if one is absent or misshapen, [`Error::Graph`] if the layers don't fit together,
    /// [`Error::Unsupported`] if the engine lacks an operation, [`Error::Precision`] if the device lacks a precision.
    fn compile(&self, graph: &Graph, state: &StateDict, options: SessionOptions) -> Result<Box<dyn Session>, Error>;
}

/// A network on a device.
///
/// A training step is [`gradients`](Self::gradients), then [`update`](Self::update). Data-parallel training
/// is an engine whose session wraps another: it deals out the batch, calls `gradients` on each share, weighs
/// and sums the results through [`visit_gradients`](Self::visit_gradients) and calls `update` everywhere.
/// The gradient of each share is that of its own mean loss, so its part in the whole is
/// `losses.weight / total weight`.
///
/// What such a wrapper has to settle itself: a batch of fewer samples than sessions leaves some without a share, for an
/// empty one is an error; running statistics move by each share's own batch, so they are averaged through
/// [`visit_trained`](Self::visit_trained) or stay with [`BatchNormMode::Frozen`]; and where one share is refused, others
/// may have moved their statistics already, so it compares shares with what a session refuses before it deals them out:
/// that depends on their sizes and labels alone.
pub trait Session: Send {
    /// The network's output in evaluation mode: `[n, outputs]`, row-major.
    ///
    /// # Errors
    /// [`Error::Batch`] if the inputs are not a whole number of samples.
    fn infer(&mut self, inputs: &[f32]) -> Result<Vec<f32>, Error>;

    /// Forward in training mode, then backward: leaves the gradient of the *mean* loss in the session and
    /// moves the running statistics of training batch norms.
    ///
    /// # Errors
    /// [`Error::Batch`] if the batch does not fit or leaves a training batch norm a single value per channel,
    /// [`Error::NothingToTrain`] without trainable layers; nothing is moved then.
    fn gradients(&mut self, batch: Batch, targets: Targets) -> Result<Losses, Error>;

    /// Shows the gradient of every trainable parameter, always in the same order, to read or to change.
    /// The layout of the elements is the engine's own, the same on every session of one engine.
    fn visit_gradients(&mut self, visit: &mut dyn FnMut(&str, &mut [f32]));

    /// Changes the trainable parameters by the gradients, with this learning rate times each layer's own
    /// [`rate`](Trainable::rate).
    fn update(&mut self, lr: f64);

    /// Shows every tensor that training changes (trainable parameters, moving statistics), always in the same order, to
    /// read or to change. The layout of the elements is the engine's own, as in
    /// [`visit_gradients`](Self::visit_gradients).
    fn visit_trained(&mut self, visit: &mut dyn FnMut(&str, &mut [f32]));

    /// The tensors that training changes (trainable parameters, moving statistics), in PyTorch's layouts.
    fn trained_state(&self) -> StateDict;

    /// The optimiser's tensors, named `<parameter>.<slot>`, in PyTorch's layouts. Where the rule counts steps, each
    /// parameter has a count of its own, `<parameter>.step` of shape `[1]`, as in PyTorch: one that starts to learn later
    /// than others has taken fewer.
    fn optimizer_state(&self) -> StateDict;

    /// Puts back what [`trained_state`](Self::trained_state) gave.
    ///
    /// # Errors
    /// [`Error::Tensor`] if one is absent or misshapen; nothing is changed then.
    fn restore_trained(&mut self, state: &StateDict) -> Result<(), Error>;

    /// Puts back what [`optimizer_state`](Self::optimizer_state) gave.
    ///
    /// # Errors
    /// [`Error::Tensor`] if one is absent or misshapen; nothing is changed then.
    fn restore_optimizer(&mut self, state: &StateDict) -> Result<(), Error>;

    /// Starts to measure how long each layer takes, from zero. An engine that cannot tell leaves it.
    fn measure_layers(&mut self) {}

    /// What has been measured since, in the order of the work.
    fn layer_times(&self) -> Vec<LayerTime> {
        Vec::new()
    }
}

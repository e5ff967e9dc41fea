//! The contract: what every engine offers.

use std::fmt;

use regraft_collective::Collective;
use regraft_graph::{Graph, NodeId, StateDict, Tensor, Trainable};
use serde::{Deserialize, Serialize};

use crate::{Activation, Batch, Error, Images, Input, Losses, SessionState, Targets, UpdateRule, Want};

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

/// Precision of the convolutions. Parameters, sums and everything else are `f32` in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// bfloat16, where the engine finds that faster.
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        })
    }
}

/// Which nodes [`Session::infer`] and [`Session::gradient_at`] may be asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outputs {
    /// The network's output alone, so that the engine may free the tensors from which it prepared its weights.
    #[default]
    Final,
    /// Any node.
    Any,
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
    /// Precision of the training step.
    pub precision: Precision,
    /// Precision of inference.
    pub infer_precision: Precision,
    /// Which nodes may be asked about.
    pub outputs: Outputs,
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
            outputs: Outputs::Final,
        }
    }

    /// The same for any node's value.
    pub fn inspection(graph: &Graph) -> Self {
        Self { outputs: Outputs::Any, ..Self::inference(graph) }
    }
}

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The machine's processor.
    Cpu,
    /// A graphics card or another accelerator with memory of its own.
    Gpu,
}

/// Where an engine runs, for people and for planning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its kind.
    pub kind: DeviceKind,
    /// What it is, such as `avx512, 2 threads`.
    pub name: String,
    /// Memory of its own in bytes; absent where it shares the machine's.
    pub memory_bytes: Option<u64>,
    /// Precisions that it has.
    pub precisions: Vec<Precision>,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DeviceKind::Cpu => "cpu",
            DeviceKind::Gpu => "gpu",
        };
        write!(f, "{kind}, {}", self.name)
    }
}

/// The exponential moving average that a step updates: torchvision's `ExponentialMovingAverage`, running statistics
/// included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MovingAverage {
    /// `average = decay * average + (1 - decay) * tensor` after the step.
    pub decay: f64,
    /// Start anew from the tensors after this step, as in every step of a warm-up. The first step does so in any case.
    pub restart: bool,
}

/// How [`Session::step`] changes the parameters.
#[derive(Clone, Copy, Default)]
pub struct StepOptions<'a> {
    /// Learning rate, before each layer's own factor.
    pub lr: f64,
    /// Gradients are scaled down so that their norm, over all parameters, is at most this:
    /// `torch.nn.utils.clip_grad_norm_`.
    pub max_grad_norm: Option<f64>,
    /// The moving average to update.
    pub average: Option<MovingAverage>,
    /// The group that trains together: gradients and weights of all members are summed first.
    pub collective: Option<&'a dyn Collective>,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Norm of the gradients before clipping, if they are clipped.
    pub grad_norm: Option<f64>,
}

/// The frozen layers below everything that learns or draws random masks, which a session runs in evaluation mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trunk {
    /// Its last node.
    pub node: NodeId,
    /// Elements of one sample's features there.
    pub len: usize,
}

/// The time that one layer took in one pass over a batch, for benchmarks.
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
    /// Multiplications and additions by the definition of a convolution, in the same batches; 0 for other layers.
    pub operations: f64,
}

/// A way to run networks: a kind of device with its kernels.
pub trait Engine: Send + Sync {
    /// Where it runs.
    fn device(&self) -> Device;

    /// Checks that the device has a precision, before anything is compiled for it.
    ///
    /// # Errors
    /// [`Error::Precision`] if not.
    fn supports(&self, precision: Precision) -> Result<(), Error>;

    /// Largest difference of a network's outputs from those of another correct engine, relative to the largest output:
    /// what rounding in this precision may cost through the deepest networks.
    fn tolerance(&self, precision: Precision) -> f32;

    /// Compiles a network.
    ///
    /// `state` holds every tensor that the graph names, in PyTorch's layouts; others are ignored.
    ///
    /// # Errors
    /// [`Error::Tensor`] if one is absent or misshapen, [`Error::Graph`] if the layers don't fit together,
    /// [`Error::Unsupported`] if the engine lacks an operation, [`Error::Precision`] if the device lacks a precision,
    /// [`Error::Device`] if the device fails.
    fn compile(&self, graph: &Graph, state: &StateDict, options: SessionOptions) -> Result<Box<dyn Session>, Error>;
}

/// A network on a device.
///
/// A training step is one [`accumulate`](Self::accumulate) or more, then [`step`](Self::step). Weights, gradients,
/// optimiser state and cached features stay on the device; nothing but what is asked for leaves it. Every method fails
/// with [`Error::Device`] if the device is lost.
pub trait Session: Send {
    /// The values of some nodes in evaluation mode, in the order of `outputs`: `[n, features]` or
    /// `[n, channels, height, width]`.
    ///
    /// # Errors
    /// [`Error::Batch`] if the input is not a whole number of samples, or a key is not cached; [`Error::Output`] for a
    /// node other than the output where the session was compiled with [`Outputs::Final`], or one that lies within the
    /// trunk where the input is cached.
    fn infer(&mut self, input: Input, outputs: &[NodeId]) -> Result<Vec<Tensor>, Error>;

    /// Forward in training mode, then backward: adds the batch's gradient to those that wait for the next step, and
    /// moves the running statistics of training batch norms.
    ///
    /// Each batch counts by its [`Losses::weight`], so the step is that of all of them as one batch, whatever their
    /// sizes; only batch norms that take each batch's own statistics tell the difference.
    ///
    /// # Errors
    /// [`Error::Batch`] if the batch does not fit or leaves a training batch norm a single value per channel,
    /// [`Error::NothingToTrain`] without trainable layers, [`Error::AverageInUse`]; nothing is moved then.
    fn accumulate(&mut self, batch: Batch, targets: Targets, want: Want) -> Result<Losses, Error>;

    /// Changes the trainable parameters by the mean of the gradients that wait, and forgets these.
    ///
    /// With a collective, sums and weights of all members are added first, in the order of the ranks, and running
    /// statistics that move are averaged; a member without a share of this step may call it without a batch.
    ///
    /// # Errors
    /// [`Error::NothingToTrain`] without trainable layers, [`Error::NothingAccumulated`], [`Error::AverageInUse`],
    /// [`Error::Collective`]; nothing is moved then.
    fn step(&mut self, options: &StepOptions) -> Result<StepReport, Error>;

    /// Puts the moving average in the place of the trained tensors for [`infer`](Self::infer) and
    /// [`weights`](Self::weights), or takes it away again. Without an average nothing changes.
    ///
    /// # Errors
    /// [`Error::Device`].
    fn use_average(&mut self, on: bool) -> Result<(), Error>;

    /// A node's value for one image in evaluation mode, and the gradient of the network's output number `output` with
    /// respect to it. Works with any layers frozen.
    ///
    /// # Errors
    /// [`Error::Batch`] if it is not one image, [`Error::Output`] if there is no such output, no path from the node to
    /// it, or the session was compiled with [`Outputs::Final`].
    fn gradient_at(&mut self, image: Images, node: NodeId, output: usize) -> Result<Activation, Error>;

    /// The tensors that training changes as [`infer`](Self::infer) uses them: the average while it is in use.
    ///
    /// # Errors
    /// [`Error::Device`].
    fn weights(&self) -> Result<StateDict, Error>;

    /// Everything that training has changed, whether the average is in use or not.
    ///
    /// # Errors
    /// [`Error::Device`].
    fn state(&self) -> Result<SessionState, Error>;

    /// Puts back what [`state`](Self::state) gave.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a tensor is absent or misshapen; nothing is changed then.
    fn restore(&mut self, state: &SessionState) -> Result<(), Error>;

    /// The frozen layers whose features can be cached; `None` if the first layer learns or nothing does.
    fn trunk(&self) -> Option<Trunk>;

    /// Runs the trunk on some images and keeps their features under these keys, on the device if they fit.
    ///
    /// # Errors
    /// [`Error::Batch`] if the images are not one for each key, [`Error::NoTrunk`].
    fn cache_features(&mut self, images: Images, keys: &[u64]) -> Result<(), Error>;

    /// Frees all cached features.
    fn forget_features(&mut self);

    /// Starts to measure how long each layer takes, from zero. An engine that cannot tell does nothing.
    fn measure_layers(&mut self) {}

    /// What has been measured since, in the order of the work.
    fn layer_times(&self) -> Vec<LayerTime> {
        Vec::new()
    }
}

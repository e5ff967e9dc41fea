//! From a graph to the steps that run: fusion, what needs a gradient, and what must be kept for it.

mod gradients;
mod lowering;

use regraft_graph::{Conv2d, Graph, NodeId, Trainable};
use regraft_kernels::{Activation, pool};

use super::bands::{self, Chain};
use super::memory;
use gradients::{lifetimes, plan_backward};
use lowering::Lowering;
use regraft_engine::{BatchNormMode, Error};

/// Index of a value (an activation or a gradient) in its plan. Value 0 is the input, which the caller holds.
pub(super) type ValueId = usize;

/// What one step computes; the epilogue (residual, activation) comes on top.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A convolution, with the batch norm folded into it, if any, and the batch norm for which it gathers the statistics
    /// of its result.
    Conv { conv: Conv2d, input: [usize; 2], output: [usize; 2], folded: Option<NodeId>, gathers: Option<NodeId> },
    /// A batch norm on its own, and the step that gathers the batch's statistics for it, if one does.
    BatchNorm { batch_statistics: bool, eps: f32, momentum: f32, from: Option<usize> },
    /// A fully connected layer.
    Linear,
    /// Scaled cosines.
    Cosine,
    /// Maximum pooling.
    MaxPool { window: pool::Window, input: [usize; 2], output: [usize; 2] },
    /// Average pooling.
    AvgPool { average: pool::Average, input: [usize; 2], output: [usize; 2] },
    /// A layer norm over the channels.
    LayerNorm { eps: f32 },
    /// Each channel times a factor: a learned one, unless it is given.
    ScaleChannels { factor: Option<f32> },
    /// The first input's maps, of so many pixels, times the second's factors.
    Gate { pixels: usize },
    /// Some of the input's channels, of which there are `of`.
    Narrow { start: usize, of: usize },
    /// Channels of groups in another order.
    Shuffle { groups: usize },
    /// Concatenation of the channels of the inputs, whose counts these are.
    Concat { channels: Vec<usize> },
    /// Random masking.
    Dropout { p: f32 },
    /// Random masking of whole samples.
    StochasticDepth { p: f32 },
    /// An activation whose derivative is told from its input.
    Activation(Activation),
    /// From pixels of channels to channels of pixels.
    Flatten { pixels: usize },
    /// Nothing: the epilogue alone.
    Identity,
}

/// One fused step.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub kind: Kind,
    /// The node whose parameters it uses, and by which random masks are keyed.
    pub node: NodeId,
    pub inputs: Vec<ValueId>,
    /// Added before the activation.
    pub residual: Option<ValueId>,
    pub activation: Activation,
    pub output: ValueId,
    /// Channels of the output.
    pub channels: usize,
}

/// Where a gradient goes: the value, and whether something is there to add to.
pub(super) type GradTarget = Option<(ValueId, bool)>;

/// The backward pass of one step.
#[derive(Clone, Debug)]
pub(super) struct BackwardStep {
    /// Index of the forward step.
    pub step: usize,
    pub grad_output: ValueId,
    pub grad_inputs: Vec<GradTarget>,
    pub grad_residual: GradTarget,
    /// Whether the step's own parameters learn.
    pub trains: bool,
}

/// A value's place: elements for one sample, and the buffer it lies in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Value {
    pub len: usize,
    pub buffer: usize,
}

/// Steps in order, with the memory they need.
pub(super) struct Plan {
    pub steps: Vec<Step>,
    pub backward: Vec<BackwardStep>,
    pub values: Vec<Value>,
    /// The network's result.
    pub output: ValueId,
    /// The gradient of the result, where the loss puts it.
    pub grad_output: Option<ValueId>,
    /// Elements of each buffer for one sample.
    pub buffers: Vec<usize>,
    /// Steps that may run band by band, one after the other.
    pub chains: Vec<Chain>,
}

/// What a plan is for.
#[derive(Clone, Copy)]
pub(super) enum Mode<'a> {
    /// Evaluation: every batch norm after a convolution is folded, dropout is absent.
    Inference,
    /// Training of these layers, with batch norms in this mode.
    Training(&'a Trainable, BatchNormMode),
}

impl Plan {
    /// Plans a graph.
    ///
    /// # Errors
    /// [`Error::Graph`] if the layers don't fit together, [`Error::Unsupported`] for a setting without a kernel.
    pub fn new(graph: &Graph, mode: Mode) -> Result<Self, Error> {
        let mut lowering = Lowering::new(graph, mode)?;
        for node in 1..graph.nodes().len() {
            if lowering.value_of[node].is_none() && !lowering.absorbed[node] {
                lowering.lower(node)?;
            }
        }
        let output = lowering.value_of[graph.output()].expect("every node has been lowered");
        let Lowering { steps, mut lens, .. } = lowering;
        let (backward, grad_output) = match mode {
            Mode::Inference => (Vec::new(), None),
            Mode::Training(trainable, _) => plan_backward(&steps, trainable, output, &mut lens),
        };
        let chains = match mode {
            Mode::Inference => bands::chains(&steps, &lens, output),
            Mode::Training(..) => Vec::new(),
        };
        let mut lifetimes = lifetimes(&steps, &backward, &lens, output, grad_output);
        // A chain writes its result while it still reads what it begins with.
        for steps in chains.iter().map(|chain| &steps[chain.steps.clone()]) {
            let times = [steps[0].output, steps[steps.len() - 1].output].map(|value| lifetimes[value].first);
            for &value in steps.iter().flat_map(|step| step.inputs.iter().chain(&step.residual).chain([&step.output])) {
                times.into_iter().for_each(|time| lifetimes[value].touch(time));
            }
        }
        let (assigned, buffers) = memory::assign(&lens, &lifetimes);
        let values = lens.iter().zip(assigned).map(|(&len, buffer)| Value { len, buffer }).collect();
        Ok(Self { steps, backward, values, output, grad_output, buffers, chains })
    }

    /// The first batch norm that would take its statistics from a single value per channel of `n` samples: the
    /// variance would be 0, and the running one would shrink with every such batch. PyTorch refuses these too.
    pub fn without_variance(&self, n: usize) -> Option<NodeId> {
        let lacks = |step: &&Step| {
            matches!(step.kind, Kind::BatchNorm { batch_statistics: true, .. })
                && n * self.values[step.output].len == step.channels
        };
        self.steps.iter().find(lacks).map(|step| step.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regraft_graph::zoo;

    fn kinds(plan: &Plan) -> Vec<&'static str> {
        let name = |step: &Step| match step.kind {
            Kind::Conv { .. } => "conv",
            Kind::BatchNorm { .. } => "bn",
            Kind::Linear => "linear",
            Kind::Cosine => "cosine",
            Kind::MaxPool { .. } => "max",
            Kind::AvgPool { .. } => "avg",
            Kind::Concat { .. } => "concat",
            Kind::Dropout { .. } => "dropout",
            Kind::Flatten { .. } => "flatten",
            Kind::Identity => "identity",
            _ => "other",
        };
        plan.steps.iter().map(name).collect()
    }

    #[test]
    fn inference_of_a_residual_network_is_convolutions_and_little_else() {
        let plan = Plan::new(&zoo::build("resnet18", 10).unwrap(), Mode::Inference).unwrap();
        let kinds = kinds(&plan);
        assert_eq!(kinds.iter().filter(|&&k| k == "conv").count(), 20);
        assert_eq!(kinds.len(), 20 + 3, "max pool, average pool, fc: {kinds:?}");
        assert_eq!(plan.steps.iter().filter(|step| step.residual.is_some()).count(), 8);
        assert!(plan.backward.is_empty());
    }

    #[test]
    fn inference_needs_memory_for_few_maps_at_a_time() {
        let plan = Plan::new(&zoo::build("resnet18", 10).unwrap(), Mode::Inference).unwrap();
        let largest = 64 * 112 * 112;
        let total: usize = plan.buffers.iter().sum();
        assert!(total <= largest + 2 * 64 * 56 * 56, "{total} elements");
    }

    #[test]
    fn a_frozen_network_keeps_nothing_and_has_no_backward_below_its_head() {
        let graph = zoo::build("resnet18", 10).unwrap();
        let trainable = Trainable::only(&graph, graph.head().unwrap());
        let plan = Plan::new(&graph, Mode::Training(&trainable, BatchNormMode::Train)).unwrap();
        assert_eq!(plan.backward.len(), 1);
        assert_eq!(plan.backward[0].grad_inputs, [None]);
        let inference = Plan::new(&graph, Mode::Inference).unwrap();
        let total = |plan: &Plan| plan.buffers.iter().sum::<usize>();
        assert!(total(&plan) <= total(&inference) + 2 * 512, "{} against {}", total(&plan), total(&inference));
    }

    #[test]
    fn partial_fine_tuning_stops_at_the_first_trainable_layer() {
        let graph = zoo::build("resnet18", 10).unwrap();
        let trainable = Trainable::from_layer(&graph, "layer4").unwrap();
        let plan = Plan::new(&graph, Mode::Training(&trainable, BatchNormMode::Train)).unwrap();
        for back in &plan.backward {
            let name = &graph.nodes()[plan.steps[back.step].node].name;
            assert!(["layer4", "avgpool", "fc"].iter().any(|part| name.starts_with(part)), "{name}");
        }
        // layer4.0.conv1 and layer4.0.downsample.0 learn, but nothing below wants their inputs' gradients.
        let lowest = plan.backward.iter().filter(|back| back.grad_inputs == [None]);
        let names: Vec<_> = lowest.map(|back| &graph.nodes()[plan.steps[back.step].node].name).collect();
        assert_eq!(names, ["layer4.0.downsample.0", "layer4.0.conv1"]);
    }

    #[test]
    fn values_alive_at_the_same_time_never_share_a_buffer() {
        for &name in zoo::NAMES {
            let graph = zoo::build(name, 10).unwrap();
            let trainable = Trainable::all(&graph);
            for mode in [Mode::Inference, Mode::Training(&trainable, BatchNormMode::Train)] {
                let plan = Plan::new(&graph, mode).unwrap();
                let lens: Vec<usize> = plan.values.iter().map(|value| value.len).collect();
                let lives = lifetimes(&plan.steps, &plan.backward, &lens, plan.output, plan.grad_output);
                for a in 1..lens.len() {
                    for b in a + 1..lens.len() {
                        let apart = lives[a].last < lives[b].first || lives[b].last < lives[a].first;
                        assert!(apart || plan.values[a].buffer != plan.values[b].buffer, "{name}: {a} and {b}");
                    }
                }
            }
        }
    }
}

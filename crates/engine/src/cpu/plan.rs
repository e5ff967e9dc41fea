//! From a graph to the steps that run: fusion, what needs a gradient, and what must be kept for it.

use regraft_graph::{AvgPool2d, Conv2d, Graph, MaxPool2d, NodeId, Op, Shape, Trainable};
use regraft_kernels::{Activation, pool};

use super::bands::{self, Chain};
use super::memory::{self, Lifetime};
use crate::{BatchNormMode, Error};

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

struct Lowering<'a> {
    graph: &'a Graph,
    mode: Mode<'a>,
    shapes: Vec<Shape>,
    /// The only reader of a node, if there is just one.
    only_reader: Vec<Option<NodeId>>,
    steps: Vec<Step>,
    lens: Vec<usize>,
    value_of: Vec<Option<ValueId>>,
    /// Nodes inside a fused step, whose values never exist.
    absorbed: Vec<bool>,
}

/// The activation that an operation is, if it is one.
fn activation_of(op: &Op) -> Option<Activation> {
    Some(match op {
        Op::ReLU => Activation::ReLU,
        Op::ReLU6 => Activation::ReLU6,
        Op::Hardswish => Activation::Hardswish,
        Op::Hardsigmoid => Activation::Hardsigmoid,
        Op::SiLU => Activation::SiLU,
        Op::Sigmoid => Activation::Sigmoid,
        Op::GELU => Activation::GELU,
        _ => return None,
    })
}

/// Height and width of a map; a vector is a map of one pixel.
fn area(shape: Shape) -> [usize; 2] {
    match shape {
        Shape::Map { height, width, .. } => [height, width],
        Shape::Features(_) => [1, 1],
    }
}

impl<'a> Lowering<'a> {
    fn new(graph: &'a Graph, mode: Mode<'a>) -> Result<Self, Error> {
        let count = graph.nodes().len();
        let readers = graph.readers();
        let mut only_reader = vec![None; count];
        for (id, node) in graph.nodes().iter().enumerate() {
            for &input in node.inputs.iter().filter(|&&input| readers[input] == 1) {
                only_reader[input] = Some(id);
            }
        }
        let shapes = graph.shapes()?;
        let mut value_of = vec![None; count];
        value_of[0] = Some(0);
        let lens = vec![shapes[0].len()];
        let (steps, absorbed) = (Vec::new(), vec![false; count]);
        Ok(Self { graph, mode, shapes, only_reader, steps, lens, value_of, absorbed })
    }

    fn value(&self, node: NodeId) -> ValueId {
        self.value_of[node].expect("inputs are lowered before their readers")
    }

    fn op(&self, node: NodeId) -> &'a Op {
        &self.graph.nodes()[node].op
    }

    /// Lowers a node together with what can be fused after it.
    fn lower(&mut self, node: NodeId) -> Result<(), Error> {
        let input_shape = self.shapes[self.graph.nodes()[node].inputs[0]];
        let mut inputs: Vec<ValueId> = self.graph.nodes()[node].inputs.iter().map(|&input| self.value(input)).collect();
        let (input, output) = (area(input_shape), area(self.shapes[node]));
        let mut last = node;
        let kind = match self.op(node) {
            Op::Conv2d(conv) => {
                let folded = self.only_reader[node].filter(|&bn| self.folds(node, bn));
                last = folded.unwrap_or(node);
                let gathers = self.only_reader[node].filter(|&reader| self.takes_batch_statistics(reader));
                Kind::Conv { conv: *conv, input, output, folded, gathers }
            }
            Op::BatchNorm2d(bn) => {
                let gathers = |step: &Step| matches!(step.kind, Kind::Conv { gathers: Some(bn), .. } if bn == node);
                let from = self.steps.iter().position(gathers);
                let batch_statistics = self.takes_batch_statistics(node);
                Kind::BatchNorm { batch_statistics, eps: bn.eps, momentum: bn.momentum, from }
            }
            // On a map it is a convolution of single pixels.
            Op::Linear(linear) if matches!(input_shape, Shape::Map { .. }) => {
                let conv = Conv2d { bias: linear.bias, ..Conv2d::new(linear.in_features, linear.out_features, 1) };
                Kind::Conv { conv, input, output, folded: None, gathers: None }
            }
            Op::Linear(_) => Kind::Linear,
            Op::MaxPool2d(pool) => Kind::MaxPool { window: self.window(node, pool)?, input, output },
            Op::AdaptiveAvgPool2d { .. } if input == output => return self.alias(node, inputs[0]),
            Op::AdaptiveAvgPool2d { .. } => Kind::AvgPool { average: pool::Average::Adaptive, input, output },
            &Op::AvgPool2d(AvgPool2d { kernel_size, stride, padding }) => {
                let average = pool::Average::Window(pool::Window { kernel_size, stride, padding });
                Kind::AvgPool { average, input, output }
            }
            Op::LayerNorm { eps, .. } => Kind::LayerNorm { eps: *eps },
            Op::LayerScale { .. } => Kind::ScaleChannels { factor: None },
            Op::Scale { factor } => Kind::ScaleChannels { factor: Some(*factor) },
            Op::Mul => Kind::Gate { pixels: input[0] * input[1] },
            Op::Narrow { start, .. } => Kind::Narrow { start: *start, of: input_shape.channels() },
            Op::ChannelShuffle { groups } => Kind::Shuffle { groups: *groups },
            Op::Concat => Kind::Concat {
                channels: self.graph.nodes()[node].inputs.iter().map(|&input| self.shapes[input].channels()).collect(),
            },
            Op::Dropout { p } => match self.mode {
                Mode::Training(..) if *p > 0.0 => Kind::Dropout { p: *p },
                _ => return self.alias(node, inputs[0]),
            },
            Op::StochasticDepth { p } => match self.mode {
                Mode::Training(..) if *p > 0.0 => Kind::StochasticDepth { p: *p },
                _ => return self.alias(node, inputs[0]),
            },
            Op::Flatten if input == [1, 1] => return self.alias(node, inputs[0]),
            Op::Flatten => Kind::Flatten { pixels: input[0] * input[1] },
            Op::Add => Kind::Identity,
            Op::Input => unreachable!("the input is node 0"),
            op => match activation_of(op).expect("all other operations are above") {
                activation if self.fuses(activation) => Kind::Identity,
                activation => Kind::Activation(activation),
            },
        };
        let mut residual = None;
        let mut activation = Activation::Identity;
        match self.op(node) {
            Op::Add => residual = inputs.pop(),
            op if kind == Kind::Identity => activation = activation_of(op).unwrap_or(activation),
            _ => {}
        }
        let takes_residual = matches!(kind, Kind::Conv { .. } | Kind::BatchNorm { .. } | Kind::ScaleChannels { .. });
        if let (true, Some(add)) = (takes_residual, self.only_reader[last])
            && *self.op(add) == Op::Add
        {
            let other = self.graph.nodes()[add].inputs.iter().copied().find(|&input| input != last);
            if let Some(value) = other.and_then(|other| self.value_of[other]) {
                residual = Some(value);
                self.absorbed[last] = true;
                last = add;
            }
        }
        let takes_activation = takes_residual || matches!(kind, Kind::Linear) || *self.op(node) == Op::Add;
        if let (true, Some(reader)) = (takes_activation, self.only_reader[last]) {
            let fused = activation_of(self.op(reader)).filter(|&activation| self.fuses(activation));
            if let Some(fused) = fused {
                activation = fused;
                self.absorbed[last] = true;
                last = reader;
            }
        }
        if let Kind::Conv { folded: Some(bn), .. } = kind {
            self.absorbed[bn] = last != bn;
        }
        self.lens.push(self.shapes[last].len());
        let output = self.lens.len() - 1;
        self.value_of[last] = Some(output);
        let channels = self.shapes[last].channels();
        self.steps.push(Step { kind, node, inputs, residual, activation, output, channels });
        Ok(())
    }

    /// Whether an activation can be a step's epilogue: in training only where the backward pass can do without the value
    /// before it, which does not exist then.
    fn fuses(&self, activation: Activation) -> bool {
        matches!(self.mode, Mode::Inference) || activation.tells_from_output()
    }

    /// Whether a node is a batch norm that normalises with the batch's statistics.
    fn takes_batch_statistics(&self, node: NodeId) -> bool {
        let trains = matches!(self.mode,
            Mode::Training(trainable, BatchNormMode::Train) if trainable.contains(node));
        trains && matches!(self.op(node), Op::BatchNorm2d(_))
    }

    fn alias(&mut self, node: NodeId, value: ValueId) -> Result<(), Error> {
        self.value_of[node] = Some(value);
        Ok(())
    }

    /// Whether the reader of a convolution is a batch norm that can be folded into it.
    fn folds(&self, conv: NodeId, reader: NodeId) -> bool {
        let frozen = match self.mode {
            Mode::Inference => true,
            Mode::Training(trainable, _) => !trainable.contains(conv) && !trainable.contains(reader),
        };
        frozen && matches!(self.op(reader), Op::BatchNorm2d(_))
    }

    fn window(&self, node: NodeId, pool: &MaxPool2d) -> Result<pool::Window, Error> {
        if pool.kernel_size > pool::MAX_WINDOW {
            return Err(Error::Unsupported {
                engine: "cpu",
                layer: self.graph.nodes()[node].name.clone(),
                op: "MaxPool2d",
                reason: format!("kernel_size {} is above {}", pool.kernel_size, pool::MAX_WINDOW),
            });
        }
        Ok(pool::Window { kernel_size: pool.kernel_size, stride: pool.stride, padding: pool.padding })
    }
}

/// Plans the backward pass: only steps above the first trainable layer, each gradient in its own value.
fn plan_backward(
    steps: &[Step],
    trainable: &Trainable,
    output: ValueId,
    lens: &mut Vec<usize>,
) -> (Vec<BackwardStep>, Option<ValueId>) {
    let mut needs_grad = vec![false; lens.len()];
    for step in steps {
        let inputs_need = step.inputs.iter().chain(&step.residual).any(|&input| needs_grad[input]);
        needs_grad[step.output] = inputs_need || trainable.contains(step.node);
    }
    if !needs_grad[output] {
        return (Vec::new(), None);
    }
    let mut grad_of: Vec<Option<ValueId>> = vec![None; lens.len()];
    // Where the gradient of `value` goes, if it is wanted: a new value or, if given, `place`.
    let reach = |value: ValueId, place: Option<ValueId>, grad_of: &mut [Option<ValueId>], lens: &mut Vec<usize>| {
        if !needs_grad[value] {
            return None;
        }
        let accumulate = grad_of[value].is_some();
        let grad = *grad_of[value].get_or_insert_with(|| {
            place.unwrap_or_else(|| {
                lens.push(lens[value]);
                lens.len() - 1
            })
        });
        Some((grad, accumulate))
    };
    let grad_of_output = reach(output, None, &mut grad_of, lens).map(|(grad, _)| grad);
    let mut backward = Vec::new();
    for (index, step) in steps.iter().enumerate().rev() {
        // A step that nothing reads on the way to the loss has no gradient.
        let Some(grad_output) = grad_of[step.output] else { continue };
        // What was added has the output's gradient, and takes its place, if that is the first part of it; else an
        // elementwise step leaves its input's gradient there.
        let twice = step.residual == Some(step.inputs[0]);
        let place = Some(grad_output).filter(|_| !twice);
        let grad_residual = step.residual.and_then(|value| reach(value, place, &mut grad_of, lens));
        let elementwise = matches!(step.kind, Kind::BatchNorm { .. } | Kind::Identity);
        let taken = grad_residual == Some((grad_output, false));
        let place = Some(grad_output).filter(|_| elementwise && !taken);
        let grad_inputs = step.inputs.iter().map(|&input| reach(input, place, &mut grad_of, lens)).collect();
        let trains = trainable.contains(step.node);
        backward.push(BackwardStep { step: index, grad_output, grad_inputs, grad_residual, trains });
    }
    (backward, grad_of_output)
}

/// When each value comes to be and when it is last read: forward steps in order, the loss, backward steps.
fn lifetimes(
    steps: &[Step],
    backward: &[BackwardStep],
    lens: &[usize],
    output: ValueId,
    grad_output: Option<ValueId>,
) -> Vec<Lifetime> {
    let mut lifetimes = vec![Lifetime::default(); lens.len()];
    for (time, step) in steps.iter().enumerate() {
        lifetimes[step.output].touch(time);
        for &input in step.inputs.iter().chain(&step.residual) {
            lifetimes[input].touch(time);
        }
    }
    let loss = steps.len();
    lifetimes[output].touch(loss);
    if let Some(grad) = grad_output {
        lifetimes[grad].touch(loss);
    }
    for (i, back) in backward.iter().enumerate() {
        let time = loss + 1 + i;
        let step = &steps[back.step];
        let targets = back.grad_inputs.iter().chain([&back.grad_residual]);
        for (grad, _) in targets.flatten() {
            lifetimes[*grad].touch(time);
        }
        lifetimes[back.grad_output].touch(time);
        if step.activation != Activation::Identity {
            lifetimes[step.output].touch(time);
        }
        if reads_input(step, back) {
            step.inputs.iter().for_each(|&input| lifetimes[input].touch(time));
        }
    }
    lifetimes
}

/// Whether the backward pass of a step reads the step's inputs.
fn reads_input(step: &Step, back: &BackwardStep) -> bool {
    match step.kind {
        Kind::Conv { .. } | Kind::Linear | Kind::ScaleChannels { factor: None } => back.trains,
        Kind::Activation(_) | Kind::Gate { .. } | Kind::LayerNorm { .. } => true,
        Kind::BatchNorm { batch_statistics, .. } => batch_statistics || back.trains,
        _ => false,
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

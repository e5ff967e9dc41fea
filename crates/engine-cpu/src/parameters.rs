//! The network's tensors in the kernels' layouts, with their gradients and the optimiser's tensors.

use regraft_graph::{Conv2d, Graph, NodeId, Op, ParameterKind, ParameterSpec, Shape, StateDict, Tensor, Trainable};
use regraft_kernels::batch_norm::Affine;
use regraft_kernels::conv::{pack_weight, unpack_weight};
use regraft_kernels::optim::{AdamW, Sgd};

use regraft_engine::{BatchNormMode, Error, UpdateRule};

/// How a tensor's elements are arranged.
#[derive(Clone, Copy)]
enum Layout {
    /// As PyTorch has them.
    AsIs,
    /// A convolution's weight, packed for the kernels.
    ConvWeight { out_channels: usize, in_per_group: usize, taps: usize },
}

impl Layout {
    fn of(op: &Op, output: Shape, suffix: &str) -> Self {
        match op {
            // On a map it is computed as a convolution of single pixels.
            Op::Linear(linear) if suffix == "weight" && matches!(output, Shape::Map { .. }) => {
                Layout::ConvWeight { out_channels: linear.out_features, in_per_group: linear.in_features, taps: 1 }
            }
            Op::Conv2d(conv) if suffix == "weight" => Layout::ConvWeight {
                out_channels: conv.out_channels,
                in_per_group: conv.in_channels / conv.groups,
                taps: conv.kernel_size[0] * conv.kernel_size[1],
            },
            _ => Layout::AsIs,
        }
    }

    fn pack(self, values: &[f32]) -> Vec<f32> {
        match self {
            Layout::AsIs => values.to_vec(),
            Layout::ConvWeight { out_channels, in_per_group, taps } => {
                pack_weight(out_channels, in_per_group, taps, values)
            }
        }
    }

    fn unpack(self, values: &[f32]) -> Vec<f32> {
        match self {
            Layout::AsIs => values.to_vec(),
            Layout::ConvWeight { out_channels, in_per_group, taps } => {
                unpack_weight(out_channels, in_per_group, taps, values)
            }
        }
    }
}

/// One named tensor.
struct Parameter {
    spec: ParameterSpec,
    layout: Layout,
    values: Vec<f32>,
    /// Empty unless the tensor learns.
    grad: Vec<f32>,
    /// The optimiser's tensors; empty unless the tensor learns.
    slots: Vec<Vec<f32>>,
    /// Whether training changes it: it learns, or it is a running statistic that moves.
    changes: bool,
    /// Factor of the learning rate.
    rate: f64,
    /// Steps it has taken.
    steps: u64,
}

impl Parameter {
    fn learns(&self) -> bool {
        self.changes && self.spec.kind == ParameterKind::Parameter
    }

    fn export(&self, values: &[f32]) -> Tensor {
        Tensor::new(self.spec.shape.clone(), self.layout.unpack(values))
    }
}

/// A convolution's weight and bias with a batch norm folded in.
#[derive(Clone)]
pub(super) struct Folded {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

/// All tensors of a network.
pub(super) struct Parameters {
    all: Vec<Parameter>,
    /// For each node, where its tensors are.
    of_node: Vec<Vec<(&'static str, usize)>>,
    rule: UpdateRule,
    /// Counts the changes, so that what is derived from the tensors knows when it is stale.
    version: u64,
}

impl Parameters {
    /// Takes the graph's tensors from `state`.
    ///
    /// # Errors
    /// [`Error::Tensor`] if one is absent or misshapen.
    pub fn new(
        graph: &Graph,
        state: &StateDict,
        trainable: &Trainable,
        batch_norm: BatchNormMode,
        rule: UpdateRule,
    ) -> Result<Self, Error> {
        let mut all = Vec::new();
        let mut of_node = vec![Vec::new(); graph.nodes().len()];
        let shapes = graph.shapes()?;
        for spec in graph.parameters() {
            let tensor = find(state, &spec.name, &spec.shape)?;
            let op = &graph.nodes()[spec.node].op;
            let suffix = op.parameters().into_iter().map(|(suffix, ..)| suffix);
            let suffix = suffix.into_iter().find(|s| spec.name.ends_with(s)).expect("a name ends in its suffix");
            let learned = spec.kind == ParameterKind::Parameter;
            let changes =
                trainable.contains(spec.node) && (learned || batch_norm.takes_batch_statistics(trainable, spec.node));
            let layout = Layout::of(op, shapes[spec.node], suffix);
            let room = || if changes && learned { vec![0.0; spec.len()] } else { Vec::new() };
            let slots = rule.slots().iter().map(|_| room()).collect();
            of_node[spec.node].push((suffix, all.len()));
            let (values, rate) = (layout.pack(tensor.data()), trainable.rate(spec.node));
            all.push(Parameter { values, grad: room(), slots, layout, changes, rate, steps: 0, spec });
        }
        Ok(Self { all, of_node, rule, version: 0 })
    }

    fn index(&self, node: NodeId, suffix: &str) -> Option<usize> {
        self.of_node[node].iter().find(|(s, _)| *s == suffix).map(|&(_, index)| index)
    }

    /// A tensor of a node (`weight`, `running_mean`, ...), if it has one of that name.
    pub fn get(&self, node: NodeId, suffix: &str) -> Option<&[f32]> {
        self.index(node, suffix).map(|index| self.all[index].values.as_slice())
    }

    /// A tensor that the node's operation always has.
    pub fn expect(&self, node: NodeId, suffix: &str) -> &[f32] {
        self.get(node, suffix).expect("the operation has this tensor")
    }

    /// A learning tensor's values and its gradient, to write.
    pub fn grad_mut(&mut self, node: NodeId, suffix: &str) -> Option<&mut [f32]> {
        let index = self.index(node, suffix)?;
        Some(&mut self.all[index].grad)
    }

    /// The running statistics of a batch norm, to move. Nothing derived goes stale: training does not use them.
    pub fn running_mut(&mut self, node: NodeId) -> [&mut [f32]; 2] {
        let mean = self.index(node, "running_mean").expect("a batch norm has running statistics");
        let (head, tail) = self.all.split_at_mut(mean + 1);
        [&mut head[mean].values, &mut tail[0].values]
    }

    /// What each of a node's channels is multiplied with: learned factors, or a given one.
    pub fn channel_factors(&self, node: NodeId, given: Option<f32>, channels: usize) -> Vec<f32> {
        given.map_or_else(|| self.expect(node, "layer_scale").to_vec(), |factor| vec![factor; channels])
    }

    /// The affine map that a batch norm's running statistics define.
    pub fn affine(&self, node: NodeId, eps: f32) -> Affine {
        let of = |suffix| self.expect(node, suffix);
        Affine::new(of("weight"), of("bias"), of("running_mean"), of("running_var"), eps)
    }

    /// The weight and bias of a convolution followed by a batch norm that is an affine map.
    pub fn fold(&self, node: NodeId, conv: &Conv2d, affine: &Affine) -> Folded {
        let mut weight = self.expect(node, "weight").to_vec();
        for row in weight.chunks_exact_mut(conv.out_channels) {
            for (w, &scale) in row.iter_mut().zip(&affine.scale) {
                *w *= scale;
            }
        }
        let bias = self.get(node, "bias");
        let bias = (0..conv.out_channels).map(|o| bias.map_or(0.0, |b| b[o]) * affine.scale[o] + affine.shift[o]);
        Folded { weight, bias: bias.collect() }
    }

    /// Frees a frozen weight that only exists folded from now on.
    pub fn drop_values(&mut self, node: NodeId) {
        for (_, index) in &self.of_node[node] {
            self.all[*index].values = Vec::new();
        }
    }

    pub fn visit_gradients(&mut self, visit: &mut dyn FnMut(&str, &mut [f32])) {
        for parameter in self.all.iter_mut().filter(|p| p.learns()) {
            visit(&parameter.spec.name, &mut parameter.grad);
        }
    }

    /// The gradient of every trainable parameter, in PyTorch's layouts.
    #[cfg(test)]
    pub fn gradients(&self) -> StateDict {
        self.all.iter().filter(|p| p.learns()).map(|p| (p.spec.name.clone(), p.export(&p.grad))).collect()
    }

    /// One step of the optimiser.
    pub fn update(&mut self, lr: f64) {
        self.version += 1;
        for parameter in self.all.iter_mut().filter(|p| p.learns()) {
            let Parameter { values, grad, slots, steps, rate, .. } = parameter;
            *steps += 1;
            let lr = lr * *rate;
            match (self.rule, slots.as_mut_slice()) {
                (UpdateRule::Sgd { momentum, weight_decay, nesterov }, [buffer]) => {
                    Sgd { lr, momentum, weight_decay, nesterov }.step(values, grad, buffer);
                }
                (UpdateRule::AdamW { betas, eps, weight_decay }, [first, second]) => {
                    AdamW { lr, betas, eps, weight_decay }.step(*steps, values, grad, first, second);
                }
                _ => unreachable!("a tensor has the slots of its rule"),
            }
        }
    }

    pub fn visit_trained(&mut self, visit: &mut dyn FnMut(&str, &mut [f32])) {
        for parameter in self.all.iter_mut().filter(|p| p.changes) {
            visit(&parameter.spec.name, &mut parameter.values);
        }
        self.version += 1;
    }

    /// Running statistics moved: what is folded for inference is stale.
    pub fn touch(&mut self) {
        self.version += 1;
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn trained_state(&self) -> StateDict {
        self.all.iter().filter(|p| p.changes).map(|p| (p.spec.name.clone(), p.export(&p.values))).collect()
    }

    pub fn optimizer_state(&self) -> StateDict {
        let mut state = StateDict::new();
        for parameter in self.all.iter().filter(|p| p.learns()) {
            for (name, slot) in self.rule.slots().iter().zip(&parameter.slots) {
                state.insert(slot_name(parameter, name), parameter.export(slot));
            }
            if self.rule.counts_steps() {
                state.insert(slot_name(parameter, STEP), Tensor::full([1], parameter.steps as f32));
            }
        }
        state
    }

    pub fn restore_trained(&mut self, state: &StateDict) -> Result<(), Error> {
        for parameter in self.all.iter().filter(|p| p.changes) {
            find(state, &parameter.spec.name, &parameter.spec.shape)?;
        }
        for parameter in self.all.iter_mut().filter(|p| p.changes) {
            parameter.values = parameter.layout.pack(state[&parameter.spec.name].data());
        }
        self.version += 1;
        Ok(())
    }

    pub fn restore_optimizer(&mut self, state: &StateDict) -> Result<(), Error> {
        let (slots, counts) = (self.rule.slots(), self.rule.counts_steps());
        for parameter in self.all.iter().filter(|p| p.learns()) {
            for slot in slots {
                find(state, &slot_name(parameter, slot), &parameter.spec.shape)?;
            }
            if counts {
                let name = slot_name(parameter, STEP);
                let step = find(state, &name, &[1])?.data()[0];
                if !(step >= 0.0 && step.fract() == 0.0) {
                    return Err(Error::Tensor { name, reason: format!("is {step}, which is no number of steps") });
                }
            }
        }
        for parameter in self.all.iter_mut().filter(|p| p.learns()) {
            for (i, slot) in slots.iter().enumerate() {
                parameter.slots[i] = parameter.layout.pack(state[&slot_name(parameter, slot)].data());
            }
            if counts {
                parameter.steps = state[&slot_name(parameter, STEP)].data()[0] as u64;
            }
        }
        Ok(())
    }
}

/// The number of steps that a parameter has taken, among the optimiser's tensors; exact up to 2^24, as in PyTorch.
const STEP: &str = "step";

/// The name of one of the optimiser's tensors.
fn slot_name(parameter: &Parameter, slot: &str) -> String {
    format!("{}.{slot}", parameter.spec.name)
}

/// The tensor of this name and shape.
fn find<'a>(state: &'a StateDict, name: &str, shape: &[usize]) -> Result<&'a Tensor, Error> {
    let wrong = |reason: String| Error::Tensor { name: name.into(), reason };
    let tensor = state.get(name).ok_or_else(|| wrong("is missing".into()))?;
    if tensor.shape() != shape {
        return Err(wrong(format!("has shape {:?} where the network needs {shape:?}", tensor.shape())));
    }
    Ok(tensor)
}

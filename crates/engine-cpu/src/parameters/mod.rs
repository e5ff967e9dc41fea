//! The network's tensors in the kernels' layouts, with their gradients, the optimiser's tensors and the average.

mod average;
mod gradients;
mod layout;
mod state;
mod update;

use regraft_engine::{BatchNormMode, Error, UpdateRule};
use regraft_graph::{Conv2d, Graph, NodeId, ParameterKind, ParameterSpec, StateDict, Tensor, Trainable};
use regraft_kernels::batch_norm::Affine;

use gradients::Waiting;
use layout::Layout;

/// One named tensor.
struct Parameter {
    spec: ParameterSpec,
    layout: Layout,
    /// Its values; those of the average while that is in use.
    values: Vec<f32>,
    /// The gradient of the last batch; empty unless the tensor learns.
    grad: Vec<f32>,
    /// Weighted sum of the gradients that wait, where there are several; empty before.
    sum: Vec<f32>,
    /// The optimiser's tensors; empty unless the tensor learns.
    slots: Vec<Vec<f32>>,
    /// The moving average, or the trained values while it is in use; empty before the first step that averages.
    average: Vec<f32>,
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

    /// Values of this tensor in PyTorch's layout.
    fn export(&self, values: &[f32]) -> Tensor {
        Tensor::new(self.spec.shape.clone(), self.layout.unpack(values))
    }
}

/// A convolution's weight and bias with a batch norm folded in.
#[derive(Clone)]
pub struct Folded {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
}

/// All tensors of a network.
pub struct Parameters {
    /// In the order of the graph's nodes.
    all: Vec<Parameter>,
    /// For each node, where its tensors are.
    of_node: Vec<Vec<(&'static str, usize)>>,
    rule: UpdateRule,
    /// Batches whose gradients wait for a step.
    waiting: Waiting,
    /// Whether there is a moving average.
    averages: bool,
    /// Whether the average has changed places with the trained values.
    average_in_use: bool,
    /// Counts changes, so that values derived from the tensors are known to be stale.
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
            let zeros = || if changes && learned { vec![0.0; spec.len()] } else { Vec::new() };
            of_node[spec.node].push((suffix, all.len()));
            all.push(Parameter {
                values: layout.pack(tensor.data()),
                grad: zeros(),
                sum: Vec::new(),
                slots: rule.slots().iter().map(|_| zeros()).collect(),
                average: Vec::new(),
                layout,
                changes,
                rate: trainable.rate(spec.node),
                steps: 0,
                spec,
            });
        }
        let (waiting, averages, average_in_use, version) = (Waiting::default(), false, false, 0);
        Ok(Self { all, of_node, rule, waiting, averages, average_in_use, version })
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

    /// The gradient of a learning tensor, to write.
    pub fn grad_mut(&mut self, node: NodeId, suffix: &str) -> Option<&mut [f32]> {
        let index = self.index(node, suffix)?;
        Some(&mut self.all[index].grad)
    }

    /// The running statistics of a batch norm, to move.
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

    /// Whether training changes a tensor of a node.
    pub fn changes(&self, node: NodeId) -> bool {
        self.of_node[node].iter().any(|&(_, index)| self.all[index].changes)
    }

    /// Frees the tensors of a frozen node that are only used in prepared form from now on.
    pub fn drop_values(&mut self, node: NodeId) {
        for (_, index) in &self.of_node[node] {
            self.all[*index].values = Vec::new();
        }
    }

    /// Number of changes so far.
    pub fn version(&self) -> u64 {
        self.version
    }
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

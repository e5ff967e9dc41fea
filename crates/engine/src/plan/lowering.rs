//! Lowering: which operations become one step, and what they read and write.

use regraft_graph::{AvgPool2d, Conv2d, Graph, MaxPool2d, NodeId, Op, Shape};

use super::{ActivationFn, Average, FoldedNorm, Kind, Mode, PoolWindow, Region, Step, ValueId};
use crate::Error;

/// A graph on its way to steps.
pub(super) struct Lowering<'a> {
    graph: &'a Graph,
    mode: Mode<'a>,
    shapes: Vec<Shape>,
    /// The only reader of a node, if there is just one and nobody else wants the node's value.
    only_reader: Vec<Option<NodeId>>,
    pub steps: Vec<Step>,
    /// Elements of each value for one sample.
    pub lens: Vec<usize>,
    value_of: Vec<Option<ValueId>>,
    /// Nodes inside a fused step, whose values never exist.
    absorbed: Vec<bool>,
    /// The values of the region's outputs.
    pub outputs: Vec<ValueId>,
}

/// Height and width of a map; a vector is a map of one pixel.
fn area(shape: Shape) -> [usize; 2] {
    match shape {
        Shape::Map { height, width, .. } => [height, width],
        Shape::Features(_) => [1, 1],
    }
}

/// The nodes that a region computes: those above its input that its outputs depend on.
fn needed(graph: &Graph, region: Region) -> Result<Vec<bool>, Error> {
    let nodes = graph.nodes();
    let mut needed = vec![false; nodes.len()];
    for &output in region.outputs {
        let reason = || format!("the network has {} nodes", nodes.len());
        *needed.get_mut(output).ok_or_else(|| Error::Output { node: output.to_string(), reason: reason() })? = true;
    }
    for id in (0..nodes.len()).rev().filter(|&id| id != region.input) {
        if !needed[id] {
            continue;
        }
        if id < region.input {
            let (layer, input) = (nodes[id].name.clone(), &nodes[region.input].name);
            let reason = format!("it is needed besides {input}, from which the region is to be computed");
            return Err(regraft_graph::Error::Invalid { layer, reason }.into());
        }
        nodes[id].inputs.iter().for_each(|&input| needed[input] = true);
    }
    needed[region.input] = false;
    Ok(needed)
}

impl<'a> Lowering<'a> {
    /// Lowers a region.
    pub fn run(graph: &'a Graph, region: Region, mode: Mode<'a>) -> Result<Self, Error> {
        let (count, shapes) = (graph.nodes().len(), graph.shapes()?);
        let needed = needed(graph, region)?;
        let mut readers = vec![Vec::new(); count];
        for id in (0..count).filter(|&id| needed[id]) {
            graph.nodes()[id].inputs.iter().for_each(|&input| readers[input].push(id));
        }
        // An output's value must exist, so nothing is fused after it.
        let only = |(id, readers): (NodeId, Vec<NodeId>)| match readers[..] {
            [reader] if !region.outputs.contains(&id) => Some(reader),
            _ => None,
        };
        let only_reader = readers.into_iter().enumerate().map(only).collect();
        let mut value_of = vec![None; count];
        value_of[region.input] = Some(0);
        let lens = vec![shapes[region.input].len()];
        let (steps, outputs, absorbed) = (Vec::new(), Vec::new(), vec![false; count]);
        let mut it = Self { graph, mode, shapes, only_reader, steps, lens, value_of, absorbed, outputs };
        for node in (0..count).filter(|&node| needed[node]) {
            if it.value_of[node].is_none() && !it.absorbed[node] {
                it.lower(node);
            }
        }
        it.outputs = region.outputs.iter().map(|&node| it.value(node)).collect();
        Ok(it)
    }

    fn value(&self, node: NodeId) -> ValueId {
        self.value_of[node].expect("inputs are lowered before their readers")
    }

    fn op(&self, node: NodeId) -> &'a Op {
        &self.graph.nodes()[node].op
    }

    /// Lowers a node together with what can be fused after it.
    fn lower(&mut self, node: NodeId) {
        let input_shape = self.shapes[self.graph.nodes()[node].inputs[0]];
        let mut inputs: Vec<ValueId> = self.graph.nodes()[node].inputs.iter().map(|&input| self.value(input)).collect();
        let (input, output) = (area(input_shape), area(self.shapes[node]));
        let mut last = node;
        let kind = match self.op(node) {
            Op::Conv2d(conv) => {
                let folded = self.only_reader[node].and_then(|reader| self.folds(node, reader));
                last = folded.map_or(node, |bn| bn.node);
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
            Op::CosineLinear(_) => Kind::Cosine,
            &Op::MaxPool2d(MaxPool2d { kernel_size, stride, padding, .. }) => {
                Kind::MaxPool { window: PoolWindow { kernel_size, stride, padding }, input, output }
            }
            Op::AdaptiveAvgPool2d { .. } if input == output => return self.alias(node, inputs[0]),
            Op::AdaptiveAvgPool2d { .. } => Kind::AvgPool { average: Average::Adaptive, input, output },
            &Op::AvgPool2d(AvgPool2d { kernel_size, stride, padding }) => {
                let average = Average::Window(PoolWindow { kernel_size, stride, padding });
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
            op => match ActivationFn::of(op).expect("all other operations are above") {
                activation if self.fuses(activation) => Kind::Identity,
                activation => Kind::Activation(activation),
            },
        };
        let mut residual = None;
        let mut activation = ActivationFn::Identity;
        match self.op(node) {
            Op::Add => residual = inputs.pop(),
            op if kind == Kind::Identity => activation = ActivationFn::of(op).unwrap_or(activation),
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
            let fused = ActivationFn::of(self.op(reader)).filter(|&activation| self.fuses(activation));
            if let Some(fused) = fused {
                activation = fused;
                self.absorbed[last] = true;
                last = reader;
            }
        }
        if let Kind::Conv { folded: Some(bn), .. } = kind {
            self.absorbed[bn.node] = last != bn.node;
        }
        self.lens.push(self.shapes[last].len());
        let output = self.lens.len() - 1;
        self.value_of[last] = Some(output);
        let channels = self.shapes[last].channels();
        self.steps.push(Step { kind, node, inputs, residual, activation, output, channels });
    }

    /// Whether an activation can be a step's epilogue. The value before it does not exist then, so where there is a
    /// backward pass it must do without.
    fn fuses(&self, activation: ActivationFn) -> bool {
        matches!(self.mode, Mode::Inference) || activation.derivative_from_output()
    }

    /// Whether a node is a batch norm that normalises with the batch's statistics.
    fn takes_batch_statistics(&self, node: NodeId) -> bool {
        let trains = matches!(self.mode,
            Mode::Training(trainable, mode) if mode.takes_batch_statistics(trainable, node));
        trains && matches!(self.op(node), Op::BatchNorm2d(_))
    }

    fn alias(&mut self, node: NodeId, value: ValueId) {
        self.value_of[node] = Some(value);
    }

    /// The reader of a convolution, if it is a batch norm that can be folded into it.
    fn folds(&self, conv: NodeId, reader: NodeId) -> Option<FoldedNorm> {
        let frozen = match self.mode {
            Mode::Inference | Mode::Gradient => true,
            Mode::Training(trainable, _) => !trainable.contains(conv) && !trainable.contains(reader),
        };
        match self.op(reader) {
            Op::BatchNorm2d(bn) if frozen => Some(FoldedNorm { node: reader, eps: bn.eps }),
            _ => None,
        }
    }
}

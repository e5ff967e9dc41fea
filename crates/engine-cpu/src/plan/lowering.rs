//! Lowering: which operations become one step, and what they read and write.

use regraft_graph::{AvgPool2d, Conv2d, Graph, MaxPool2d, NodeId, Op, Shape};
use regraft_kernels::{Activation, pool};

use super::{Kind, Mode, Step, ValueId};
use regraft_engine::Error;

/// A graph on its way to steps.
pub(super) struct Lowering<'a> {
    graph: &'a Graph,
    mode: Mode<'a>,
    shapes: Vec<Shape>,
    /// The only reader of a node, if there is just one.
    only_reader: Vec<Option<NodeId>>,
    pub steps: Vec<Step>,
    /// Elements of each value for one sample.
    pub lens: Vec<usize>,
    pub value_of: Vec<Option<ValueId>>,
    /// Nodes inside a fused step, whose values never exist.
    pub absorbed: Vec<bool>,
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
    pub fn new(graph: &'a Graph, mode: Mode<'a>) -> Result<Self, Error> {
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
    pub fn lower(&mut self, node: NodeId) -> Result<(), Error> {
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
            Op::CosineLinear(_) => Kind::Cosine,
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
            Mode::Training(trainable, mode) if mode.takes_batch_statistics(trainable, node));
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

//! What the architectures share: layers appended under a path of names.

use super::IMAGE_SIZE;
use crate::{AvgPool2d, BatchNorm2d, Conv2d, Graph, Linear, MaxPool2d, NodeId, Op, Shape};

/// The node that every network starts from: the images.
pub(super) const INPUT: NodeId = 0;

/// A graph under construction. Each method appends one layer that reads `from` and returns its id.
pub(super) struct Builder {
    graph: Graph,
    /// `eps` and `momentum` of its batch norms.
    norm: (f32, f32),
}

impl Builder {
    /// Starts from RGB images.
    pub fn new() -> Self {
        Self::for_pictures(Shape::rgb(IMAGE_SIZE))
    }

    /// Starts from pictures of another shape.
    pub fn for_pictures(shape: Shape) -> Self {
        Self { graph: Graph::new(shape), norm: (1e-5, 0.1) }
    }

    /// The same with other settings of the batch norms than PyTorch's defaults.
    pub fn norm(self, eps: f32, momentum: f32) -> Self {
        Self { norm: (eps, momentum), ..self }
    }

    /// An operation of one input without parameters, such as an activation.
    pub fn apply(&mut self, name: &str, from: NodeId, op: Op) -> NodeId {
        self.graph.push(name, op, &[from])
    }

    pub fn conv(&mut self, name: &str, from: NodeId, conv: Conv2d) -> NodeId {
        self.graph.push(name, Op::Conv2d(conv), &[from])
    }

    /// A batch norm over `channels`.
    pub fn batch_norm(&mut self, name: &str, from: NodeId, channels: usize) -> NodeId {
        let (eps, momentum) = self.norm;
        let bn = BatchNorm2d { num_features: channels, eps, momentum };
        self.graph.push(name, Op::BatchNorm2d(bn), &[from])
    }

    pub fn relu(&mut self, name: &str, from: NodeId) -> NodeId {
        self.graph.push(name, Op::ReLU, &[from])
    }

    pub fn layer_norm(&mut self, name: &str, from: NodeId, channels: usize) -> NodeId {
        self.graph.push(name, Op::LayerNorm { normalized_shape: channels, eps: 1e-6 }, &[from])
    }

    /// torchvision's `Conv2dNormActivation`: `path.0` to `path.2`.
    pub fn conv_norm_activation(&mut self, path: &str, from: NodeId, conv: Conv2d, activation: Option<Op>) -> NodeId {
        self.conv_norm_activation_at(path, 0, from, conv, activation)
    }

    /// The same as layers `index` to `index + 2` of a sequence.
    pub fn conv_norm_activation_at(
        &mut self,
        path: &str,
        index: usize,
        from: NodeId,
        conv: Conv2d,
        activation: Option<Op>,
    ) -> NodeId {
        let x = self.conv(&format!("{path}.{index}"), from, conv);
        let x = self.batch_norm(&format!("{path}.{}", index + 1), x, conv.out_channels);
        activation.map_or(x, |op| self.apply(&format!("{path}.{}", index + 2), x, op))
    }

    /// torchvision's `SqueezeExcitation` of `channels`, by way of `squeezed` ones.
    pub fn squeeze_excitation(
        &mut self,
        path: &str,
        from: NodeId,
        [channels, squeezed]: [usize; 2],
        activation: Op,
        scale_activation: Op,
    ) -> NodeId {
        let x = self.avg_pool(&format!("{path}.avgpool"), from, 1);
        let x = self.conv(&format!("{path}.fc1"), x, Conv2d::new(channels, squeezed, 1).bias());
        let x = self.apply(&format!("{path}.activation"), x, activation);
        let x = self.conv(&format!("{path}.fc2"), x, Conv2d::new(squeezed, channels, 1).bias());
        let factors = self.apply(&format!("{path}.scale_activation"), x, scale_activation);
        self.graph.push(format!("{path}.mul"), Op::Mul, &[from, factors])
    }

    pub fn max_pool(&mut self, name: &str, from: NodeId, pool: MaxPool2d) -> NodeId {
        self.graph.push(name, Op::MaxPool2d(pool), &[from])
    }

    /// Adaptive average pooling.
    pub fn avg_pool(&mut self, name: &str, from: NodeId, output_size: usize) -> NodeId {
        self.graph.push(name, Op::AdaptiveAvgPool2d { output_size }, &[from])
    }

    /// Average pooling over a window.
    pub fn avg_pool2d(&mut self, name: &str, from: NodeId, pool: AvgPool2d) -> NodeId {
        self.graph.push(name, Op::AvgPool2d(pool), &[from])
    }

    pub fn add(&mut self, name: &str, a: NodeId, b: NodeId) -> NodeId {
        self.graph.push(name, Op::Add, &[a, b])
    }

    pub fn concat(&mut self, name: &str, inputs: &[NodeId]) -> NodeId {
        self.graph.push(name, Op::Concat, inputs)
    }

    pub fn flatten(&mut self, name: &str, from: NodeId) -> NodeId {
        self.graph.push(name, Op::Flatten, &[from])
    }

    pub fn dropout(&mut self, name: &str, from: NodeId, p: f32) -> NodeId {
        self.graph.push(name, Op::Dropout { p }, &[from])
    }

    /// The usual end: global average pooling, dropout if `p` is above 0, and a fully connected layer of this name.
    pub fn pooled_head(&mut self, from: NodeId, dropout: (&str, f32), head: &str, in_features: usize, classes: usize) {
        let x = self.avg_pool("avgpool", from, 1);
        let mut x = self.flatten("flatten", x);
        if dropout.1 > 0.0 {
            x = self.dropout(dropout.0, x, dropout.1);
        }
        self.linear(head, x, in_features, classes);
    }

    pub fn linear(&mut self, name: &str, from: NodeId, in_features: usize, out_features: usize) -> NodeId {
        self.graph.push(name, Op::Linear(Linear { in_features, out_features, bias: true }), &[from])
    }

    pub fn linear_without_bias(&mut self, name: &str, from: NodeId, in_features: usize, out_features: usize) -> NodeId {
        self.graph.push(name, Op::Linear(Linear { in_features, out_features, bias: false }), &[from])
    }

    pub fn finish(self) -> Graph {
        self.graph
    }
}

/// torchvision's `_make_divisible`: the multiple of `divisor` nearest to `value`, but not more than a tenth below it.
pub(super) fn make_divisible(value: f64, divisor: usize) -> usize {
    let rounded = ((value + divisor as f64 / 2.0) as usize / divisor * divisor).max(divisor);
    if (rounded as f64) < 0.9 * value { rounded + divisor } else { rounded }
}

//! What the architectures share: layers appended under a path of names.

use super::IMAGE_SIZE;
use crate::{BatchNorm2d, Conv2d, Graph, Linear, MaxPool2d, NodeId, Op, Shape};

/// The node that every network starts from: the images.
pub(super) const INPUT: NodeId = 0;

/// A graph under construction. Each method appends one layer that reads `from` and returns its id.
pub(super) struct Builder {
    graph: Graph,
}

impl Builder {
    /// Starts from RGB images.
    pub fn new() -> Self {
        Self { graph: Graph::new(Shape::rgb(IMAGE_SIZE)) }
    }

    pub fn conv(&mut self, name: &str, from: NodeId, conv: Conv2d) -> NodeId {
        self.graph.push(name, Op::Conv2d(conv), &[from])
    }

    /// A batch norm over `channels`, with PyTorch's defaults.
    pub fn batch_norm(&mut self, name: &str, from: NodeId, channels: usize) -> NodeId {
        let bn = BatchNorm2d { num_features: channels, eps: 1e-5, momentum: 0.1 };
        self.graph.push(name, Op::BatchNorm2d(bn), &[from])
    }

    pub fn relu(&mut self, name: &str, from: NodeId) -> NodeId {
        self.graph.push(name, Op::ReLU, &[from])
    }

    pub fn relu6(&mut self, name: &str, from: NodeId) -> NodeId {
        self.graph.push(name, Op::ReLU6, &[from])
    }

    pub fn max_pool(&mut self, name: &str, from: NodeId, pool: MaxPool2d) -> NodeId {
        self.graph.push(name, Op::MaxPool2d(pool), &[from])
    }

    pub fn avg_pool(&mut self, name: &str, from: NodeId, output_size: usize) -> NodeId {
        self.graph.push(name, Op::AdaptiveAvgPool2d { output_size }, &[from])
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

    pub fn linear(&mut self, name: &str, from: NodeId, in_features: usize, out_features: usize) -> NodeId {
        self.graph.push(name, Op::Linear(Linear { in_features, out_features, bias: true }), &[from])
    }

    pub fn finish(self) -> Graph {
        self.graph
    }
}

//! What the names in a file stand for while its nodes are gone through.

use std::rc::Rc;

use regraft_graph::{NodeId, Shape};

use crate::activation::Step;
use crate::tensor::Constant;

/// What a name stands for.
#[derive(Clone)]
pub(crate) enum Value {
    /// Known before any picture is seen.
    Constant(Constant),
    /// Integers that a shape is computed from, some of which count the pictures of a batch.
    Integers(Integers),
    /// Depends on the picture.
    Data(Data),
    /// A softmax of logits, which are what is wanted.
    Probabilities(Data),
    /// A second output, such as a dropout's mask, which nothing here computes.
    Extra,
    /// The result of a node that is not supported, so that those after it need not be reported too.
    Unknown,
}

/// A vector of integers, or one alone.
#[derive(Clone, Debug)]
pub(crate) struct Integers {
    pub values: Vec<Dim>,
    /// Whether it is one alone, of no dimension.
    pub scalar: bool,
}

/// An integer in the computation of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dim {
    Known(i64),
    /// So many times the number of pictures in a batch, which is known only when the network runs.
    Batch(i64),
}

impl Dim {
    pub fn known(self) -> Option<i64> {
        match self {
            Dim::Known(n) => Some(n),
            Dim::Batch(_) => None,
        }
    }

    /// The result of `Add`, `Sub`, `Mul` or `Div`, if it can be said.
    pub fn combine(self, op: &str, other: Dim) -> Option<Dim> {
        use Dim::{Batch, Known};
        match (op, self, other) {
            ("Add", Known(a), Known(b)) => a.checked_add(b).map(Known),
            ("Sub", Known(a), Known(b)) => a.checked_sub(b).map(Known),
            ("Mul", Known(a), Known(b)) => a.checked_mul(b).map(Known),
            // ONNX rounds towards zero, as Rust does.
            ("Div", Known(a), Known(b)) => a.checked_div(b).map(Known),
            ("Add", Batch(a), Batch(b)) => a.checked_add(b).map(Batch),
            ("Mul", Batch(a), Known(b)) | ("Mul", Known(a), Batch(b)) => a.checked_mul(b).map(Batch),
            ("Div", Batch(a), Known(b)) if a.checked_rem(b) == Some(0) => a.checked_div(b).map(Batch),
            ("Div", Batch(a), Batch(b)) if a.checked_rem(b) == Some(0) => a.checked_div(b).map(Known),
            _ => None,
        }
    }
}

/// The value of a node of the graph, in the order of dimensions that the file has it in at this point.
#[derive(Clone)]
pub(crate) struct Data {
    pub node: NodeId,
    pub layout: Layout,
    /// What is still to be done to every element: parts of an activation that the file spells out.
    pub steps: Vec<Step>,
    /// The name of the layer that does this.
    pub name: Rc<str>,
}

/// How the file orders the dimensions of a feature map. The graph itself knows no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `[N, C, H, W]`; of a vector `[N, F]`.
    Standard,
    /// `[N, H, W, C]`.
    ChannelsLast,
    /// `[N, groups, C / groups, H, W]`: half way through a channel shuffle.
    Grouped(usize),
    /// `[N, C / groups, groups, H, W]`: the same after the exchange.
    Exchanged(usize),
}

impl Layout {
    /// The dimensions of one sample of this shape in this order.
    pub fn dims(self, shape: Shape) -> Vec<usize> {
        match (self, shape) {
            (_, Shape::Features(features)) => vec![features],
            (Layout::Standard, Shape::Map { channels, height, width }) => vec![channels, height, width],
            (Layout::ChannelsLast, Shape::Map { channels, height, width }) => vec![height, width, channels],
            (Layout::Grouped(groups), Shape::Map { channels, height, width }) => {
                vec![groups, channels / groups, height, width]
            }
            (Layout::Exchanged(groups), Shape::Map { channels, height, width }) => {
                vec![channels / groups, groups, height, width]
            }
        }
    }
}

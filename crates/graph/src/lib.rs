//! The network as a value.
//!
//! A [`Graph`] is a list of named operations in topological order, with torchvision's layer names and
//! PyTorch's semantics. What transfer learning does to a network is a function on that value:
//! [cutting](Graph::cut) it, [replacing its head](Graph::replace_head), choosing what is
//! [`Trainable`], printing a [summary](Graph::summary), storing it as JSON. The [`zoo`] builds the
//! known architectures. Nothing here computes: that is an engine's work.

mod error;
mod graph;
pub mod init;
mod op;
mod shape;
mod summary;
mod surgery;
mod tensor;
pub mod zoo;

pub use error::Error;
pub use graph::{Graph, Node, NodeId, ParameterSpec};
pub use op::{AvgPool2d, BatchNorm2d, Conv2d, Linear, MaxPool2d, Op, ParameterKind};
pub use shape::Shape;
pub use summary::LayerSummary;
pub use surgery::Trainable;
pub use tensor::{StateDict, Tensor};

//! The network as a value.
//!
//! A [`Graph`] is a list of named operations in topological order, with torchvision's layer names and
//! PyTorch's semantics. What transfer learning does to a network is a function on that value:
//! [cutting](Graph::cut) it, [narrowing](narrow()) it, [grafting a head on](Graph::graft), choosing what is
//! [`Trainable`], printing a [summary](Graph::summary), storing it as JSON. The [`zoo`] builds the
//! known architectures. Nothing here computes: that is an engine's work.

mod error;
mod graph;
mod head;
pub mod init;
mod narrow;
mod op;
mod shape;
mod stages;
mod summary;
mod surgery;
mod tensor;
mod trainable;
pub mod zoo;

pub use error::Error;
pub use graph::{Graph, Node, NodeId, ParameterSpec};
pub use head::{Grafted, HeadConvolution, HeadLayers};
pub use narrow::narrow;
pub use op::{AvgPool2d, BatchNorm2d, Conv2d, CosineLinear, Linear, MaxPool2d, Op, ParameterKind};
pub use shape::Shape;
pub use stages::Stage;
pub use summary::LayerSummary;
pub use tensor::{StateDict, Tensor};
pub use trainable::Trainable;

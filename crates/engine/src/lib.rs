//! Engines run networks.
//!
//! An [`Engine`] compiles a [`Graph`](regraft_graph::Graph) together with the set of layers that learn into a
//! [`Session`]: inference, gradients, updates. Because it sees the whole network and knows what is frozen, it can do
//! what an eager framework can't: fold a frozen batch norm into its convolution, keep no activation and compute no
//! gradient below the first layer that learns, reuse memory.
//!
//! This crate has what is the same on every device: the contract, the plan that lowers a graph to fused steps, and
//! the conformance suite that every engine must pass.

mod batch;
#[cfg(feature = "conformance")]
pub mod conformance;
mod contract;
mod error;
mod labels;
pub mod plan;
mod state;
mod update;

pub use batch::{Batch, Images, Input, Losses, Normalization, Targets, Want};
pub use contract::{
    BatchNormMode, Device, DeviceKind, Engine, LayerTime, MovingAverage, Outputs, Precision, Session, SessionOptions,
    StepOptions, StepReport, Trunk,
};
pub use error::Error;
pub use labels::Labels;
pub use state::{Activation, Pending, SessionState};
pub use update::UpdateRule;

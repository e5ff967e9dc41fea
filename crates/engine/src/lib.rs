//! Engines run networks.
//!
//! An [`Engine`] compiles a [`Graph`](regraft_graph::Graph) together with the set of layers that learn
//! into a [`Session`]: inference, gradients, updates. Because it sees the whole network and knows what is
//! frozen, it can do what an eager framework can't: fold a frozen batch norm into its convolution, keep no
//! activation and compute no gradient below the first layer that learns, reuse memory.
//!
//! [`CpuEngine`] is the engine with our own kernels. The contract keeps device memory behind the session
//! (weights, gradients and optimiser state are only copied out on request), so that a GPU engine can
//! implement it, and separates gradients from updates, so that data-parallel training can wrap it: see
//! [`Session`].

mod contract;
mod error;
mod labels;
mod update;

pub use contract::{Batch, BatchNormMode, Engine, LayerTime, Losses, Precision, Session, SessionOptions, Targets};
pub use error::Error;
pub use labels::Labels;
pub use update::UpdateRule;

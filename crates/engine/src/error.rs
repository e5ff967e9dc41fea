//! What can go wrong in an engine.

/// An error in compiling or running a network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network itself is wrong.
    #[error(transparent)]
    Graph(#[from] regraft_graph::Error),
    /// A tensor is absent or has another shape than the network says.
    #[error("tensor {name:?} {reason}")]
    Tensor {
        /// Full name of the tensor.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The engine cannot run this operation with these settings.
    #[error("the {engine} engine cannot run layer {layer:?} ({op}): {reason}")]
    Unsupported {
        /// The engine.
        engine: &'static str,
        /// Name of the layer.
        layer: String,
        /// Its operation.
        op: &'static str,
        /// Why not.
        reason: String,
    },
    /// The device lacks a precision.
    #[error("the {engine} engine cannot compute in bf16 here: {reason}; set `precision` to f32")]
    Precision {
        /// The engine.
        engine: &'static str,
        /// What is lacking.
        reason: String,
    },
    /// A batch does not fit the network.
    #[error("the batch does not fit the network: {0}")]
    Batch(String),
    /// The session was compiled without layers that learn.
    #[error("this session is for inference only: no layer of its network is trainable")]
    NothingToTrain,
    /// The machine did not give the threads asked for.
    #[error("cannot start {threads} threads: {reason}")]
    Threads {
        /// Number of threads.
        threads: usize,
        /// The system's reason.
        reason: String,
    },
    /// A step was asked for without a batch before it.
    #[error("there is no gradient to take a step with: accumulate a batch first")]
    NothingAccumulated,
    /// The moving average stands in the place of the weights.
    #[error("the moving average is in use, and training would change it: switch it off first")]
    AverageInUse,
    /// A node's value cannot be had.
    #[error("node {node:?} cannot be had: {reason}")]
    Output {
        /// Its name, or its number where there is no such node.
        node: String,
        /// Why not.
        reason: String,
    },
    /// Features were to be cached of a network that has none.
    #[error("no layers below those that learn are frozen, so there are no features to keep")]
    NoTrunk,
    /// The device failed or was lost.
    #[error("{device} failed: {reason}")]
    Device {
        /// The device.
        device: String,
        /// What it said.
        reason: String,
    },
    /// The group that trains together lost a member.
    #[error(transparent)]
    Collective(#[from] regraft_collective::Error),
}

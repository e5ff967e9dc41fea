//! What a session holds, in the layouts in which PyTorch stores it.

use regraft_graph::{StateDict, Tensor};

/// Everything that training has changed, so that another session, of this engine or of another, goes on from there to
/// the same result. All tensors are in PyTorch's layouts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionState {
    /// Parameters that learn and running statistics that move, by name.
    pub trained: StateDict,
    /// The optimiser's tensors, `<parameter>.<slot>`. Where the rule counts steps, each parameter has a count of its
    /// own, `<parameter>.step` of shape `[1]`, as in PyTorch.
    pub optimizer: StateDict,
    /// Gradients accumulated since the last step.
    pub pending: Pending,
    /// The moving average of `trained`; absent before the first step that averages.
    pub average: Option<StateDict>,
}

/// Gradients of batches that wait for their step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pending {
    /// Batches accumulated.
    pub batches: usize,
    /// Sum of their [`Losses::weight`](crate::Losses::weight).
    pub weight: f64,
    /// By parameter: of one batch the gradient of its mean loss, of several the sum of `weight * gradient` in their
    /// order. Empty if there are none.
    pub gradients: StateDict,
}

/// A node's value for one image, and the gradient of one of the network's outputs with respect to it: what Grad-CAM is
/// made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    /// `[channels, height, width]`, or `[features]`.
    pub values: Tensor,
    /// Of the same shape.
    pub gradients: Tensor,
}

//! The rule by which a step changes the parameters.

use serde::{Deserialize, Serialize};

/// An optimiser and its settings, with PyTorch's names and defaults. The learning rate comes with each step,
/// and a factor of it for each layer with [`Trainable`](regraft_graph::Trainable): PyTorch's parameter groups.
///
/// It is part of the contract because the parameters may live where only the engine can reach them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum UpdateRule {
    /// `torch.optim.SGD` without dampening.
    Sgd {
        /// Weight of the past steps.
        momentum: f64,
        /// L2 penalty.
        weight_decay: f64,
        /// Nesterov's form of momentum.
        nesterov: bool,
    },
    /// `torch.optim.AdamW`.
    AdamW {
        /// Decay of the first and second moments.
        betas: [f64; 2],
        /// Added to the root of the second moment.
        eps: f64,
        /// Decay of the parameter itself, times the learning rate.
        weight_decay: f64,
    },
}

impl UpdateRule {
    /// Names of the tensors that the rule keeps for each parameter, as PyTorch calls them.
    pub fn slots(&self) -> &'static [&'static str] {
        match self {
            UpdateRule::Sgd { .. } => &["momentum_buffer"],
            UpdateRule::AdamW { .. } => &["exp_avg", "exp_avg_sq"],
        }
    }

    /// Whether the rule depends on how many steps a parameter has taken.
    pub fn counts_steps(&self) -> bool {
        matches!(self, UpdateRule::AdamW { .. })
    }
}

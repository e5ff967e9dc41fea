//! What every engine must pass: the contract's promises, and PyTorch's numbers.
//!
//! [`check`] runs everything. Each group is a function of its own, so that a test for each makes failures readable.
//! A group panics with what differs. The expected numbers lie under `reference/` of this repository.

mod accumulation;
mod averaging;
mod collectives;
mod common;
mod devices;
mod features;
mod freezing;
mod gradients;
mod masks;
mod operations;
mod outputs;
mod recorder;
mod refusals;
mod resuming;
mod sharding;
mod steps;
mod updates;
mod zoo;

use crate::Engine;

pub use accumulation::{accumulation, clipping};
pub use averaging::averaging;
pub use collectives::collectives;
pub use devices::devices;
pub use features::{bytes, features};
pub use freezing::freezing;
pub use gradients::gradients;
pub use masks::masks;
pub use operations::{losses, operations};
pub use outputs::outputs;
pub use recorder::Recorder;
pub use refusals::refusals;
pub use resuming::resuming;
pub use sharding::sharding;
pub use steps::steps;
pub use updates::updates;
pub use zoo::zoo;

/// How far an engine's numbers may lie from those expected, in single precision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    /// Of one operation, or of up to six layers, against PyTorch in `f64`: relative to the largest element of a tensor.
    pub operation: f64,
    /// Of a loss and its gradient: relative to the largest element.
    pub loss: f64,
    /// Of a whole network's outputs against torchvision in `f64`: relative to the largest.
    pub network: f64,
    /// Of the losses, of about 2, in ten training steps of ResNet-18 against PyTorch in `f64`.
    pub steps: f64,
    /// Of the tensors after twelve steps of a small network, of order one, against PyTorch in `f64`.
    pub updates: f64,
    /// Of the same sums taken in another order, as batches of another size may be: relative to the largest element.
    pub order: f64,
}

impl Default for Tolerances {
    /// What rounding in `f32` costs.
    fn default() -> Self {
        Self {
            // Sums of at most a few thousand products, then up to six layers and a batch norm over as few as 24 values:
            // three times the worst that the CPU engine has shown.
            operation: 2e-5,
            // The CPU engine computes losses in `f64`; only storing them as `f32` rounds.
            loss: 1e-6,
            // torchvision in `f32` is up to 2e-6 away from itself in `f64` (recorded beside the logits), and folded batch
            // norms round differently.
            network: 1e-5,
            // PyTorch's own `f32` run is recorded beside its `f64` run: at most 5e-5 off. Winograd's rounding error is some
            // ten times that of plain sums; it can carry an activation over a kink, and AdamW's division lets a tiny
            // gradient's error through whole. Seen on the CPU: 1.5e-4 without vectors, 2e-5 with AVX-512.
            steps: 3e-4,
            // PyTorch's own `f32` run lies within 1e-6 of its `f64` one; AdamW divides by the root of the second moment,
            // which lets the error of a small gradient through whole.
            updates: 1e-5,
            // An engine may choose another algorithm for another batch size. Its rounding differs by 1e-5 of the scale in
            // each convolution, and a network has twenty or more.
            order: 1e-4,
        }
    }
}

/// A part of the suite.
pub type Group = fn(&dyn Engine, &Tolerances);

/// All parts of the suite by name.
pub const GROUPS: &[(&str, Group)] = &[
    ("devices", devices),
    ("operations", operations),
    ("losses", losses),
    ("zoo", zoo),
    ("steps", steps),
    ("updates", updates),
    ("freezing", freezing),
    ("resuming", resuming),
    ("accumulation", accumulation),
    ("clipping", clipping),
    ("averaging", averaging),
    ("masks", masks),
    ("outputs", outputs),
    ("gradients", gradients),
    ("features", features),
    ("bytes", bytes),
    ("refusals", refusals),
    ("collectives", collectives),
    ("sharding", sharding),
];

/// Runs the whole suite.
///
/// # Panics
/// At the first promise that the engine does not keep.
pub fn check(engine: &dyn Engine, tolerances: &Tolerances) {
    for (name, group) in GROUPS {
        eprintln!("conformance: {name}");
        group(engine, tolerances);
    }
}

//! What lies between gradients and weights as PyTorch has it, from `reference/steps/updates.py`.

use std::collections::BTreeMap;

use regraft_graph::Graph;
use serde::Deserialize;

use crate::steps::Optimizer;
use crate::{fixture, pattern};

/// What lies between gradients and weights, on a small network: `reference/steps/updates.json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Updates {
    /// Version of PyTorch that computed the values.
    #[serde(rename = "torch")]
    _torch: String,
    /// Batches a run.
    pub batches: usize,
    /// The network.
    pub graph: Graph,
    /// Its tensors at the start, flat.
    pub start: BTreeMap<String, Vec<f32>>,
    /// What was recorded, by name.
    pub runs: BTreeMap<String, UpdateRun>,
}

/// One run, by name of a tensor or of how the names of some begin.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateRun {
    /// The optimizer and its settings.
    pub optimizer: Optimizer,
    /// Factors of the learning rate: the first prefix that fits counts; 1 without any.
    #[serde(default)]
    pub rates: serde_json::Map<String, serde_json::Value>,
    /// The batch before which some layers join in.
    #[serde(default)]
    pub joins: BTreeMap<String, usize>,
    /// Largest norm of the gradients.
    pub clip_grad_norm: Option<f64>,
    /// Batches a step.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Decay of the moving average.
    pub ema: Option<f64>,
    /// Whether batch norms keep their running statistics.
    #[serde(default)]
    pub bn_frozen: bool,
    /// Mean loss of each batch.
    pub losses: Vec<f64>,
    /// Norm of the gradients before each step, where they are clipped.
    pub norms: Vec<f64>,
    /// All tensors after the last step, flat.
    pub after: BTreeMap<String, Vec<f64>>,
    /// Their moving averages.
    pub average: BTreeMap<String, Vec<f64>>,
}

fn one() -> usize {
    1
}

impl Updates {
    /// The images (`[n, 3, 6, 5]`, brighter from class to class) and labels of a batch.
    pub fn batch(&self, i: usize) -> (Vec<f32>, Vec<usize>) {
        let n = if i % 3 == 2 { 2 } else { 4 };
        let labels: Vec<usize> = (0..n).map(|j| (i + j) % 3).collect();
        let mut images = pattern::values(&format!("images{i}"), 4 * 3 * 6 * 5);
        images.truncate(n * 3 * 6 * 5);
        for (image, &label) in images.chunks_exact_mut(3 * 6 * 5).zip(&labels) {
            image.iter_mut().for_each(|x| *x += label as f32 - 1.0);
        }
        (images, labels)
    }
}

/// The record of `reference/steps/updates.py`.
///
/// # Panics
/// If the file is missing or not what the script writes.
#[track_caller]
pub fn updates() -> Updates {
    let path = fixture::path("steps/updates.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

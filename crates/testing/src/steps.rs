//! Ten training steps of torchvision's resnet18 as PyTorch takes them, from `reference/steps`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{fixture, pattern};

/// Side of the coloured squares of the images, in pixels.
const SQUARE: usize = 8;

/// What `reference/steps/generate.py` recorded.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Version of PyTorch that computed the values.
    pub torch: String,
    /// Number of steps of each run.
    pub steps: usize,
    /// Images in a batch.
    pub batch: usize,
    /// Height and width of the images, in pixels.
    pub side: usize,
    /// Classes of the network, which starts from [`pattern::state`].
    pub classes: usize,
    /// Sum of the pixels of batch 0, pixel `i` times `i mod 1009`, by which both sides know that they mean the same images.
    pub batch0_digest: f64,
    /// The runs by name.
    pub runs: BTreeMap<String, Run>,
}

/// One run with one optimiser.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// The optimiser and its settings.
    pub optimizer: Optimizer,
    /// Whether batch norms use and keep their running statistics (weight and bias learn all the same).
    pub bn_frozen: bool,
    /// Loss of each step before its update, in `f64`.
    pub losses: Vec<f64>,
    /// The same by PyTorch in `f32`: how far rounding alone carries a run off.
    pub losses_f32: Vec<f64>,
    /// After the last step, the first elements of some tensors of the `state_dict`.
    pub last: BTreeMap<String, Last>,
}

/// A few elements of one tensor after the last step.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Last {
    /// The tensor's first elements, in `f64`.
    pub values: Vec<f64>,
    /// The largest distance of one of them from where it started.
    pub change: f64,
    /// The largest distance between PyTorch's `f64` and `f32`.
    pub float32_error: f64,
}

/// `torch.optim`'s optimisers; decay applies to every parameter, biases and batch norms too.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Optimizer {
    /// `torch.optim.SGD`.
    Sgd {
        /// Learning rate.
        lr: f64,
        /// Share of the last update's direction that is kept.
        momentum: f64,
        /// Added to the gradient, times the parameter.
        weight_decay: f64,
        /// Whether to look ahead along the momentum.
        nesterov: bool,
    },
    /// `torch.optim.AdamW`.
    AdamW {
        /// Learning rate.
        lr: f64,
        /// Share of the old first and second moment that is kept.
        betas: [f64; 2],
        /// Added to the root of the second moment.
        eps: f64,
        /// Taken off the parameter, times itself and the learning rate.
        weight_decay: f64,
    },
}

impl Training {
    /// The images (`[batch, 3, side, side]`) and labels of one step: coloured squares and noise, brighter from
    /// class to class, so that there is something to learn.
    pub fn batch(&self, step: usize) -> (Vec<f32>, Vec<usize>) {
        let (side, squares) = (self.side, self.side / SQUARE);
        let labels: Vec<usize> = (0..self.batch).map(|j| (step * self.batch + j) % self.classes).collect();
        let coarse = pattern::values(&format!("coarse{step}"), self.batch * 3 * squares * squares);
        let mut images = pattern::values(&format!("fine{step}"), self.batch * 3 * side * side);
        for (plane, pixels) in images.chunks_exact_mut(side * side).enumerate() {
            let brightness = (labels[plane / 3] as f32 - 4.5) * 0.25;
            for (i, pixel) in pixels.iter_mut().enumerate() {
                let (row, column) = (i / side / SQUARE, i % side / SQUARE);
                *pixel = (coarse[(plane * squares + row) * squares + column] + *pixel * 0.25) + brightness;
            }
        }
        (images, labels)
    }
}

/// The recorded runs: `sgd`, `sgd_nesterov`, `sgd_bn_frozen`, `adamw`, `adamw_bn_frozen`.
///
/// # Panics
/// If the file is missing or not what `reference/steps/generate.py` writes.
#[track_caller]
pub fn training() -> Training {
    let path = fixture::path("steps/resnet18.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use regraft_graph::zoo;

    use super::*;

    #[test]
    fn the_record_fits_the_network_and_its_starting_weights() {
        let training = training();
        let state = pattern::state(&zoo::build("resnet18", training.classes).unwrap());
        assert_eq!(training.runs.len(), 5);
        for (name, run) in &training.runs {
            assert_eq!(run.losses.len(), training.steps, "{name}");
            assert_eq!(run.losses_f32.len(), training.steps, "{name}");
            for (tensor, last) in &run.last {
                let start = &state[tensor].data()[..last.values.len()];
                let moved = start.iter().zip(&last.values).map(|(&a, b)| (f64::from(a) - b).abs());
                let change = moved.fold(0.0, f64::max);
                assert!((change - last.change).abs() < 1e-12, "{name} {tensor}: {change} is not {}", last.change);
                let frozen = run.bn_frozen && tensor.contains("running_");
                assert_eq!(change == 0.0, frozen, "{name} {tensor} changed by {change}");
            }
        }
    }

    #[test]
    fn runs_start_alike_where_their_mode_is_the_same() {
        let runs = training().runs;
        for (a, b) in [("sgd", "sgd_nesterov"), ("sgd", "adamw"), ("sgd_bn_frozen", "adamw_bn_frozen")] {
            assert_eq!(runs[a].losses[0], runs[b].losses[0], "{a} {b}");
            assert_ne!(runs[a].losses[1], runs[b].losses[1], "{a} {b}");
        }
    }

    #[test]
    fn batches_are_those_of_python() {
        let training = training();
        let (images, labels) = training.batch(0);
        // Weighted by position, so that no pixel may trade places with another.
        let sum: f64 = images.iter().enumerate().map(|(i, &x)| (i % 1009) as f64 * f64::from(x)).sum();
        // The order of an f64 sum of 1e5 terms of size 1e3 moves it by less than 1e-6.
        assert!((sum - training.batch0_digest).abs() < 1e-6, "{sum} is not {}", training.batch0_digest);
        assert_eq!(labels, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(training.batch(2).1, [6, 7, 8, 9, 0, 1, 2, 3]);
    }
}

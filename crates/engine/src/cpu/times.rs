//! How long each step takes, where somebody asks.

use std::time::Instant;

use regraft_graph::Graph;
use regraft_kernels::conv::Algorithm;

use super::forward::conv_shape;
use super::plan::{Kind, Plan, Step};
use crate::LayerTime;

/// A part of the work on a batch.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Part {
    Forward,
    /// All of a step's backward pass, or a convolution's without the two below.
    Backward,
    InputGradient,
    WeightGradient,
}

/// What has been measured: parts in the order in which they first came.
#[derive(Default)]
pub(super) struct Times {
    parts: Vec<(usize, Part, f64, usize)>,
}

impl Times {
    /// Adds the time since `start` to a part of a step over `n` samples.
    pub fn add(&mut self, step: usize, part: Part, n: usize, start: Instant) {
        let seconds = start.elapsed().as_secs_f64();
        match self.parts.iter_mut().find(|entry| (entry.0, entry.1) == (step, part)) {
            Some(entry) => {
                entry.2 += seconds;
                entry.3 += n;
            }
            None => self.parts.push((step, part, seconds, n)),
        }
    }

    /// The measurements, for people.
    pub fn layers(&self, graph: &Graph, plan: &Plan) -> Vec<LayerTime> {
        let layer = |&(step, part, seconds, samples): &(usize, Part, f64, usize)| {
            let step = &plan.steps[step];
            let pass = match part {
                Part::Forward => "forward",
                Part::Backward => "backward",
                Part::InputGradient => "input gradient",
                Part::WeightGradient => "weight gradient",
            };
            let convolves = part != Part::Backward;
            LayerTime {
                layer: graph.nodes()[step.node].name.clone(),
                pass,
                kernel: kernel(step, convolves),
                seconds,
                operations: if convolves { operations(step) * samples as f64 } else { 0.0 },
            }
        };
        self.parts.iter().map(layer).collect()
    }
}

fn kernel(step: &Step, convolves: bool) -> &'static str {
    match &step.kind {
        Kind::Conv { .. } if !convolves => "epilogue",
        Kind::Conv { conv, input, output, .. } => match Algorithm::choose(&conv_shape(conv, 1, *input, *output)) {
            Algorithm::Winograd => "winograd",
            Algorithm::Direct => "direct",
            Algorithm::Depthwise => "depthwise",
        },
        Kind::BatchNorm { .. } => "batch norm",
        Kind::Linear => "linear",
        Kind::MaxPool { .. } => "max pool",
        Kind::AvgPool { .. } => "average pool",
        Kind::Concat { .. } => "concat",
        Kind::Dropout { .. } => "dropout",
        Kind::Flatten { .. } => "flatten",
        Kind::Identity => "elementwise",
    }
}

/// Operations of a convolution for one sample.
fn operations(step: &Step) -> f64 {
    match &step.kind {
        Kind::Conv { conv, input, output, .. } => {
            let shape = conv_shape(conv, 1, *input, *output);
            2.0 * (shape.output_len() * shape.taps() * (shape.in_channels / shape.groups)) as f64
        }
        _ => 0.0,
    }
}

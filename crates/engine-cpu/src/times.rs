//! How long each step takes, where somebody asks.

use std::time::Instant;

use regraft_engine::LayerTime;
use regraft_engine::plan::{Kind, Plan, Step};
use regraft_graph::Graph;

use crate::convert::conv_shape;

/// A part of the work on a batch.
#[derive(Clone, Copy, PartialEq)]
pub enum Part {
    Forward,
    /// All of a step's backward pass, or a convolution's without the two below.
    Backward,
    InputGradient,
    WeightGradient,
}

/// What has been measured: parts in the order in which they first came.
#[derive(Default)]
pub struct Times {
    parts: Vec<Measured>,
}

struct Measured {
    step: usize,
    part: Part,
    kernel: &'static str,
    seconds: f64,
    samples: usize,
}

impl Times {
    /// Adds the time since `start` to a part of a step over `samples` samples.
    pub fn add(&mut self, step: usize, part: Part, kernel: &'static str, samples: usize, start: Instant) {
        self.add_seconds(step, part, kernel, samples, start.elapsed().as_secs_f64());
    }

    /// Adds some seconds to a part of a step over `samples` samples.
    pub fn add_seconds(&mut self, step: usize, part: Part, kernel: &'static str, samples: usize, seconds: f64) {
        match self.parts.iter_mut().find(|it| (it.step, it.part, it.kernel) == (step, part, kernel)) {
            Some(it) => {
                it.seconds += seconds;
                it.samples += samples;
            }
            None => self.parts.push(Measured { step, part, kernel, seconds, samples }),
        }
    }

    /// The measurements, for people.
    pub fn layers(&self, graph: &Graph, plan: &Plan) -> Vec<LayerTime> {
        let layer = |&Measured { step, part, kernel, seconds, samples }: &Measured| {
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
                kernel,
                seconds,
                operations: if convolves { operations(step) * samples as f64 } else { 0.0 },
            }
        };
        self.parts.iter().map(layer).collect()
    }
}

/// What computes a step, if it is not a convolution.
pub fn kernel(step: &Step) -> &'static str {
    match &step.kind {
        Kind::Conv { .. } => "epilogue",
        Kind::BatchNorm { .. } => "batch norm",
        Kind::Linear => "linear",
        Kind::Cosine => "cosine",
        Kind::MaxPool { .. } => "max pool",
        Kind::AvgPool { .. } => "average pool",
        Kind::LayerNorm { .. } => "layer norm",
        Kind::ScaleChannels { .. } => "scale",
        Kind::Gate { .. } => "gate",
        Kind::Narrow { .. } => "narrow",
        Kind::Shuffle { .. } => "shuffle",
        Kind::Concat { .. } => "concat",
        Kind::Dropout { .. } => "dropout",
        Kind::StochasticDepth { .. } => "stochastic depth",
        Kind::Flatten { .. } => "flatten",
        Kind::Activation(_) | Kind::Identity => "elementwise",
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

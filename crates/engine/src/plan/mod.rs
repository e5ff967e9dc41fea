//! The plan: a network, or a region of one, as fused steps with the memory they need.
//!
//! A plan is the same on every device. It says which operations become one step, which batch norms are folded, which
//! values need a gradient, which must be kept for it, and which may share a buffer. An engine executes the steps in
//! order ([`Plan::steps`], then [`Plan::backward`]) or compiles them.
//!
//! [`Plan::new`] lowers the graph and assigns the buffers; [`Plan::interleaving`] keeps the values of steps apart that an
//! engine interleaves.

mod backward;
mod lowering;
mod memory;
mod ops;

use std::ops::Range;

use regraft_graph::{Graph, NodeId, Trainable};

use crate::{BatchNormMode, Error};
use backward::plan_backward;
use lowering::Lowering;
use memory::Lifetime;

pub use ops::{ActivationFn, Average, FoldedNorm, Kind, PoolWindow};

/// Index of a value (an activation or a gradient) in its plan. Value 0 is the region's input, which the caller holds.
pub type ValueId = usize;

/// The part of a network that a plan computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region<'a> {
    /// The node whose value is given: 0, the network's input, or a node that everything else passes through.
    pub input: NodeId,
    /// The nodes whose values are wanted. Only what they depend on is computed.
    pub outputs: &'a [NodeId],
}

/// What a plan is for.
#[derive(Clone, Copy, Debug)]
pub enum Mode<'a> {
    /// Evaluation: every batch norm after a convolution is folded, dropout is absent.
    Inference,
    /// Training of these layers with batch norms in this mode, from the gradient of the first output.
    Training(&'a Trainable, BatchNormMode),
    /// Evaluation, then backward from the gradient of the first output to that of the last one's value. No parameter
    /// gets a gradient.
    Gradient,
}

/// One fused step: an operation and its epilogue.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The operation.
    pub kind: Kind,
    /// The node whose parameters it uses.
    pub node: NodeId,
    /// What it reads.
    pub inputs: Vec<ValueId>,
    /// A value added to the result, before the activation.
    pub residual: Option<ValueId>,
    /// The function applied last.
    pub activation: ActivationFn,
    /// What it writes.
    pub output: ValueId,
    /// Channels of the output.
    pub channels: usize,
}

/// Where a gradient goes: the value, and whether to add to what is there.
pub type GradTarget = Option<(ValueId, bool)>;

/// The backward pass of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct BackwardStep {
    /// Index of the forward step.
    pub step: usize,
    /// The gradient of the step's output. It is overwritten where an input's gradient takes its place.
    pub grad_output: ValueId,
    /// Where the gradient of each input goes; `None` if it is not wanted.
    pub grad_inputs: Vec<GradTarget>,
    /// Where the gradient of the residual goes.
    pub grad_residual: GradTarget,
    /// Whether the step's own parameters learn.
    pub trains: bool,
}

impl Step {
    /// The values that it reads or writes.
    fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.inputs.iter().chain(&self.residual).chain([&self.output]).copied()
    }
}

/// A value's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// Elements of one sample.
    pub len: usize,
    /// The buffer it lies in; that of value 0 does not exist.
    pub buffer: usize,
}

/// Steps in order, with the memory they need.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The region's input node.
    pub input: NodeId,
    /// The forward steps in order.
    pub steps: Vec<Step>,
    /// The backward steps in order.
    pub backward: Vec<BackwardStep>,
    /// The place of each value.
    pub values: Vec<Value>,
    /// Elements of each buffer for one sample.
    pub buffers: Vec<usize>,
    /// The value of each of the region's outputs; none of them is overwritten.
    pub outputs: Vec<ValueId>,
    /// The gradient of the first output, which the caller writes before the backward steps.
    pub grad_output: Option<ValueId>,
    /// In [`Mode::Gradient`], the gradient that is wanted; absent if the first output does not depend on that value.
    pub gradient: Option<ValueId>,
}

impl Plan {
    /// Lowers a region of a graph and assigns buffers, for an engine that runs the steps one after the other.
    ///
    /// # Errors
    /// [`Error::Graph`] if the layers don't fit together or something reads past the region's input, [`Error::Output`]
    /// if an output is no node of the graph.
    pub fn new(graph: &Graph, region: Region, mode: Mode) -> Result<Self, Error> {
        Self::interleaving(graph, region, mode, |_| Vec::new())
    }

    /// As [`new`](Self::new), for an engine that interleaves some steps. `choose` gets the plan before its values have
    /// buffers and returns ranges of steps; the values that the steps of a range read and write are kept apart from its
    /// first step to its last.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn interleaving(
        graph: &Graph,
        region: Region,
        mode: Mode,
        choose: impl FnOnce(&Self) -> Vec<Range<usize>>,
    ) -> Result<Self, Error> {
        let mut plan = Self::lower(graph, region, mode)?;
        let ranges = choose(&plan);
        let mut lifetimes = plan.lifetimes();
        for range in ranges {
            for value in plan.steps[range.clone()].iter().flat_map(Step::values) {
                lifetimes[value].touch(range.start);
                lifetimes[value].touch(range.end - 1);
            }
        }
        plan.buffers = memory::assign(&mut plan.values, &lifetimes);
        Ok(plan)
    }

    /// The steps; no value has a buffer yet.
    fn lower(graph: &Graph, region: Region, mode: Mode) -> Result<Self, Error> {
        let Lowering { steps, mut lens, outputs, .. } = Lowering::run(graph, region, mode)?;
        let (backward, grad_output, gradient) = match (mode, &outputs[..]) {
            (Mode::Training(trainable, _), &[output, ..]) => {
                let trains = |step: &Step| trainable.contains(step.node);
                plan_backward(&steps, trains, None, output, &mut lens)
            }
            (Mode::Gradient, &[output, ..]) => {
                plan_backward(&steps, |_| false, outputs.last().copied(), output, &mut lens)
            }
            _ => (Vec::new(), None, None),
        };
        let values = lens.into_iter().map(|len| Value { len, buffer: usize::MAX }).collect();
        let (input, buffers) = (region.input, Vec::new());
        Ok(Self { input, steps, backward, values, buffers, outputs, grad_output, gradient })
    }

    /// When each value is first written and last read: forward steps in order, the loss, backward steps, the end.
    fn lifetimes(&self) -> Vec<Lifetime> {
        let mut lifetimes = vec![Lifetime::default(); self.values.len()];
        for (time, step) in self.steps.iter().enumerate() {
            step.values().for_each(|value| lifetimes[value].touch(time));
        }
        let loss = self.steps.len();
        if let Some(grad) = self.grad_output {
            lifetimes[grad].touch(loss);
        }
        for (i, back) in self.backward.iter().enumerate() {
            back.values(&self.steps[back.step]).for_each(|value| lifetimes[value].touch(loss + 1 + i));
        }
        let end = loss + 1 + self.backward.len();
        for &value in self.outputs.iter().chain(&self.gradient) {
            lifetimes[value].touch(end);
        }
        lifetimes
    }

    /// The layer by which a step's random mask is keyed: its node's number from the region's input on.
    pub fn mask_layer(&self, step: &Step) -> u64 {
        (step.node - self.input) as u64
    }

    /// The first batch norm that would take its statistics from a single value per channel of `n` samples: the
    /// variance would be 0, and the running one would shrink with every such batch. PyTorch refuses these too.
    pub fn without_variance(&self, n: usize) -> Option<NodeId> {
        let lacks = |step: &&Step| {
            matches!(step.kind, Kind::BatchNorm { batch_statistics: true, .. })
                && n * self.values[step.output].len == step.channels
        };
        self.steps.iter().find(lacks).map(|step| step.node)
    }
}

#[cfg(test)]
mod tests;

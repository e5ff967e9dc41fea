//! The backward pass of a plan: which steps have one, where gradients go, and how long values live for it.

use regraft_graph::Trainable;
use regraft_kernels::Activation;

use super::super::memory::Lifetime;
use super::{BackwardStep, Kind, Step, ValueId};

/// Plans the backward pass: only steps above the first trainable layer, each gradient in its own value.
pub(super) fn plan_backward(
    steps: &[Step],
    trainable: &Trainable,
    output: ValueId,
    lens: &mut Vec<usize>,
) -> (Vec<BackwardStep>, Option<ValueId>) {
    let mut needs_grad = vec![false; lens.len()];
    for step in steps {
        let inputs_need = step.inputs.iter().chain(&step.residual).any(|&input| needs_grad[input]);
        needs_grad[step.output] = inputs_need || trainable.contains(step.node);
    }
    if !needs_grad[output] {
        return (Vec::new(), None);
    }
    let mut grad_of: Vec<Option<ValueId>> = vec![None; lens.len()];
    // Where the gradient of `value` goes, if it is wanted: a new value or, if given, `place`.
    let reach = |value: ValueId, place: Option<ValueId>, grad_of: &mut [Option<ValueId>], lens: &mut Vec<usize>| {
        if !needs_grad[value] {
            return None;
        }
        let accumulate = grad_of[value].is_some();
        let grad = *grad_of[value].get_or_insert_with(|| {
            place.unwrap_or_else(|| {
                lens.push(lens[value]);
                lens.len() - 1
            })
        });
        Some((grad, accumulate))
    };
    let grad_of_output = reach(output, None, &mut grad_of, lens).map(|(grad, _)| grad);
    let mut backward = Vec::new();
    for (index, step) in steps.iter().enumerate().rev() {
        // A step that nothing reads on the way to the loss has no gradient.
        let Some(grad_output) = grad_of[step.output] else { continue };
        // What was added has the output's gradient, and takes its place, if that is the first part of it; else an
        // elementwise step leaves its input's gradient there.
        let twice = step.residual == Some(step.inputs[0]);
        let place = Some(grad_output).filter(|_| !twice);
        let grad_residual = step.residual.and_then(|value| reach(value, place, &mut grad_of, lens));
        let elementwise = matches!(step.kind, Kind::BatchNorm { .. } | Kind::Identity);
        let taken = grad_residual == Some((grad_output, false));
        let place = Some(grad_output).filter(|_| elementwise && !taken);
        let grad_inputs = step.inputs.iter().map(|&input| reach(input, place, &mut grad_of, lens)).collect();
        let trains = trainable.contains(step.node);
        backward.push(BackwardStep { step: index, grad_output, grad_inputs, grad_residual, trains });
    }
    (backward, grad_of_output)
}

/// When each value comes to be and when it is last read: forward steps in order, the loss, backward steps.
pub(super) fn lifetimes(
    steps: &[Step],
    backward: &[BackwardStep],
    lens: &[usize],
    output: ValueId,
    grad_output: Option<ValueId>,
) -> Vec<Lifetime> {
    let mut lifetimes = vec![Lifetime::default(); lens.len()];
    for (time, step) in steps.iter().enumerate() {
        lifetimes[step.output].touch(time);
        for &input in step.inputs.iter().chain(&step.residual) {
            lifetimes[input].touch(time);
        }
    }
    let loss = steps.len();
    lifetimes[output].touch(loss);
    if let Some(grad) = grad_output {
        lifetimes[grad].touch(loss);
    }
    for (i, back) in backward.iter().enumerate() {
        let time = loss + 1 + i;
        let step = &steps[back.step];
        let targets = back.grad_inputs.iter().chain([&back.grad_residual]);
        for (grad, _) in targets.flatten() {
            lifetimes[*grad].touch(time);
        }
        lifetimes[back.grad_output].touch(time);
        if step.activation != Activation::Identity {
            lifetimes[step.output].touch(time);
        }
        if reads_input(step, back) {
            step.inputs.iter().for_each(|&input| lifetimes[input].touch(time));
        }
    }
    lifetimes
}

/// Whether the backward pass of a step reads the step's inputs.
fn reads_input(step: &Step, back: &BackwardStep) -> bool {
    match step.kind {
        Kind::Conv { .. } | Kind::Linear | Kind::ScaleChannels { factor: None } => back.trains,
        Kind::Activation(_) | Kind::Gate { .. } | Kind::LayerNorm { .. } | Kind::Cosine => true,
        Kind::BatchNorm { batch_statistics, .. } => batch_statistics || back.trains,
        _ => false,
    }
}

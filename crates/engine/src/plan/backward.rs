//! The backward pass of a plan: which steps have one, where gradients go, and which values it reads.

use super::{ActivationFn, BackwardStep, Kind, Step, ValueId};

/// Plans the backward pass from `output` to the steps that train, or to the value `wanted`: only steps on the way, each
/// gradient in its own value. Returns the steps, the gradient of `output` and that of `wanted`.
pub(super) fn plan_backward(
    steps: &[Step],
    trains: impl Fn(&Step) -> bool,
    wanted: Option<ValueId>,
    output: ValueId,
    lens: &mut Vec<usize>,
) -> (Vec<BackwardStep>, Option<ValueId>, Option<ValueId>) {
    let mut needs_grad = vec![false; lens.len()];
    if let Some(wanted) = wanted {
        needs_grad[wanted] = true;
    }
    // Whether a step passes its output's gradient on, or uses it.
    let works = |step: &Step, needs_grad: &[bool]| {
        step.inputs.iter().chain(&step.residual).any(|&input| needs_grad[input]) || trains(step)
    };
    for step in steps {
        needs_grad[step.output] |= works(step, &needs_grad);
    }
    if !needs_grad[output] {
        return (Vec::new(), None, None);
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
        let Some(grad_output) = grad_of[step.output].filter(|_| works(step, &needs_grad)) else { continue };
        // The residual's gradient is the output's: it takes its place where it is the first part of a sum. Otherwise an
        // elementwise step leaves its input's gradient there.
        let twice = step.residual == Some(step.inputs[0]);
        let place = Some(grad_output).filter(|_| !twice);
        let grad_residual = step.residual.and_then(|value| reach(value, place, &mut grad_of, lens));
        let elementwise = matches!(step.kind, Kind::BatchNorm { .. } | Kind::Identity);
        let taken = grad_residual == Some((grad_output, false));
        let place = Some(grad_output).filter(|_| elementwise && !taken);
        let grad_inputs = step.inputs.iter().map(|&input| reach(input, place, &mut grad_of, lens)).collect();
        let trains = trains(step);
        backward.push(BackwardStep { step: index, grad_output, grad_inputs, grad_residual, trains });
    }
    (backward, grad_of_output, wanted.and_then(|value| grad_of[value]))
}

impl BackwardStep {
    /// The values that it reads or writes.
    pub(super) fn values(&self, step: &Step) -> impl Iterator<Item = ValueId> {
        let gradients = self.grad_inputs.iter().chain([&self.grad_residual]).flatten().map(|&(value, _)| value);
        let output = (step.activation != ActivationFn::Identity).then_some(step.output);
        let inputs = if reads_input(step, self) { &step.inputs[..] } else { &[] };
        gradients.chain([self.grad_output]).chain(output).chain(inputs.iter().copied())
    }
}

/// Whether the backward pass of a step reads the step's inputs.
fn reads_input(step: &Step, back: &BackwardStep) -> bool {
    match step.kind {
        Kind::Conv { .. } | Kind::Linear | Kind::ScaleChannels { factor: None } => back.trains,
        // A frozen batch norm, too: the derivative of the activation after it is told from its input.
        Kind::Activation(_) | Kind::Gate { .. } | Kind::LayerNorm { .. } | Kind::Cosine | Kind::BatchNorm { .. } => {
            true
        }
        _ => false,
    }
}

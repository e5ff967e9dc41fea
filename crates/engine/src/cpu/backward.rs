//! The backward pass: gradients of the parameters that learn, and of the values on the way to them.

use regraft_kernels::batch_norm::{self, TrainBackward};
use regraft_kernels::{Activation, activation, conv, elementwise, linear, pool};

use super::forward::{Pass, Workspace, conv_shape, dropout_factors};
use super::parameters::Parameters;
use super::plan::{BackwardStep, GradTarget, Kind, Step};

/// Runs the backward steps; the gradient of the output must lie in its value.
pub(super) fn run(pass: &Pass, parameters: &mut Parameters, workspace: &mut Workspace) {
    for back in &pass.plan.backward {
        let step = &pass.plan.steps[back.step];
        let mut buffer = workspace.take(pass, back.grad_output);
        let grad = &mut buffer[..pass.plan.values[back.grad_output].len * pass.n];
        if step.activation != Activation::Identity {
            activation::backward_in_place(step.activation, workspace.read(pass, step.output), grad);
        }
        write(pass, workspace, back.grad_residual, |_, accumulate, target| {
            elementwise::add_or_copy(grad, accumulate, target);
        });
        run_step(pass, step, back, grad, parameters, workspace);
        workspace.put(pass, back.grad_output, buffer);
    }
}

/// Lets `compute` write or add to the gradient of a value, if that is wanted.
fn write(
    pass: &Pass,
    workspace: &mut Workspace,
    target: GradTarget,
    compute: impl FnOnce(&Workspace, bool, &mut [f32]),
) {
    if let Some((value, accumulate)) = target {
        let mut buffer = workspace.take(pass, value);
        compute(workspace, accumulate, &mut buffer[..pass.plan.values[value].len * pass.n]);
        workspace.put(pass, value, buffer);
    }
}

fn run_step(
    pass: &Pass,
    step: &Step,
    back: &BackwardStep,
    grad: &[f32],
    parameters: &mut Parameters,
    workspace: &mut Workspace,
) {
    let n = pass.n;
    let target = back.grad_inputs[0];
    let input_value = step.inputs[0];
    let pool_shape = |input, output| pool::Shape { n, input, output, channels: step.channels };
    match &step.kind {
        Kind::Conv { conv, input, output, .. } => {
            let shape = conv_shape(conv, n, *input, *output);
            if back.trains {
                let x = workspace.read(pass, input_value);
                if let Some(grad_weight) = parameters.grad_mut(step.node, "weight") {
                    conv::backward_weight(&shape, x, grad, grad_weight);
                }
                if let Some(grad_bias) = parameters.grad_mut(step.node, "bias") {
                    conv::backward_bias(grad, grad_bias);
                }
            }
            if target.is_some() {
                workspace.with_backward(parameters, back.step, step.node, &shape, |workspace, filter| {
                    write(pass, workspace, target, |_, accumulate, out| {
                        conv::backward_input(&shape, grad, filter, accumulate, out);
                    });
                });
            }
        }
        Kind::Linear => {
            if back.trains {
                let x = workspace.read(pass, input_value);
                if let Some(grad_weight) = parameters.grad_mut(step.node, "weight") {
                    linear::backward_weight(n, x, grad, grad_weight);
                }
                if let Some(grad_bias) = parameters.grad_mut(step.node, "bias") {
                    conv::backward_bias(grad, grad_bias);
                }
            }
            write(pass, workspace, target, |_, accumulate, out| {
                let weight = parameters.expect(step.node, "weight");
                linear::backward_input(n, grad, weight, accumulate, out);
            });
        }
        Kind::BatchNorm { batch_statistics, eps, .. } => {
            batch_norm_step(pass, step, back, *batch_statistics, *eps, grad, parameters, workspace);
        }
        Kind::MaxPool { window, input, output } => write(pass, workspace, target, |workspace, accumulate, out| {
            let winners = &workspace.saved[back.step].winners;
            pool::max_backward(&pool_shape(*input, *output), *window, winners, grad, accumulate, out);
        }),
        Kind::AvgPool { input, output } => write(pass, workspace, target, |_, accumulate, out| {
            pool::avg_backward(&pool_shape(*input, *output), grad, accumulate, out);
        }),
        Kind::Concat { channels } => {
            let mut offset = 0;
            for (&target, &width) in back.grad_inputs.iter().zip(channels) {
                write(pass, workspace, target, |_, accumulate, out| {
                    elementwise::take_columns(grad, width, step.channels, offset, accumulate, out);
                });
                offset += width;
            }
        }
        Kind::Dropout { p } => write(pass, workspace, target, |_, accumulate, out| {
            elementwise::mask(grad, grad.len() / n, dropout_factors(pass, step.node, *p), accumulate, out);
        }),
        Kind::Flatten { pixels } => write(pass, workspace, target, |_, accumulate, out| {
            elementwise::transpose(grad, grad.len() / n / pixels, *pixels, accumulate, out);
        }),
        Kind::Identity => write(pass, workspace, target, |_, accumulate, out| {
            elementwise::add_or_copy(grad, accumulate, out);
        }),
    }
}

#[allow(clippy::too_many_arguments)] // one call, split off for length
fn batch_norm_step(
    pass: &Pass,
    step: &Step,
    back: &BackwardStep,
    batch_statistics: bool,
    eps: f32,
    grad: &[f32],
    parameters: &mut Parameters,
    workspace: &mut Workspace,
) {
    let node = step.node;
    let target = back.grad_inputs[0];
    let statistics = std::mem::take(&mut workspace.saved[back.step].statistics);
    let mut sums = None;
    if back.trains {
        let x = workspace.read(pass, step.inputs[0]);
        let (mean, var) = if batch_statistics {
            (statistics.mean.as_slice(), statistics.var.as_slice())
        } else {
            (parameters.expect(node, "running_mean"), parameters.expect(node, "running_var"))
        };
        let grads = batch_norm::backward_parameters(x, grad, mean, var, eps);
        for (suffix, sums) in [("weight", &grads.0), ("bias", &grads.1)] {
            if let Some(grad) = parameters.grad_mut(node, suffix) {
                grad.iter_mut().zip(sums).for_each(|(g, &s)| *g = s as f32);
            }
        }
        sums = Some(grads);
    }
    match (batch_statistics, &sums) {
        (true, Some(grads)) => write(pass, workspace, target, |workspace, accumulate, out| {
            let bn = TrainBackward { weight: parameters.expect(node, "weight"), statistics: &statistics, eps, grads };
            let x = workspace.read(pass, step.inputs[0]);
            batch_norm::backward_input_train(&bn, x, grad, accumulate, out);
        }),
        _ => write(pass, workspace, target, |_, accumulate, out| {
            let scale = parameters.affine(node, eps).scale;
            batch_norm::backward_input_frozen(&scale, grad, accumulate, out);
        }),
    }
    workspace.saved[back.step].statistics = statistics;
}

//! The backward pass: gradients of the parameters that learn, and of the values on the way to them.

use std::time::Instant;

use regraft_engine::plan::{ActivationFn, BackwardStep, GradTarget, Kind, Step};
use regraft_kernels::batch_norm::Target;
use regraft_kernels::conv::{self, Algorithm, Use};
use regraft_kernels::{Activation, activation, batch_norm, cosine, elementwise, gate, layer_norm, linear, pool};

use crate::convert::{self, conv_shape};
use crate::forward::{Pass, Workspace, dropout_factors, sample_factors};
use crate::parameters::Parameters;
use crate::times::{Part, kernel};

/// Runs the backward steps; the gradient of the output must lie in its value.
pub fn run(pass: &Pass, parameters: &mut Parameters, workspace: &mut Workspace) {
    for back in &pass.plan.backward {
        let step = &pass.plan.steps[back.step];
        let start = Instant::now();
        let mut buffer = workspace.take(pass, back.grad_output);
        let grad = &mut buffer[..pass.plan.values[back.grad_output].len * pass.n];
        // A batch norm does both on its way.
        if !matches!(step.kind, Kind::BatchNorm { .. }) {
            if step.activation != ActivationFn::Identity {
                activation::backward_in_place(
                    convert::activation(step.activation),
                    workspace.read(pass, step.output),
                    grad,
                );
            }
            write_residual(pass, back, grad, workspace);
        }
        // A convolution's two gradients are measured by themselves.
        let convolves = matches!(step.kind, Kind::Conv { .. });
        if convolves {
            workspace.took(back.step, Part::Backward, kernel(step), pass.n, start);
        }
        run_step(pass, step, back, grad, parameters, workspace);
        workspace.put(pass, back.grad_output, buffer);
        if !convolves {
            workspace.took(back.step, Part::Backward, kernel(step), pass.n, start);
        }
    }
}

/// Gives the gradient to what was added in this step. Often it is there already: the plan gives both the same place.
fn write_residual(pass: &Pass, back: &BackwardStep, grad: &[f32], workspace: &mut Workspace) {
    let elsewhere = back.grad_residual.filter(|&(value, _)| value != back.grad_output);
    write(pass, workspace, elsewhere, |_, accumulate, out| elementwise::add_or_copy(grad, accumulate, out));
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
    grad: &mut [f32],
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
                let (start, precision) = (Instant::now(), workspace.precision);
                let x = workspace.read(pass, input_value);
                if let Some(grad_weight) = parameters.grad_mut(step.node, "weight") {
                    conv::backward_weight(&shape, precision, x, grad, grad_weight);
                }
                if let Some(grad_bias) = parameters.grad_mut(step.node, "bias") {
                    conv::backward_bias(grad, grad_bias);
                }
                let kernel = Algorithm::choose(&shape, Use::Once, precision).name();
                workspace.took(back.step, Part::WeightGradient, kernel, n, start);
            }
            if target.is_some() {
                let start = Instant::now();
                let kernel = workspace.with_backward(parameters, back.step, step.node, &shape, |workspace, filter| {
                    write(pass, workspace, target, |_, accumulate, out| {
                        conv::backward_input(&shape, grad, filter, accumulate, out);
                    });
                    filter.algorithm().name()
                });
                workspace.took(back.step, Part::InputGradient, kernel, n, start);
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
        Kind::Cosine => {
            let of = |suffix| parameters.expect(step.node, suffix);
            let gradients = cosine::backward(n, workspace.read(pass, input_value), of("weight"), of("scale")[0], grad);
            if back.trains {
                for (suffix, values) in [("weight", &gradients.weight[..]), ("scale", &[gradients.scale])] {
                    if let Some(grad) = parameters.grad_mut(step.node, suffix) {
                        grad.copy_from_slice(values);
                    }
                }
            }
            write(pass, workspace, target, |_, accumulate, out| {
                elementwise::add_or_copy(&gradients.input, accumulate, out);
            });
        }
        Kind::BatchNorm { batch_statistics, eps, .. } => {
            batch_norm_step(pass, step, back, *batch_statistics, *eps, grad, parameters, workspace);
        }
        Kind::MaxPool { window, input, output } => write(pass, workspace, target, |workspace, accumulate, out| {
            let winners = &workspace.saved[back.step].winners;
            pool::max_backward(&pool_shape(*input, *output), convert::window(*window), winners, grad, accumulate, out);
        }),
        Kind::AvgPool { average, input, output } => write(pass, workspace, target, |_, accumulate, out| {
            pool::avg_backward(&pool_shape(*input, *output), convert::average(*average), grad, accumulate, out);
        }),
        Kind::LayerNorm { eps } => {
            if back.trains {
                let x = workspace.read(pass, input_value);
                let sums = layer_norm::backward_parameters(step.channels, *eps, x, grad);
                write_parameters(parameters, step.node, ["weight", "bias"].into_iter().zip(&sums));
            }
            write(pass, workspace, target, |workspace, accumulate, out| {
                let weight = parameters.expect(step.node, "weight");
                layer_norm::backward_input(weight, *eps, workspace.read(pass, input_value), grad, accumulate, out);
            });
        }
        Kind::ScaleChannels { factor } => {
            let factors = parameters.channel_factors(step.node, *factor, step.channels);
            if back.trains && factor.is_none() {
                let sums = products(workspace.read(pass, input_value), grad, &factors);
                write_parameters(parameters, step.node, [("layer_scale", &sums)].into_iter());
            }
            write(pass, workspace, target, |_, accumulate, out| {
                gate::forward(grad.len() / step.channels, step.channels, grad, &factors, accumulate, out);
            });
        }
        Kind::Gate { pixels } => {
            write(pass, workspace, target, |workspace, accumulate, out| {
                gate::forward(*pixels, step.channels, grad, workspace.read(pass, step.inputs[1]), accumulate, out);
            });
            write(pass, workspace, back.grad_inputs[1], |workspace, accumulate, out| {
                let x = workspace.read(pass, input_value);
                gate::backward_factors(*pixels, step.channels, x, grad, accumulate, out);
            });
        }
        Kind::Narrow { start, of } => write(pass, workspace, target, |_, accumulate, out| {
            elementwise::add_columns(grad, step.channels, *of, *start, accumulate, out);
        }),
        Kind::Shuffle { groups } => write(pass, workspace, target, |_, accumulate, out| {
            elementwise::shuffle_columns(grad, step.channels, step.channels / groups, accumulate, out);
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
            elementwise::mask(grad, grad.len() / n, dropout_factors(pass, step, *p), accumulate, out);
        }),
        Kind::StochasticDepth { p } => write(pass, workspace, target, |_, accumulate, out| {
            elementwise::mask(grad, grad.len() / n, sample_factors(pass, step, *p), accumulate, out);
        }),
        Kind::Activation(function) => write(pass, workspace, target, |workspace, accumulate, out| {
            activation::backward(
                convert::activation(*function),
                workspace.read(pass, input_value),
                grad,
                accumulate,
                out,
            );
        }),
        Kind::Flatten { pixels } => write(pass, workspace, target, |_, accumulate, out| {
            elementwise::transpose(grad, grad.len() / n / pixels, *pixels, accumulate, out);
        }),
        Kind::Identity => {
            let elsewhere = target.filter(|&(value, _)| value != back.grad_output);
            write(pass, workspace, elsewhere, |_, accumulate, out| elementwise::add_or_copy(grad, accumulate, out));
        }
    }
}

#[allow(clippy::too_many_arguments)] // one call, split off for length
fn batch_norm_step(
    pass: &Pass,
    step: &Step,
    back: &BackwardStep,
    batch_statistics: bool,
    eps: f32,
    grad: &mut [f32],
    parameters: &mut Parameters,
    workspace: &mut Workspace,
) {
    let node = step.node;
    // Taken out, because the workspace is written to meanwhile.
    let saved = std::mem::take(&mut workspace.saved[back.step]);
    let frozen;
    let (mean, var, affine) = if batch_statistics {
        (&*saved.statistics.mean, &*saved.statistics.var, &saved.affine)
    } else {
        frozen = parameters.affine(node, eps);
        (parameters.expect(node, "running_mean"), parameters.expect(node, "running_var"), &frozen)
    };
    // The activation's derivative is told from the input, or from the output if something was added in between.
    let (added, epilogue) = (step.residual.is_some(), convert::activation(step.activation));
    let activation = if added { Activation::Identity } else { epilogue };
    let weight = parameters.expect(node, "weight");
    let bn = batch_norm::Backward { weight, statistics: (mean, var), eps, affine, activation };
    // What is not needed may be gone.
    let (input, output) = (|| workspace.read(pass, step.inputs[0]), || workspace.read(pass, step.output));
    let masks = added && epilogue != Activation::Identity;
    let gradients = match (back.trains, masks) {
        (true, true) => Some(bn.mask_and_parameters(epilogue, output(), input(), grad)),
        (true, false) => Some(bn.parameters(input(), grad)),
        (false, true) => {
            activation::backward_in_place(epilogue, output(), grad);
            None
        }
        (false, false) => None,
    };
    write_residual(pass, back, grad, workspace);
    let input_gradient = |x: &[f32], target: Target| match &gradients {
        Some(gradients) if batch_statistics => bn.input_train(gradients, x, target),
        _ => bn.input_frozen(x, target),
    };
    match back.grad_inputs[0] {
        Some((value, _)) if value == back.grad_output => {
            input_gradient(workspace.read(pass, step.inputs[0]), Target::InPlace(grad));
        }
        elsewhere => write(pass, workspace, elsewhere, |workspace, accumulate, out| {
            input_gradient(workspace.read(pass, step.inputs[0]), Target::Elsewhere { grad, out, accumulate });
        }),
    }
    workspace.saved[back.step] = saved;
    if let Some(gradients) = gradients {
        write_parameters(parameters, node, [("weight", &gradients.weight), ("bias", &gradients.bias)].into_iter());
    }
}

/// Gives a node's parameters their gradients.
fn write_parameters<'a>(
    parameters: &mut Parameters,
    node: usize,
    gradients: impl Iterator<Item = (&'static str, &'a Vec<f64>)>,
) {
    for (suffix, sums) in gradients {
        if let Some(grad) = parameters.grad_mut(node, suffix) {
            grad.iter_mut().zip(sums).for_each(|(g, &s)| *g = s as f32);
        }
    }
}

/// The sum over pixels of input times gradient, for each channel: what a batch norm's weight gets whose statistics are 0
/// and 1.
fn products(input: &[f32], grad: &[f32], factors: &[f32]) -> Vec<f64> {
    let channels = factors.len();
    let (zeros, ones) = (vec![0.0; channels], vec![1.0; channels]);
    let affine = batch_norm::Affine { scale: factors.to_vec(), shift: zeros.clone() };
    let statistics = (zeros.as_slice(), ones.as_slice());
    let activation = Activation::Identity;
    let bn = batch_norm::Backward { weight: factors, statistics, eps: 0.0, affine: &affine, activation };
    bn.parameters(input, grad).weight
}

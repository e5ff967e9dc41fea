//! Ten training steps of ResNet-18 against PyTorch (`reference/steps`).

use regraft_graph::{Shape, StateDict, Trainable, zoo};
use regraft_testing::steps::{Optimizer, Run, training};

use super::Tolerances;
use super::common::{Network, channels_last, step};
use crate::{Batch, BatchNormMode, Engine, Labels, Precision, SessionOptions, Targets, UpdateRule, Want};

/// A recorded optimiser and its learning rate.
pub fn update_rule(optimizer: Optimizer) -> (UpdateRule, f64) {
    match optimizer {
        Optimizer::Sgd { lr, momentum, weight_decay, nesterov } => {
            (UpdateRule::Sgd { momentum, weight_decay, nesterov }, lr)
        }
        Optimizer::AdamW { lr, betas, eps, weight_decay } => (UpdateRule::AdamW { betas, eps, weight_decay }, lr),
    }
}

/// Takes the ten steps of each run; hands each step's mean loss to `loss`, and what was trained to `after`.
fn train(
    engine: &dyn Engine,
    precision: Precision,
    mut loss: impl FnMut(&str, usize, f64, f64),
    mut after: impl FnMut(&str, &Run, &StateDict, &StateDict),
) {
    let training = training();
    let shape = Shape::rgb(training.side);
    let graph = zoo::build("resnet18", training.classes).and_then(|graph| graph.with_input_shape(shape));
    let network = Network::of(graph.expect("a known name"));
    for (name, run) in &training.runs {
        let (update, lr) = update_rule(run.optimizer);
        let batch_norm = if run.bn_frozen { BatchNormMode::Frozen } else { BatchNormMode::Train };
        let trainable = Trainable::all(&network.graph);
        let options =
            SessionOptions { trainable, batch_norm, update, precision, ..SessionOptions::inference(&network.graph) };
        let mut session = network.compile(engine, options);
        for number in 0..training.steps {
            let (planes, classes) = training.batch(number);
            let images = channels_last(&planes, shape);
            let keys: Vec<u64> = (0..classes.len() as u64).collect();
            let batch = Batch { input: images[..].into(), sample_keys: &keys };
            let targets = Targets { labels: Labels::Classes(&classes), label_smoothing: 0.0, class_weights: None };
            let losses = session.accumulate(batch, targets, Want::Losses).unwrap();
            assert_eq!(losses.logits, None, "they were not wanted");
            step(session.as_mut(), lr);
            loss(name, number, losses.sum / losses.weight, run.losses[number]);
        }
        after(name, run, &session.weights().unwrap(), &network.state);
    }
}

/// Ten training steps of ResNet-18 lose what PyTorch's lose, and end at its weights. In bfloat16, if the device has it,
/// they lose about the same.
pub fn steps(engine: &dyn Engine, tolerances: &Tolerances) {
    let loss = |name: &str, number: usize, found: f64, expected: f64| {
        assert!((found - expected).abs() < tolerances.steps, "{name}, step {number}: {found}, PyTorch {expected}");
    };
    train(engine, Precision::F32, loss, |name, run, after, before| {
        for (tensor, last) in &run.last {
            let found = after.get(tensor).unwrap_or(&before[tensor]).data();
            for (i, &expected) in last.values.iter().enumerate() {
                // Where ten steps carried PyTorch's f32 off its f64, they may carry us off as far, or five times.
                // AdamW takes steps of 1e-4 however small the gradient: a third of one is what rounding may cost (seen: a
                // fifth, in one of the values; SGD's are all within 1e-5).
                let rounding = if name.starts_with("adamw") { 3e-5 } else { 1e-5 };
                let allowed = 5.0 * last.float32_error + 4e-3 * last.change + rounding;
                let error = (f64::from(found[i]) - expected).abs();
                assert!(error < allowed, "{name}, {tensor}[{i}]: {} where PyTorch has {expected}", found[i]);
            }
        }
    });
    if engine.supports(Precision::Bf16).is_ok() {
        // bfloat16 keeps three digits: the losses, of about 2, agree to 2%.
        let loss = |name: &str, number: usize, found: f64, expected: f64| {
            let error = (found - expected).abs();
            assert!(error < 0.02 * expected.max(1.0), "{name} in bf16, step {number}: {found}, in f32 {expected}");
        };
        train(engine, Precision::Bf16, loss, |_, _, _, _| {});
    }
}

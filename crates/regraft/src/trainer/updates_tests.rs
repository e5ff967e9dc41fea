//! Accumulation, clipping, averages, rates and layers that begin to learn late are PyTorch's
//! (`reference/steps/updates.py`).

use regraft_engine::{
    Batch, BatchNormMode, Engine, Labels, MovingAverage, Outputs, Precision, SessionOptions, StepOptions, Targets,
    UpdateRule, Want,
};
use regraft_engine_cpu::CpuEngine;
use regraft_graph::{ParameterKind, StateDict, Tensor, Trainable};
use regraft_testing::steps::Optimizer;
use regraft_testing::updates::{UpdateRun, Updates, updates};

use crate::Settings;
use crate::trainer::learner::Learner;
use crate::trainer::loss::Loss;
use crate::trainer::recipe::Recipe;

/// All numbers are of order one. PyTorch's own `f32` run lies within 1e-6 of its `f64` one over the twelve batches; AdamW
/// divides by the root of the second moment, which lets the error of a small gradient through whole.
const TOLERANCE: f64 = 1e-5;

fn close(what: &str, found: f64, expected: f64) {
    assert!((found - expected).abs() < TOLERANCE, "{what}: {found} where PyTorch has {expected}");
}

/// From planes to pixels of channels.
fn nhwc(images: &[f32]) -> Vec<f32> {
    let (channels, pixels) = (3, 6 * 5);
    let image =
        |image: &[f32]| (0..image.len()).map(|i| image[i % channels * pixels + i / channels]).collect::<Vec<_>>();
    images.chunks_exact(channels * pixels).flat_map(image).collect()
}

fn rate(run: &UpdateRun, name: &str) -> f64 {
    let mut rates = run.rates.iter();
    rates.find(|(prefix, _)| name.starts_with(*prefix)).map_or(1.0, |(_, rate)| rate.as_f64().unwrap())
}

/// The layers that learn in a batch. Those that join in later lie below the others.
fn trainable(record: &Updates, run: &UpdateRun, batch: usize) -> Trainable {
    let name = |node: usize| &record.graph.nodes()[node].name;
    let waits = |node: usize| run.joins.iter().any(|(prefix, &at)| at > batch && name(node).starts_with(prefix));
    let first = (1..record.graph.nodes().len()).find(|&node| !waits(node)).unwrap();
    Trainable::from_node(&record.graph, first).with_rates(|node| rate(run, name(node)))
}

/// The network of a recorded run as it learns in a batch, and its learning rate.
fn learner_of(record: &Updates, run: &UpdateRun, state: StateDict, batch: usize) -> (Learner, f64) {
    let (update, lr) = match run.optimizer {
        Optimizer::Sgd { lr, momentum, weight_decay, nesterov } => {
            (UpdateRule::Sgd { momentum, weight_decay, nesterov }, lr)
        }
        Optimizer::AdamW { lr, betas, eps, weight_decay } => (UpdateRule::AdamW { betas, eps, weight_decay }, lr),
    };
    let options = SessionOptions {
        trainable: trainable(record, run, batch),
        batch_norm: if run.bn_frozen { BatchNormMode::Frozen } else { BatchNormMode::Train },
        update,
        seed: 0,
        precision: Precision::F32,
        infer_precision: Precision::F32,
        outputs: Outputs::Final,
    };
    let recipe = Recipe::new(&Settings::tutorial("photos".into(), "resnet18".into()));
    let engine = CpuEngine::new(2).unwrap();
    let learner = Learner::new(&engine as &dyn Engine, record.graph.clone(), state, options, recipe, Loss::default());
    (learner.unwrap(), lr)
}

fn replay(name: &str, record: &Updates, run: &UpdateRun) {
    let tensor = |spec: regraft_graph::ParameterSpec| {
        let values = record.start[&spec.name].clone();
        (spec.name, Tensor::new(spec.shape, values))
    };
    let start: StateDict = record.graph.parameters().into_iter().map(tensor).collect();
    let (mut learner, lr) = learner_of(record, run, start, 0);
    let mut norms = run.norms.iter();
    let mut pending = 0;
    for batch in 0..record.batches {
        if run.joins.values().any(|&at| at == batch) {
            let (mut next, _) = learner_of(record, run, learner.trained().unwrap(), batch);
            next.continue_from(&learner).unwrap();
            learner = next;
        }
        let (images, labels) = record.batch(batch);
        let (images, sample_keys) = (nhwc(&images), vec![0; labels.len()]);
        let targets = Targets { labels: Labels::Classes(&labels), label_smoothing: 0.0, class_weights: None };
        let batch_of = Batch { input: images.as_slice().into(), sample_keys: &sample_keys };
        let losses = learner.session.accumulate(batch_of, targets, Want::Losses).unwrap();
        close(&format!("{name}: loss {batch}"), losses.sum / losses.weight, run.losses[batch]);
        pending += 1;
        if pending == run.accumulate || batch + 1 == record.batches {
            let average = run.ema.map(|decay| MovingAverage { decay, restart: false });
            let options = StepOptions { lr, max_grad_norm: run.clip_grad_norm, average, collective: None };
            let report = learner.session.step(&options).unwrap();
            if let Some(norm) = report.grad_norm {
                close(&format!("{name}: norm at batch {batch}"), norm, *norms.next().unwrap());
            }
            pending = 0;
        }
    }
    assert_eq!(norms.next(), None, "{name}");
    let (after, averaged) = (learner.trained().unwrap(), learner.session.state().unwrap().average);
    assert_eq!(averaged.is_some(), run.ema.is_some(), "{name}");
    for spec in record.graph.parameters() {
        for (what, found, expected) in
            [("after", Some(&after), &run.after), ("average", averaged.as_ref(), &run.average)]
        {
            let Some(found) = found else { continue };
            // Statistics that stay have no average of their own.
            let Some(found) = found.get(&spec.name) else {
                assert_eq!(spec.kind, ParameterKind::Buffer, "{name}: no {what} of {}", spec.name);
                continue;
            };
            for (i, (&a, &b)) in found.data().iter().zip(&expected[&spec.name]).enumerate() {
                close(&format!("{name}: {what} {}[{i}]", spec.name), a.into(), b);
            }
        }
    }
}

#[test]
fn learner_updates_are_pytorchs() {
    let record = updates();
    assert_eq!(record.runs.len(), 9);
    for (name, run) in &record.runs {
        replay(name, &record, run);
    }
}

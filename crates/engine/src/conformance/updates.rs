//! What lies between gradients and weights against PyTorch (`reference/steps/updates.py`).

use regraft_graph::{ParameterKind, ParameterSpec, StateDict, Tensor, Trainable};
use regraft_testing::updates::{UpdateRun, Updates, updates as recorded};

use super::Tolerances;
use super::common::{Network, channels_last};
use super::steps::update_rule;
use crate::{
    Batch, BatchNormMode, Engine, Labels, MovingAverage, Session, SessionOptions, SessionState, StepOptions, Targets,
    Want,
};

/// The layers that learn at a batch, and how fast. Those that join later lie below the others.
fn trainable(record: &Updates, run: &UpdateRun, batch: usize) -> Trainable {
    let name = |node: usize| &record.graph.nodes()[node].name;
    let waits = |node: usize| run.joins.iter().any(|(prefix, &at)| at > batch && name(node).starts_with(prefix));
    let rate = |node: usize| {
        let mut rates = run.rates.iter();
        let rate = rates.find(|(prefix, _)| name(node).starts_with(*prefix));
        rate.map_or(1.0, |(_, rate)| rate.as_f64().expect("a rate is a number"))
    };
    let first = (1..record.graph.nodes().len()).find(|&node| !waits(node)).expect("something learns");
    Trainable::from_node(&record.graph, first).with_rates(rate)
}

/// The session of a batch, going on from `before` with layers that did not learn until now.
fn session(
    engine: &dyn Engine,
    record: &Updates,
    run: &UpdateRun,
    network: &mut Network,
    batch: usize,
    before: Option<SessionState>,
) -> Box<dyn Session> {
    let options = SessionOptions {
        trainable: trainable(record, run, batch),
        batch_norm: if run.bn_frozen { BatchNormMode::Frozen } else { BatchNormMode::Train },
        update: update_rule(run.optimizer).0,
        ..SessionOptions::inference(&record.graph)
    };
    if let Some(before) = &before {
        network.state.extend(before.trained.clone());
    }
    let mut session = network.compile(engine, options);
    if let Some(before) = before {
        let mut state = session.state().unwrap();
        state.optimizer.extend(before.optimizer);
        state.average = before.average.map(|average| {
            let mut all = state.trained.clone();
            all.extend(average);
            all
        });
        session.restore(&state).unwrap();
    }
    session
}

fn replay(engine: &dyn Engine, name: &str, record: &Updates, run: &UpdateRun, tolerance: f64) {
    let close = |what: &str, found: f64, expected: f64| {
        assert!((found - expected).abs() < tolerance, "{name}: {what}: {found} where PyTorch has {expected}");
    };
    let tensor = |spec: ParameterSpec| {
        let values = record.start[&spec.name].clone();
        (spec.name, Tensor::new(spec.shape, values))
    };
    let state: StateDict = record.graph.parameters().into_iter().map(tensor).collect();
    let mut network = Network { graph: record.graph.clone(), state };
    let mut it = session(engine, record, run, &mut network, 0, None);
    let mut norms = run.norms.iter();
    let mut waiting = 0;
    for number in 0..record.batches {
        if run.joins.values().any(|&at| at == number) {
            let before = it.state().unwrap();
            assert_eq!(before.pending.batches, 0, "{name}: layers join between two steps");
            it = session(engine, record, run, &mut network, number, Some(before));
        }
        let (planes, classes) = record.batch(number);
        let images = channels_last(&planes, record.graph.input_shape());
        let keys = vec![0; classes.len()];
        let batch = Batch { input: images[..].into(), sample_keys: &keys };
        let targets = Targets { labels: Labels::Classes(&classes), label_smoothing: 0.0, class_weights: None };
        let losses = it.accumulate(batch, targets, Want::Losses).unwrap();
        close(&format!("loss of batch {number}"), losses.sum / losses.weight, run.losses[number]);
        waiting += 1;
        if waiting == run.accumulate || number + 1 == record.batches {
            waiting = 0;
            let report = it.step(&StepOptions {
                lr: update_rule(run.optimizer).1,
                max_grad_norm: run.clip_grad_norm,
                average: run.ema.map(|decay| MovingAverage { decay, restart: false }),
                collective: None,
            });
            let norm = report.unwrap().grad_norm;
            assert_eq!(norm.is_some(), run.clip_grad_norm.is_some(), "{name}: a norm is told where there is clipping");
            if let Some(norm) = norm {
                close(&format!("norm at batch {number}"), norm, *norms.next().expect("a norm for each step"));
            }
        }
    }
    assert_eq!(norms.next(), None, "{name}: a step for each norm");
    let after = it.state().unwrap();
    network.state.extend(after.trained);
    for spec in record.graph.parameters() {
        for (what, found, expected) in
            [("after", Some(&network.state), &run.after), ("average", after.average.as_ref(), &run.average)]
        {
            let Some(found) = found else { continue };
            // Statistics that stay have no average of their own.
            let Some(found) = found.get(&spec.name) else {
                assert_eq!(spec.kind, ParameterKind::Buffer, "{name}: no {what} of {}", spec.name);
                continue;
            };
            for (i, (&a, &b)) in found.data().iter().zip(&expected[&spec.name]).enumerate() {
                close(&format!("{what} {}[{i}]", spec.name), a.into(), b);
            }
        }
    }
}

/// Rates of single layers, clipping, accumulation, averages and layers that join later are PyTorch's.
pub fn updates(engine: &dyn Engine, tolerances: &Tolerances) {
    let record = recorded();
    assert_eq!(record.runs.len(), 9);
    for (name, run) in &record.runs {
        replay(engine, name, &record, run, tolerances.updates);
    }
}

//! What happens between gradients and weights is what PyTorch makes of them (`reference/steps/updates.py`).

use regraft_engine::{Batch, BatchNormMode, Engine, Labels, Precision, Session, SessionOptions, Targets, UpdateRule};
use regraft_engine_cpu::CpuEngine;
use regraft_graph::{ParameterKind, StateDict, Tensor, Trainable};
use regraft_testing::steps::Optimizer;
use regraft_testing::updates::{UpdateRun, Updates, updates};

use crate::network::divided::take_over;
use crate::trainer::average::Average;
use crate::trainer::gradients::{Accumulation, clip_norm};

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

/// One of the recorded runs, carried out here.
struct Replay<'a> {
    record: &'a Updates,
    run: &'a UpdateRun,
    engine: CpuEngine,
    session: Box<dyn Session>,
    state: StateDict,
}

impl Replay<'_> {
    fn rate(run: &UpdateRun, name: &str) -> f64 {
        let mut rates = run.rates.iter();
        rates.find(|(prefix, _)| name.starts_with(*prefix)).map_or(1.0, |(_, rate)| rate.as_f64().unwrap())
    }

    /// The layers that have joined in before a batch. Those that join later lie below the others.
    fn trainable(record: &Updates, run: &UpdateRun, batch: usize) -> Trainable {
        let name = |node: usize| &record.graph.nodes()[node].name;
        let waits = |node: usize| run.joins.iter().any(|(prefix, &at)| at > batch && name(node).starts_with(prefix));
        let first = (1..record.graph.nodes().len()).find(|&node| !waits(node)).unwrap();
        Trainable::from_node(&record.graph, first).with_rates(|node| Self::rate(run, name(node)))
    }

    fn compile(
        record: &Updates,
        run: &UpdateRun,
        engine: &CpuEngine,
        state: &StateDict,
        batch: usize,
    ) -> (Box<dyn Session>, f64) {
        let (update, lr) = match run.optimizer {
            Optimizer::Sgd { lr, momentum, weight_decay, nesterov } => {
                (UpdateRule::Sgd { momentum, weight_decay, nesterov }, lr)
            }
            Optimizer::AdamW { lr, betas, eps, weight_decay } => (UpdateRule::AdamW { betas, eps, weight_decay }, lr),
        };
        let options = SessionOptions {
            trainable: Self::trainable(record, run, batch),
            batch_norm: if run.bn_frozen { BatchNormMode::Frozen } else { BatchNormMode::Train },
            update,
            seed: 0,
            precision: Precision::F32,
            infer_precision: Precision::F32,
        };
        (engine.compile(&record.graph, state, options).unwrap(), lr)
    }
}

fn replay(name: &str, record: &Updates, run: &UpdateRun) {
    let engine = CpuEngine::new(2).unwrap();
    let tensor = |spec: regraft_graph::ParameterSpec| {
        let values = record.start[&spec.name].clone();
        (spec.name, Tensor::new(spec.shape, values))
    };
    let state: StateDict = record.graph.parameters().into_iter().map(tensor).collect();
    let (session, lr) = Replay::compile(record, run, &engine, &state, 0);
    let mut it = Replay { record, run, engine, session, state };
    let mut accumulation = Accumulation::new(run.accumulate);
    let mut average = run.ema.map(Average::new);
    let mut norms = run.norms.iter();
    for batch in 0..record.batches {
        if run.joins.values().any(|&at| at == batch) {
            it.state.extend(it.session.trained_state());
            let (mut session, _) = Replay::compile(it.record, it.run, &it.engine, &it.state, batch);
            take_over(session.as_mut(), it.session.as_ref()).unwrap();
            it.session = session;
            if let Some(average) = &mut average {
                average.take_in(it.session.as_mut());
            }
        }
        let (images, labels) = record.batch(batch);
        let keys = vec![0; labels.len()];
        let targets = Targets { labels: Labels::Classes(&labels), label_smoothing: 0.0, class_weights: None };
        let losses = it.session.gradients(Batch { inputs: &nhwc(&images), keys: &keys }, targets).unwrap();
        close(&format!("{name}: loss {batch}"), losses.sum / losses.weight, run.losses[batch]);
        if accumulation.add(it.session.as_mut(), losses.weight, batch + 1 == record.batches) {
            if let Some(max_norm) = run.clip_grad_norm {
                let norm = clip_norm(it.session.as_mut(), max_norm);
                close(&format!("{name}: norm at batch {batch}"), norm, *norms.next().unwrap());
            }
            it.session.update(lr);
            if let Some(average) = &mut average {
                average.update(it.session.as_mut(), false);
            }
        }
    }
    assert_eq!(norms.next(), None, "{name}");
    let trained = it.session.trained_state();
    let averaged = average.map(|mut average| average.state(it.session.as_mut()));
    assert!(it.session.trained_state() == trained, "{name}: looking at the average changes the network");
    it.state.extend(trained);
    for spec in record.graph.parameters() {
        for (what, found, expected) in
            [("after", Some(&it.state), &run.after), ("average", averaged.as_ref(), &run.average)]
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
fn rates_clipping_accumulation_averages_and_late_layers_are_pytorchs() {
    let record = updates();
    assert_eq!(record.runs.len(), 9);
    for (name, run) in &record.runs {
        replay(name, &record, run);
    }
}

#[test]
fn accumulated_batches_are_one_large_batch() {
    let record = updates();
    let run = UpdateRun { bn_frozen: true, rates: Default::default(), ..record.runs["groups_sgd"].clone() };
    let gradients = |batches: &[&[usize]]| {
        let engine = CpuEngine::new(1).unwrap();
        let state = record
            .graph
            .parameters()
            .into_iter()
            .map(|spec| (spec.name.clone(), Tensor::new(spec.shape, record.start[&spec.name].clone())))
            .collect();
        let (mut session, _) = Replay::compile(&record, &run, &engine, &state, 0);
        let mut accumulation = Accumulation::new(batches.len());
        for (at, parts) in batches.iter().enumerate() {
            let (mut images, mut labels) = (Vec::new(), Vec::new());
            for &part in *parts {
                let (more, classes) = record.batch(part);
                images.extend(nhwc(&more));
                labels.extend(classes);
            }
            let keys = vec![0; labels.len()];
            let weights = [1.0, 3.0, 0.5];
            let targets =
                Targets { labels: Labels::Classes(&labels), label_smoothing: 0.1, class_weights: Some(&weights) };
            let losses = session.gradients(Batch { inputs: &images, keys: &keys }, targets).unwrap();
            assert_eq!(accumulation.add(session.as_mut(), losses.weight, false), at + 1 == batches.len());
        }
        let mut all = Vec::new();
        session.visit_gradients(&mut |_, grad| all.extend_from_slice(grad));
        all
    };
    let (parts, whole) = (gradients(&[&[0], &[1, 2], &[3]]), gradients(&[&[0, 1, 2, 3]]));
    // Sums in another order.
    regraft_testing::assert_close_to_scale("gradients", &parts, &whole, 1e-6);
}

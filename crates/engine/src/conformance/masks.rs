//! Random masks.

use regraft_graph::{Conv2d, Graph, Linear, Op, Shape, StateDict, Tensor, Trainable};
use regraft_testing::{assert_close_to_scale, pattern};

use super::Tolerances;
use super::common::{CLASSES, Network, SIDE, Samples, accumulate};
use crate::{Batch, BatchNormMode, Engine, Labels, SessionOptions, Targets, Want};

/// A network with both kinds of masks.
fn network() -> Network {
    let mut graph = Graph::new(Shape::rgb(SIDE));
    let stem = graph.push("stem", Op::Conv2d(Conv2d::new(3, 8, 3).stride(4)), &[0]);
    let relu = graph.push("relu", Op::ReLU, &[stem]);
    let branch = graph.push("branch", Op::Conv2d(Conv2d::new(8, 8, 1)), &[relu]);
    let depth = graph.push("depth", Op::StochasticDepth { p: 0.5 }, &[branch]);
    let sum = graph.push("sum", Op::Add, &[depth, relu]);
    let pool = graph.push("pool", Op::AdaptiveAvgPool2d { output_size: 2 }, &[sum]);
    let flatten = graph.push("flatten", Op::Flatten, &[pool]);
    let dropout = graph.push("dropout", Op::Dropout { p: 0.5 }, &[flatten]);
    graph.push("fc", Op::Linear(Linear { in_features: 32, out_features: CLASSES, bias: true }), &[dropout]);
    Network::of(graph)
}

/// Masks depend on the seed and the sample alone, not on the rest of the batch, and drop the right share.
pub fn masks(engine: &dyn Engine, tolerances: &Tolerances) {
    let (network, samples) = (network(), Samples::new(8));
    for layer in ["stem", "fc"] {
        let logits = |seed, samples: &Samples| {
            let options = SessionOptions { seed, ..network.options(layer, BatchNormMode::Train) };
            accumulate(network.compile(engine, options).as_mut(), samples).logits.expect("they were wanted")
        };
        let whole = logits(1, &samples);
        assert!(logits(1, &samples) == whole, "{layer}: the same batch again");
        assert!(logits(2, &samples) != whole, "{layer}: another seed");
        let which = [5, 0, 3];
        let rows: Vec<f32> = which.iter().flat_map(|&i| &whole[i * CLASSES..][..CLASSES]).copied().collect();
        assert_close_to_scale(layer, &logits(1, &samples.pick(&which)), &rows, tolerances.order);
        let mut other_keys = samples.clone();
        other_keys.keys.iter_mut().for_each(|key| *key += 1 << 32);
        let other = logits(1, &other_keys);
        let same = whole.chunks(CLASSES).zip(other.chunks(CLASSES)).filter(|(a, b)| a == b).count();
        assert_eq!(same, 0, "{layer}: every sample is masked anew in another epoch");
        // In evaluation nothing is dropped.
        let mut session = network.compile(engine, network.options(layer, BatchNormMode::Train));
        assert!(network.infer(session.as_mut(), &samples.images) != whole);
    }
    counts(engine);
}

/// A dropout by itself zeroes its share of the elements and scales the rest.
fn counts(engine: &dyn Engine) {
    const LEN: usize = 64;
    const SAMPLES: usize = 128;
    let (p, mut graph) = (0.25, Graph::new(Shape::Features(LEN)));
    let dropout = graph.push("dropout", Op::Dropout { p }, &[0]);
    graph.push("fc", Op::Linear(Linear { in_features: LEN, out_features: LEN, bias: false }), &[dropout]);
    let identity = (0..LEN * LEN).map(|i| if i / LEN == i % LEN { 1.0 } else { 0.0 }).collect();
    let state = StateDict::from([("fc.weight".into(), Tensor::new([LEN, LEN], identity))]);
    let options = SessionOptions { trainable: Trainable::all(&graph), ..SessionOptions::inference(&graph) };
    let mut session = engine.compile(&graph, &state, options).unwrap();
    // None of them is zero.
    let values: Vec<f32> = pattern::values("dropped", SAMPLES * LEN).into_iter().map(|x| x + 2.0).collect();
    let keys: Vec<u64> = (0..SAMPLES as u64).collect();
    let targets = Targets { labels: Labels::Values(&values), label_smoothing: 0.0, class_weights: None };
    let batch = Batch { input: values[..].into(), sample_keys: &keys };
    let found = session.accumulate(batch, targets, Want::Logits).unwrap().logits.expect("they were wanted");
    let mut dropped = 0;
    for (&found, &value) in found.iter().zip(&values) {
        let kept = value / (1.0 - p);
        dropped += usize::from(found == 0.0);
        assert!(found == 0.0 || (found / kept - 1.0).abs() < 1e-6, "{value} becomes {found}, not 0 or {kept}");
    }
    let share = dropped as f64 / values.len() as f64;
    // Five standard deviations of the share of 8192 draws.
    assert!((share - f64::from(p)).abs() < 0.024, "{share} are dropped where {p} should be");
}

//! Gradients with respect to a node's value.

use regraft_graph::{AvgPool2d, BatchNorm2d, Conv2d, Graph, Linear, NodeId, Op, Shape, StateDict, Tensor, Trainable};
use regraft_testing::assert_close_to_scale;

use super::Tolerances;
use super::common::{CLASSES, Network, PLAIN, SIDE, Samples, channels_last, infer};
use crate::{
    Activation, Batch, BatchNormMode, Engine, Error, Images, Labels, Outputs, Session, SessionOptions, Targets, Want,
};

/// A network without kinks, so that differences tell derivatives: the operations of modern networks.
fn smooth() -> Network {
    let mut graph = Graph::new(Shape::rgb(12));
    let bn = |num_features| Op::BatchNorm2d(BatchNorm2d { num_features, eps: 1e-5, momentum: 0.1 });
    let stem = graph.push("stem", Op::Conv2d(Conv2d::new(3, 8, 3).padding(1)), &[0]);
    let norm = graph.push("norm", bn(8), &[stem]);
    let silu = graph.push("silu", Op::SiLU, &[norm]);
    let squeeze = graph.push("squeeze", Op::AdaptiveAvgPool2d { output_size: 1 }, &[silu]);
    let excite = graph.push("excite", Op::Conv2d(Conv2d::new(8, 8, 1).bias()), &[squeeze]);
    let sigmoid = graph.push("sigmoid", Op::Sigmoid, &[excite]);
    let gate = graph.push("gate", Op::Mul, &[silu, sigmoid]);
    let depthwise = graph.push("depthwise", Op::Conv2d(Conv2d::new(8, 8, 3).padding(1).groups(8)), &[gate]);
    let layer_norm = graph.push("layer_norm", Op::LayerNorm { normalized_shape: 8, eps: 1e-6 }, &[depthwise]);
    let gelu = graph.push("gelu", Op::GELU, &[layer_norm]);
    let scale = graph.push("scale", Op::LayerScale { channels: 8 }, &[gelu]);
    let depth = graph.push("depth", Op::StochasticDepth { p: 0.5 }, &[scale]);
    let sum = graph.push("sum", Op::Add, &[gate, depth]);
    let shuffle = graph.push("shuffle", Op::ChannelShuffle { groups: 2 }, &[sum]);
    let narrow = graph.push("narrow", Op::Narrow { start: 2, length: 4 }, &[shuffle]);
    let concat = graph.push("concat", Op::Concat, &[narrow, shuffle]);
    let mean = graph.push("mean", Op::AvgPool2d(AvgPool2d { kernel_size: 2, stride: 2, padding: 0 }), &[concat]);
    let last_norm = graph.push("last_norm", bn(12), &[mean]);
    let factor = graph.push("factor", Op::Scale { factor: 0.5 }, &[last_norm]);
    let pool = graph.push("pool", Op::AdaptiveAvgPool2d { output_size: 2 }, &[factor]);
    let flatten = graph.push("flatten", Op::Flatten, &[pool]);
    let dropout = graph.push("dropout", Op::Dropout { p: 0.5 }, &[flatten]);
    graph.push("fc", Op::Linear(Linear { in_features: 48, out_features: CLASSES, bias: true }), &[dropout]);
    Network::of(graph)
}

#[track_caller]
fn gradient_at(session: &mut dyn Session, image: &[f32], node: NodeId, output: usize) -> Activation {
    let Activation { values, gradients } = session.gradient_at(Images::Floats(image), node, output).unwrap();
    assert_eq!(values.shape(), gradients.shape());
    assert!(values.data().len() == gradients.data().len());
    Activation { values, gradients }
}

/// Values equal those of inference; gradients equal finite differences and training's, with any layers frozen.
pub fn gradients(engine: &dyn Engine, tolerances: &Tolerances) {
    differences(engine, tolerances);
    for (name, norms, layer) in [
        ("resnet18", ["bn1", "layer2.0.bn1", "layer2.0.downsample.1", "layer4.1.bn2"], "layer4"),
        (
            "mobilenet_v2",
            ["features.0.1", "features.3.conv.0.1", "features.4.conv.1.1", "features.18.1"],
            "features.17",
        ),
    ] {
        training(engine, name, &norms, layer, tolerances);
    }
    refusals(engine);
}

/// Against differences of what the rest of the network makes of a value.
fn differences(engine: &dyn Engine, tolerances: &Tolerances) {
    // The error of a central difference goes with the square of the step, that of rounding with its inverse.
    const STEP: f32 = 0.02;
    let network = smooth();
    let image = regraft_testing::pattern::values("smooth", network.graph.input_shape().len());
    let shapes = network.graph.shapes().expect("the network fits together");
    let mut session = network.compile(engine, SessionOptions::inspection(&network.graph));
    let mut nodes = 0;
    for (node, &shape) in shapes.iter().enumerate() {
        let Some((_, rest)) = network.graph.split(node).expect("the network fits together") else { continue };
        if rest.nodes().len() == 1 {
            continue;
        }
        nodes += 1;
        let what = format!("the gradient at {}", network.graph.nodes()[node].name);
        let Activation { values, gradients } = gradient_at(session.as_mut(), &image, node, 2);
        let inferred = infer(session.as_mut(), &image, node);
        assert_close_to_scale(&what, values.data(), &inferred, tolerances.order);
        let mut above = engine.compile(&rest, &network.state, SessionOptions::inference(&rest)).unwrap();
        let picked: Vec<usize> = (0..shape.len()).step_by((shape.len() / 16).max(1)).collect();
        let mut moved = Vec::new();
        for &i in &picked {
            for by in [STEP, -STEP] {
                let mut values = values.data().to_vec();
                values[i] += by;
                moved.extend(channels_last(&values, shape));
            }
        }
        let logits = infer(above.as_mut(), &moved, rest.output());
        let logit = |row: usize| f64::from(logits[row * CLASSES + 2]);
        let slope = |row: usize| ((logit(2 * row) - logit(2 * row + 1)) / (2.0 * f64::from(STEP))) as f32;
        let slopes: Vec<f32> = (0..picked.len()).map(slope).collect();
        let found: Vec<f32> = picked.iter().map(|&i| gradients.data()[i]).collect();
        // Logits of order one are rounded to 1e-7, so slopes to 5e-6; gradients here are of order 1e-2 and above.
        assert_close_to_scale(&what, &found, &slopes, 5e-3);
    }
    assert!(nodes >= 8, "{nodes} nodes that everything later passes through");
}

/// Against training: the gradient of a frozen batch norm's bias is the sum over the pixels of that of its value.
fn training(engine: &dyn Engine, name: &str, norms: &[&str], layer: &str, tolerances: &Tolerances) {
    let network = Network::new(name);
    let samples = Samples::new(1);
    let output = 1;
    let mut idle = network.compile(engine, SessionOptions::inspection(&network.graph));
    // In one that trains, most of the nodes lie within the trunk.
    let options = SessionOptions { outputs: Outputs::Any, ..network.options(layer, BatchNormMode::Train) };
    let mut with_trunk = network.compile(engine, options);
    assert!(with_trunk.trunk().is_some());
    for norm in norms {
        let node = network.node(norm);
        let trainable = Trainable::only(&network.graph, node);
        let options = SessionOptions {
            trainable,
            update: PLAIN,
            batch_norm: BatchNormMode::Frozen,
            ..SessionOptions::inference(&without_dropout(&network.graph))
        };
        let graph = without_dropout(&network.graph);
        let accumulate = |targets: &[f32]| {
            let mut session = engine.compile(&graph, &network.state, options.clone()).unwrap();
            let targets = Targets { labels: Labels::Values(targets), label_smoothing: 0.0, class_weights: None };
            let batch = Batch { input: samples.images[..].into(), sample_keys: &samples.keys };
            let losses = session.accumulate(batch, targets, Want::Logits).unwrap();
            (losses.logits.expect("they were wanted"), session.state().unwrap().pending.gradients)
        };
        // The squared error whose gradient is one at the output and zero elsewhere.
        let (mut targets, _) = accumulate(&[0.0; CLASSES]);
        targets[output] -= CLASSES as f32 / 2.0;
        let expected = &accumulate(&targets).1[&format!("{norm}.bias")];
        for session in [&mut idle, &mut with_trunk] {
            let Activation { values, gradients } = gradient_at(session.as_mut(), &samples.images, node, output);
            let channels = values.shape()[0];
            let pixels = values.data().len() / channels;
            let sums: Vec<f32> = gradients.data().chunks_exact(pixels).map(|plane| plane.iter().sum()).collect();
            let inferred = infer(session.as_mut(), &samples.images, node);
            assert_close_to_scale(norm, values.data(), &inferred, tolerances.order);
            // Twenty layers and an activation's kink now and then.
            assert_close_to_scale(&format!("{name}: {norm}"), &sums, expected.data(), 1e-3);
        }
    }
}

/// The network without its masks, of which training would draw.
fn without_dropout(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    for node in 0..graph.nodes().len() {
        if let Op::Dropout { p } | Op::StochasticDepth { p } = graph.op_mut(node) {
            *p = 0.0;
        }
    }
    graph
}

fn refusals(engine: &dyn Engine) {
    let network = Network::new("squeezenet1_1");
    let images = Samples::new(2).images;
    let image = Samples::new(1).images;
    let node = network.node("features.6.concat");
    let mut session = network.compile(engine, SessionOptions::inspection(&network.graph));
    let mut try_it =
        |image: &[f32], node, output| session.gradient_at(Images::Floats(image), node, output).unwrap_err();
    for (image, node, output) in [(&image, node, CLASSES), (&image, network.graph.nodes().len(), 0)] {
        let error = try_it(image, node, output);
        assert!(matches!(error, Error::Output { .. }), "{error}");
    }
    for image in [&images[..], &[], &image[1..]] {
        let error = try_it(image, node, 0);
        assert!(matches!(error, Error::Batch(_)), "{error}");
    }
    let mut last = network.compile(engine, SessionOptions::inference(&network.graph));
    let error = last.gradient_at(Images::Floats(&image), node, 0).unwrap_err();
    assert!(matches!(error, Error::Output { .. }), "{error}");
    // A value that the output does not depend on.
    let mut graph = Graph::new(Shape::rgb(SIDE));
    let used = graph.push("used", Op::Flatten, &[0]);
    let unused = graph.push("unused", Op::ReLU, &[0]);
    let fc = Linear { in_features: 3 * SIDE * SIDE, out_features: 1, bias: false };
    let fc = graph.push("fc", Op::Linear(fc), &[used]);
    let weight = Tensor::full([1, 3 * SIDE * SIDE], 0.5);
    let state = StateDict::from([("fc.weight".into(), weight)]);
    let mut session = engine.compile(&graph, &state, SessionOptions::inspection(&graph)).unwrap();
    let error = session.gradient_at(Images::Floats(&image), unused, 0).unwrap_err();
    assert!(matches!(&error, Error::Output { node, .. } if node == "unused"), "{error}");
    assert_eq!(gradient_at(session.as_mut(), &image, fc, 0).gradients.data(), [1.0]);
    assert!(gradient_at(session.as_mut(), &image, 0, 0).gradients.data().iter().all(|&g| g == 0.5));
}

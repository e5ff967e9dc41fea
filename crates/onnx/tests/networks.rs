//! Networks from ONNX files compute what PyTorch computes. Fixtures: `reference/onnx/generate.py`.

use std::path::PathBuf;

use regraft_engine::{Engine, SessionOptions};
use regraft_engine_cpu::CpuEngine;
use regraft_graph::{Grafted, HeadLayers, Op, Shape};
use regraft_kernels::elementwise::transpose;
use regraft_onnx::Network;
use regraft_testing::{assert_close_to_scale, fixture, pattern};

/// Side of the pictures where the file leaves it open: as in `CASES` of generate.py.
fn side(name: &str) -> usize {
    match name.split('_').next().unwrap() {
        "densenet" => 16,
        "squeezenet" => 33,
        "shufflenet" => 64,
        _ => 32,
    }
}

fn path(name: &str) -> PathBuf {
    fixture::path(&format!("onnx/{name}.onnx"))
}

fn read(name: &str) -> Network {
    regraft_onnx::read(&path(name), side(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What the CPU engine makes of the two pictures that PyTorch was given.
fn logits(name: &str, network: &Network) -> Vec<f32> {
    let pixels = side(name).pow(2);
    let planes = pattern::values(&format!("{name}.input"), 2 * 3 * pixels);
    let mut images = vec![0.0; planes.len()];
    for (planes, image) in planes.chunks(3 * pixels).zip(images.chunks_mut(3 * pixels)) {
        transpose(planes, 3, pixels, false, image);
    }
    let mut session = CpuEngine::new(1)
        .unwrap()
        .compile(&network.graph, &network.state, SessionOptions::inference(&network.graph))
        .unwrap();
    session.infer(images[..].into(), &[network.graph.output()]).unwrap().remove(0).into_data()
}

#[test]
fn every_network_gives_pytorchs_logits() {
    let references = regraft_weights::read(&fixture::path("onnx/logits.safetensors")).unwrap();
    assert!(references.len() >= 20);
    for (name, expected) in &references {
        let network = read(name);
        assert_eq!(network.graph.input_shape(), Shape::rgb(side(name)), "{name}");
        let found = logits(name, &network);
        let scale = expected.data().iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let worst = found.iter().zip(expected.data()).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        eprintln!("{name}: {} layers, off by {:.1e} of the scale", network.graph.nodes().len() - 1, worst / scale);
        // Both compute the same sums in f32, in another order.
        assert_close_to_scale(name, &found, expected.data(), 1e-4);
    }
}

#[test]
fn layers_and_parameters_have_pytorchs_names() {
    let names = |name: &str| -> Vec<String> { read(name).state.into_keys().collect() };
    let resnet = names("resnet_unfolded_11");
    for name in ["conv1.weight", "bn1.running_var", "layer1.1.downsample.0.weight", "layer2.0.bn3.bias", "fc.bias"] {
        assert!(resnet.iter().any(|found| found == name), "{name} is not among {resnet:?}");
    }
    // Batch norms folded into the convolutions leave no names to the weights, but the nodes have paths.
    let folded = names("resnet");
    for name in ["conv1.weight", "layer1.1.downsample.0.weight", "layer2.0.conv3.bias", "fc.bias"] {
        assert!(folded.iter().any(|found| found == name), "{name} is not among {folded:?}");
    }
    assert!(!folded.iter().any(|name| name.contains("running_mean")), "{folded:?}");
}

#[test]
fn what_a_file_spells_out_becomes_the_operation_that_it_is() {
    let count = |name: &str, op: &str| read(name).graph.nodes().iter().filter(|node| node.op.name() == op).count();
    for name in ["mobilenet_v3", "mobilenet_v3_13", "mobilenet_v3_dynamo"] {
        assert_eq!((count(name, "Hardswish"), count(name, "Hardsigmoid"), count(name, "Mul")), (7, 2, 2), "{name}");
    }
    for name in ["shufflenet", "shufflenet_dynamo"] {
        assert_eq!((count(name, "ChannelShuffle"), count(name, "Narrow")), (6, 6), "{name}");
    }
    assert_eq!((count("convnext", "GELU"), count("convnext", "LayerScale")), (3, 3));
    for name in ["efficientnet", "efficientnet_dynamo"] {
        // Each value is computed once, whoever reads it.
        assert_eq!((count(name, "Sigmoid"), count(name, "Mul")), (3, 3), "{name}");
    }
    assert_eq!(count("densenet", "AvgPool2d"), 1);
}

#[test]
fn a_head_can_be_grafted_on_every_network() {
    let references = regraft_weights::read(&fixture::path("onnx/logits.safetensors")).unwrap();
    for name in references.keys() {
        let grafted = read(name).graph.graft(None, &HeadLayers::default(), 3);
        let Grafted { graph, classifier, .. } = grafted.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(matches!(graph.nodes()[classifier].op, Op::Linear(_)), "{name}");
        // No name twice, all shapes fit.
        let nodes = graph.nodes().to_vec();
        let graph =
            regraft_graph::Graph::from_nodes(graph.input_shape(), nodes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(*graph.shapes().unwrap().last().unwrap(), Shape::Features(3), "{name}");
    }
}

#[test]
fn a_softmax_at_the_end_is_left_out_and_said() {
    let network = read("prepared");
    assert!(network.notes.iter().any(|note| note.contains("softmax")), "{:?}", network.notes);
    assert_eq!(network.image_size, Some(32));
    assert!(network.producer.starts_with("pytorch "), "{}", network.producer);
    assert_eq!(read("resnet").image_size, None);
}

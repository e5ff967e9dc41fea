//! Every network of the zoo gives torchvision's logits (`reference/zoo`).

use regraft_engine::{Engine, Session, SessionOptions};
use regraft_engine_cpu::CpuEngine;
use regraft_graph::{Graph, Shape, Trainable, zoo};
use regraft_kernels::elementwise::transpose;
use regraft_testing::{assert_close_to_scale, pattern};

fn infer(session: &mut dyn Session, graph: &Graph, images: &[f32]) -> Vec<f32> {
    session.infer(images.into(), &[graph.output()]).unwrap().remove(0).into_data()
}

/// torchvision in `f64` is the reference; in `f32` torchvision itself is up to 2e-6 of the scale away from it
/// (recorded beside the logits), and folded batch norms round differently: 1e-5 leaves room for both. ResNet-18, with
/// Winograd's algorithm in most of its layers, stays within half of that.
fn tolerance(name: &str) -> f64 {
    if name == "resnet18" { 5e-6 } else { 1e-5 }
}

#[test]
fn logits_are_torchvisions() {
    let engine = CpuEngine::new(2).unwrap();
    let references = regraft_testing::zoo::references();
    for &name in zoo::NAMES {
        // Whatever size it is made for.
        let graph = zoo::build(name, 1000).unwrap().with_input_shape(Shape::rgb(224)).unwrap();
        let state = pattern::state(&graph);
        let planes = pattern::values("input", 3 * 224 * 224);
        let mut image = vec![0.0; planes.len()];
        transpose(&planes, 3, 224 * 224, false, &mut image);
        let mut session = engine.compile(&graph, &state, SessionOptions::inference(&graph)).unwrap();
        let logits = infer(session.as_mut(), &graph, &image);
        assert_close_to_scale(name, &logits, &references[name].logits, tolerance(name));
        // A larger batch may be computed by other kernels, and in bands.
        if ["resnet18", "mobilenet_v2", "squeezenet1_1"].contains(&name) {
            for logits in infer(session.as_mut(), &graph, &image.repeat(8)).chunks_exact(1000) {
                assert_close_to_scale(name, logits, &references[name].logits, tolerance(name));
            }
        }
    }
}

#[test]
fn a_session_that_trains_infers_the_same_bits() {
    // It keeps its batch norms apart for training and folds them anew for inference.
    let engine = CpuEngine::new(2).unwrap();
    let graph = zoo::build("resnet18", 10).unwrap().with_input_shape(Shape::rgb(64)).unwrap();
    let state = pattern::state(&graph);
    let image = pattern::values("input", 3 * 64 * 64);
    let infer = |trainable| {
        let mut session =
            engine.compile(&graph, &state, SessionOptions { trainable, ..SessionOptions::inference(&graph) }).unwrap();
        infer(session.as_mut(), &graph, &image)
    };
    assert_eq!(infer(Trainable::none(&graph)), infer(Trainable::all(&graph)));
}

//! Frozen means frozen.

use regraft_graph::{ParameterKind, Trainable};

use super::Tolerances;
use super::common::{CLASSES, Network, Samples, assert_same, train};
use crate::{BatchNormMode, Engine, Outputs, SessionOptions};

/// Layers that do not learn never change, nor do frozen running statistics; everything else does.
pub fn freezing(engine: &dyn Engine, _: &Tolerances) {
    let samples = Samples::new(4);
    for (name, layer) in [("resnet18", "layer4"), ("resnet18", "layer4.1.conv2"), ("mobilenet_v2", "classifier")] {
        let network = Network::new(name);
        for (batch_norm, outputs) in [(BatchNormMode::Train, Outputs::Final), (BatchNormMode::Frozen, Outputs::Any)] {
            let options = SessionOptions { outputs, ..network.options(layer, batch_norm) };
            let trainable = options.trainable.clone();
            let mut session = network.compile(engine, options);
            assert_same("before", &session.weights().unwrap(), &session.state().unwrap().trained);
            train(session.as_mut(), &samples, 0.1);
            let after = session.weights().unwrap();
            for spec in network.graph.parameters() {
                let moves = spec.kind == ParameterKind::Parameter || batch_norm == BatchNormMode::Train;
                let changes = trainable.contains(spec.node) && moves;
                assert_eq!(after.contains_key(&spec.name), changes, "{name} from {layer}: {}", spec.name);
                let moved = after.get(&spec.name).is_none_or(|tensor| *tensor != network.state[&spec.name]);
                assert!(moved, "{name} from {layer}: {} should have moved", spec.name);
            }
            // Tensors that were not exported are unchanged: a new session from the state infers the same bits.
            let found = network.infer(session.as_mut(), &samples.images);
            let mut fresh = Network { graph: network.graph.clone(), state: network.state.clone() };
            fresh.state.extend(after);
            let mut fresh = fresh.compile(engine, SessionOptions { outputs, ..network.options(layer, batch_norm) });
            assert!(network.infer(fresh.as_mut(), &samples.images) == found, "{name} from {layer}");
        }
    }
    new_layers(engine);
}

/// New batch norms take each batch's statistics where the others are frozen.
fn new_layers(engine: &dyn Engine) {
    let network = Network::new("resnet18");
    let first = network.node("layer4.1.conv1");
    let trainable = Trainable::all(&network.graph).with_new(first);
    let options = SessionOptions { trainable, ..network.all(BatchNormMode::Frozen) };
    let mut session = network.compile(engine, options);
    let losses = train(session.as_mut(), &Samples::new(4), 0.01);
    assert_eq!(losses.logits.expect("they were wanted").len(), 4 * CLASSES);
    let weights = session.weights().unwrap();
    let moved = |name: &str| weights.get(name).is_some_and(|tensor| *tensor != network.state[name]);
    assert!(moved("layer4.1.bn1.running_mean") && moved("layer4.1.bn2.running_var"));
    assert!(!weights.contains_key("layer4.0.bn1.running_mean") && moved("layer4.0.bn1.weight"));
}

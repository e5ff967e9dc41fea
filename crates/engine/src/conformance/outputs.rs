//! Values of any node.

use regraft_graph::{NodeId, Shape};
use regraft_testing::assert_close_to_scale;

use super::Tolerances;
use super::common::{Network, SIDE, Samples, channels_last, infer, train};
use crate::{BatchNormMode, Engine, Error, Outputs, SessionOptions};

/// Any node's value is that of the network cut there, alone and beside others, below and above the trunk.
pub fn outputs(engine: &dyn Engine, tolerances: &Tolerances) {
    let images = Samples::new(3).images;
    for (name, layer) in [("resnet18", "layer4.1"), ("mobilenet_v2", "features.17"), ("squeezenet1_1", "features.12")] {
        let mut network = Network::new(name);
        let inspection = SessionOptions::inspection(&network.graph);
        let training = SessionOptions { outputs: Outputs::Any, ..network.options(layer, BatchNormMode::Train) };
        let mut trained = network.compile(engine, training);
        train(trained.as_mut(), &Samples::new(4), 0.01);
        network.state.extend(trained.weights().unwrap());
        let mut fresh = network.compile(engine, inspection);
        let shapes = network.graph.shapes().expect("the network fits together");
        let output = network.graph.output();
        let mut nodes: Vec<NodeId> = (1..output).filter(|node| node % 7 == 3).chain([output]).collect();
        nodes.extend(trained.trunk().map(|trunk| trunk.node));
        for &node in &nodes {
            let what = format!("{name}: {}", network.graph.nodes()[node].name);
            let cut = network.graph.cut(node);
            let mut alone = engine.compile(&cut, &network.state, SessionOptions::inference(&cut)).unwrap();
            let expected = alone.infer(images[..].into(), &[cut.output()]).unwrap().remove(0);
            for session in [&mut fresh, &mut trained] {
                let found = session.infer(images[..].into(), &[node]).unwrap().remove(0);
                let shape = match shapes[node] {
                    Shape::Map { channels, height, width } => vec![3, channels, height, width],
                    Shape::Features(features) => vec![3, features],
                };
                assert_eq!(found.shape(), shape, "{what}");
                assert_eq!(expected.shape(), shape, "{what}");
                // Batch norms may be folded in one and not in the other.
                assert_close_to_scale(&what, found.data(), expected.data(), tolerances.order);
            }
        }
        for session in [&mut fresh, &mut trained] {
            // Together, in any order, and one of them twice.
            let mixed = [output, nodes[2], 0, nodes[0], output];
            let found = session.infer(images[..].into(), &mixed).unwrap();
            for (&node, found) in mixed.iter().zip(&found) {
                let expected = infer(session.as_mut(), &images, node);
                let what = format!("{name}: {} beside others", network.graph.nodes()[node].name);
                assert_close_to_scale(&what, found.data(), &expected, tolerances.order);
            }
            assert!(channels_last(found[2].data(), Shape::rgb(SIDE)) == images, "{name}: the input");
            assert_eq!(session.infer(images[..].into(), &[]).unwrap(), [], "{name}");
            let error = session.infer(images[..].into(), &[output + 1]).unwrap_err();
            assert!(matches!(error, Error::Output { .. }), "{name}: {error}");
        }
        // A session that was not asked for any node's value gives its output alone, as often as it is wanted.
        let mut last = network.compile(engine, SessionOptions::inference(&network.graph));
        assert_eq!(last.infer(images[..].into(), &[output, output]).unwrap().len(), 2, "{name}");
        let error = last.infer(images[..].into(), &[output, nodes[0]]).unwrap_err();
        let expected = &network.graph.nodes()[nodes[0]].name;
        assert!(matches!(&error, Error::Output { node, .. } if node == expected), "{name}: {error}");
        let close = |found: &[f32], expected: &[f32]| assert_close_to_scale(name, found, expected, tolerances.order);
        close(&network.infer(last.as_mut(), &images), &network.infer(fresh.as_mut(), &images));
    }
}

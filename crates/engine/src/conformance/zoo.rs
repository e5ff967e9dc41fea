//! Every network of the zoo against torchvision (`reference/zoo`).

use regraft_graph::{Shape, zoo as networks};
use regraft_testing::{assert_close_to_scale, pattern};

use super::Tolerances;
use super::common::{Network, channels_last};
use crate::{Engine, SessionOptions};

/// Height and width of torchvision's images, in pixels, for every network.
const SIDE: usize = 224;

/// Classes of torchvision's networks.
const CLASSES: usize = 1000;

/// Networks that a batch is tried on, too: it may be computed by other kernels.
const IN_A_BATCH: [&str; 3] = ["resnet18", "mobilenet_v2", "squeezenet1_1"];

/// Every network of the zoo gives torchvision's logits.
pub fn zoo(engine: &dyn Engine, tolerances: &Tolerances) {
    let references = regraft_testing::zoo::references();
    let image = channels_last(&pattern::values("input", 3 * SIDE * SIDE), Shape::rgb(SIDE));
    for &name in networks::NAMES {
        let graph = networks::build(name, CLASSES).and_then(|graph| graph.with_input_shape(Shape::rgb(SIDE)));
        let network = Network::of(graph.expect("a known name"));
        let mut session = network.compile(engine, SessionOptions::inference(&network.graph));
        let mut check = |images: &[f32]| {
            for logits in network.infer(session.as_mut(), images).chunks_exact(CLASSES) {
                assert_close_to_scale(name, logits, &references[name].logits, tolerances.network);
            }
        };
        check(&image);
        if IN_A_BATCH.contains(&name) {
            check(&image.repeat(8));
        }
    }
}

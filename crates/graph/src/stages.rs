//! A network as a row of stages, for what is done to one after the other: learning-rate decay, unfreezing.

use crate::graph::prefix;
use crate::{Graph, NodeId, Op};

/// A stretch of a network's nodes, up to where the next stage begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Name of the layer that its nodes belong to.
    pub name: String,
    /// Its first node.
    pub first: NodeId,
}

/// Containers whose parts are stages of their own, and how many parts of a name tell those apart.
const CONTAINERS: [(&str, usize); 3] = [("features.", 2), ("classifier.", 2), ("encoder.layers.", 3)];

impl Graph {
    /// The network's stages from the input to the output: its top-level layers (ResNet's `conv1`, `layer1` to `layer4`,
    /// `fc`), or the parts of `features` and `classifier` (VGG, SqueezeNet, MobileNetV2).
    ///
    /// What has neither a convolution nor a fully connected layer, such as `bn1`, belongs to the stage before it.
    pub fn stages(&self) -> Vec<Stage> {
        let mut stages: Vec<Stage> = Vec::new();
        for (first, node) in self.nodes().iter().enumerate() {
            let depth = CONTAINERS.iter().find(|(container, _)| node.name.starts_with(container));
            let name = prefix(&node.name, depth.map_or(1, |&(_, depth)| depth));
            let computes = matches!(node.op, Op::Conv2d(_) | Op::Linear(_) | Op::CosineLinear(_));
            if computes && stages.last().is_none_or(|stage| stage.name != name) {
                stages.push(Stage { name: name.into(), first });
            }
        }
        stages
    }
}

#[cfg(test)]
mod tests {
    use crate::zoo;

    fn names(network: &str) -> Vec<String> {
        zoo::build(network, 10).unwrap().stages().into_iter().map(|stage| stage.name).collect()
    }

    #[test]
    fn stages_are_what_people_call_layers() {
        assert_eq!(names("resnet50"), ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]);
        assert_eq!(names("vgg11_bn").last().unwrap(), "classifier.6");
        assert_eq!(names("vgg11_bn").len(), 8 + 3);
        assert_eq!(names("squeezenet1_1").len(), 1 + 8 + 1);
        assert_eq!(names("mobilenet_v2").len(), 19 + 1);
    }

    #[test]
    fn every_parameter_lies_in_just_one_stage() {
        for &name in zoo::NAMES {
            let graph = zoo::build(name, 10).unwrap();
            let stages = graph.stages();
            assert!(stages.windows(2).all(|pair| pair[0].first < pair[1].first), "{name}");
            let first = graph.parameters()[0].node;
            assert_eq!(stages[0].first, first, "{name}");
            let unique: std::collections::HashSet<_> = stages.iter().map(|stage| &stage.name).collect();
            assert_eq!(unique.len(), stages.len(), "{name}: a stage in two pieces");
        }
    }
}

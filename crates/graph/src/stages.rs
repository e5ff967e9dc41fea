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

/// Layers that only hold others, which are what people call the network's layers: VGG, MobileNetV2 and others (`features`,
/// `classifier`), MNASNet (`layers`), RegNet (`trunk_output`).
const CONTAINERS: [&str; 4] = ["features", "classifier", "layers", "trunk_output"];

/// The top-level layer that a node of this name belongs to (`layer4` for `layer4.0.conv1`), or the part of a container
/// (`features.3` for `features.3.conv`).
pub(crate) fn top_level(name: &str) -> &str {
    let is_part = name.split_once('.').is_some_and(|(first, _)| CONTAINERS.contains(&first));
    prefix(name, if is_part { 2 } else { 1 })
}

impl Graph {
    /// The network's stages from the input to the output: its top-level layers (ResNet's `conv1`, `layer1` to `layer4`,
    /// `fc`), or the parts of what holds them all (`features` and `classifier` of VGG, RegNet's `trunk_output`).
    ///
    /// What has neither a convolution nor a fully connected layer, such as `bn1`, belongs to the stage before it.
    pub fn stages(&self) -> Vec<Stage> {
        let mut stages: Vec<Stage> = Vec::new();
        for (first, node) in self.nodes().iter().enumerate() {
            let name = top_level(&node.name);
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
        let blocks = [1, 2, 3, 4].map(|block| format!("trunk_output.block{block}"));
        assert_eq!(names("regnet_y_400mf"), [&["stem".into()], &blocks[..], &["fc".into()]].concat());
        let mnasnet = names("mnasnet1_0");
        assert_eq!((mnasnet.len(), &*mnasnet[3], &*mnasnet[10]), (3 + 6 + 1 + 1, "layers.8", "classifier.1"));
    }

    /// Of a network that is one stage, learning-rate decay and unfreezing would do nothing, and say nothing.
    #[test]
    fn every_network_has_stages() {
        for &name in zoo::NAMES {
            assert!(names(name).len() >= 6, "{name}: {:?}", names(name));
        }
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

//! Grafting a new head on a network that is cut at a layer.

use crate::{BatchNorm2d, Conv2d, CosineLinear, Error, Graph, Linear, NodeId, Op, Shape};

/// Name of what is grafted on; its layers are numbered as those of a `torch.nn.Sequential`.
const HEAD: &str = "fc";

/// A convolution of a new head. Batch norm and ReLU follow it; its padding keeps the map's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadConvolution {
    /// Channels of its output.
    pub out_channels: usize,
    /// Height and width of the filter, an odd number.
    pub kernel_size: usize,
}

/// The layers of a new head, from the cut to the classes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeadLayers {
    /// Convolutions on the last map, each with batch norm and ReLU; then the map is averaged over its area.
    pub convolutions: Vec<HeadConvolution>,
    /// Widths of fully connected layers with ReLU before the last.
    pub hidden: Vec<usize>,
    /// Whether the last layer is a [`CosineLinear`], and not a [`Linear`].
    pub cosine: bool,
    /// Probability of the dropout before every fully connected layer; none if 0.
    pub dropout: f32,
}

/// A network with a new head.
#[derive(Clone, Debug, PartialEq)]
pub struct Grafted {
    /// The network.
    pub graph: Graph,
    /// First node of the head: it and all that follow are new, and their parameters are to be initialised.
    pub first: NodeId,
    /// The last layer, which gives the logits.
    pub classifier: NodeId,
}

impl Graph {
    /// The network with its own kind of head for `classes`.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    pub fn with_own_head(&self, classes: usize) -> Result<Grafted, Error> {
        let mut graph = self.clone();
        let head = graph.replace_head(classes)?;
        Ok(Grafted { graph, first: head, classifier: head })
    }

    /// The network up to and including the layer `cut`, with a new head for `classes`. Without `cut` a head of fully
    /// connected layers takes the place of the network's own, and one with convolutions that of its pooling as well.
    ///
    /// Where fully connected layers follow a map, it is averaged over its area (`AdaptiveAvgPool2d(1)`). The layers are
    /// called `fc.0`, `fc.1`, ...; a single one is called `fc`, or as the one whose place it takes. Where the backbone has
    /// such names, it is `fc_1`, and so on.
    ///
    /// # Errors
    /// As [`head`](Self::head); [`Error::NoSuchLayer`] if there is no layer `cut`; [`Error::Graft`] if it does not lie
    /// before the network's own head, or is no map where a convolution wants one.
    pub fn graft(&self, cut: Option<&str>, layers: &HeadLayers, classes: usize) -> Result<Grafted, Error> {
        let old = self.head()?;
        let end = match cut {
            Some(layer) => self.last_node_of(layer)?,
            None if !layers.convolutions.is_empty() => self.last_map(old),
            None if layers.dropout > 0.0 => self.before(old, |op| matches!(op, Op::Dropout { .. })),
            None => self.nodes()[old].inputs[0],
        };
        let value = self.shapes()?[end];
        let refuse =
            |head, reason: String| Err(Error::Graft { head, layer: self.nodes()[end].name.clone(), value, reason });
        if end == 0 || end >= old {
            let (what, head) = (if end == 0 { "the input" } else { "not before it" }, &self.nodes()[old].name);
            return refuse("a head", format!("that is {what}; the network's own head begins at {head}"));
        }
        let mut graph = self.cut(end);
        let first = graph.output() + 1;
        // A network from elsewhere may have a layer of that name, or a group of layers.
        let names = std::iter::once(HEAD.to_owned()).chain((1..).map(|number| format!("{HEAD}_{number}")));
        let name = names.into_iter().find(|name| graph.first_node_of(name).is_err()).expect("there are enough numbers");
        let mut stack = Stack { graph: &mut graph, name: name.clone(), number: 0 };
        if !layers.convolutions.is_empty() {
            let Shape::Map { mut channels, .. } = value else {
                return refuse("a convolution", "it needs a feature map; choose an earlier --cut".into());
            };
            for &HeadConvolution { out_channels, kernel_size } in &layers.convolutions {
                stack.push(Op::Conv2d(Conv2d::new(channels, out_channels, kernel_size).padding(kernel_size / 2)));
                stack.push(Op::BatchNorm2d(BatchNorm2d { num_features: out_channels, eps: 1e-5, momentum: 0.1 }));
                stack.push(Op::ReLU);
                channels = out_channels;
            }
        }
        if let Shape::Map { .. } = value {
            stack.pool(layers.convolutions.is_empty());
        }
        let mut features = stack.features()?;
        for &width in &layers.hidden {
            stack.dropout(layers.dropout);
            stack.push(Op::Linear(Linear { in_features: features, out_features: width, bias: true }));
            stack.push(Op::ReLU);
            features = width;
        }
        stack.dropout(layers.dropout);
        let last = match layers.cosine {
            true => Op::CosineLinear(CosineLinear { in_features: features, out_features: classes }),
            false => Op::Linear(Linear { in_features: features, out_features: classes, bias: true }),
        };
        let classifier = if stack.number > 0 {
            stack.push(last)
        } else {
            let replaces = cut.is_none() && matches!(self.nodes()[old].op, Op::Linear(_) | Op::CosineLinear(_));
            let name = if replaces { self.nodes()[old].name.clone() } else { name };
            graph.push(name, last, &[graph.output()])
        };
        Ok(Grafted { graph, first, classifier })
    }

    /// The last map of the ConvNet: what its head's pooling reads, or the head itself if it has none.
    fn last_map(&self, head: NodeId) -> NodeId {
        let mut node = self.nodes()[head].inputs[0];
        loop {
            match &self.nodes()[node].op {
                Op::AdaptiveAvgPool2d { .. } => return self.nodes()[node].inputs[0],
                Op::Input | Op::Conv2d(_) | Op::MaxPool2d(_) | Op::Add | Op::Concat => {
                    return self.before(head, |op| matches!(op, Op::Dropout { .. }));
                }
                _ => node = self.nodes()[node].inputs[0],
            }
        }
    }

    /// What `node` reads, if that is not to be `skipped`, else what that reads, and so on.
    fn before(&self, node: NodeId, skipped: impl Fn(&Op) -> bool) -> NodeId {
        let mut input = self.nodes()[node].inputs[0];
        while skipped(&self.nodes()[input].op) {
            input = self.nodes()[input].inputs[0];
        }
        input
    }
}

/// A head under construction: every layer reads the one before.
struct Stack<'a> {
    graph: &'a mut Graph,
    /// What its layers' names begin with.
    name: String,
    /// Number of the next layer.
    number: usize,
}

impl Stack<'_> {
    fn push(&mut self, op: Op) -> NodeId {
        let name = format!("{}.{}", self.name, self.number);
        self.number += 1;
        self.graph.push(name, op, &[self.graph.output()])
    }

    /// Averages the map over its area: as layers of the head, or as the network's own would be called.
    fn pool(&mut self, own_name: bool) {
        for (name, op) in [("avgpool", Op::AdaptiveAvgPool2d { output_size: 1 }), ("flatten", Op::Flatten)] {
            let taken = self.graph.nodes().iter().any(|node| node.name == name);
            if own_name && !taken {
                self.graph.push(name, op, &[self.graph.output()]);
            } else {
                self.push(op);
            }
        }
    }

    fn dropout(&mut self, p: f32) {
        if p > 0.0 {
            self.push(Op::Dropout { p });
        }
    }

    fn features(&self) -> Result<usize, Error> {
        Ok(self.graph.shapes()?[self.graph.output()].len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo;

    fn names(graph: &Graph, first: NodeId) -> Vec<String> {
        graph.nodes()[first..].iter().map(|node| format!("{} {}", node.name, node.op.name())).collect()
    }

    fn convolutional() -> HeadLayers {
        let convolution = HeadConvolution { out_channels: 32, kernel_size: 3 };
        HeadLayers { convolutions: vec![convolution], hidden: vec![16], dropout: 0.5, cosine: false }
    }

    #[test]
    fn grafted_layers_take_names_that_are_free() {
        let mut graph = Graph::new(Shape::rgb(8));
        let map = graph.push("fc", Op::Conv2d(Conv2d::new(3, 4, 3)), &[0]);
        let map = graph.push("flatten", Op::ReLU, &[map]);
        let map = graph.push("avgpool", Op::ReLU, &[map]);
        graph.push("head", Op::Conv2d(Conv2d::new(4, 9, 1)), &[map]);
        let network = graph.graft(None, &HeadLayers::default(), 2).unwrap().graph;
        let names: Vec<_> = network.nodes().iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["input", "fc", "flatten", "avgpool", "fc_1.0", "fc_1.1", "fc_1.2"]);
        network.shapes().unwrap();
    }

    #[test]
    fn features_have_the_published_lengths() {
        for (name, features, head) in [
            ("resnet18", 512, "fc"),
            ("resnet50", 2048, "fc"),
            ("vgg16", 4096, "classifier.6"),
            ("mobilenet_v2", 1280, "classifier.1"),
            ("squeezenet1_1", 512, "fc"),
        ] {
            let graph = zoo::build(name, 1000).unwrap();
            let Grafted { graph, classifier, .. } = graph.graft(None, &HeadLayers::default(), 3).unwrap();
            assert_eq!(graph.nodes()[classifier].name, head);
            let Op::Linear(linear) = graph.nodes()[classifier].op else { panic!("{name}") };
            assert_eq!((linear.in_features, linear.out_features), (features, 3), "{name}");
            assert_eq!(*graph.shapes().unwrap().last().unwrap(), Shape::Features(3));
        }
    }

    #[test]
    fn convolutions_go_on_the_last_map_of_every_network() {
        for (network, map) in [
            ("resnet18", "layer4.1.relu"),
            ("vgg16", "features.30"),
            ("mobilenet_v2", "features.18.2"),
            ("squeezenet1_1", "features.12.concat"),
        ] {
            let old = zoo::build(network, 1000).unwrap();
            let Grafted { graph, first, classifier } = old.graft(None, &convolutional(), 3).unwrap();
            assert_eq!(graph.nodes()[first - 1].name, map);
            let expected = "fc.0 Conv2d, fc.1 BatchNorm2d, fc.2 ReLU, fc.3 AdaptiveAvgPool2d, fc.4 Flatten, \
                fc.5 Dropout, fc.6 Linear, fc.7 ReLU, fc.8 Dropout, fc.9 Linear";
            assert_eq!(names(&graph, first).join(", "), expected, "{network}");
            assert_eq!(classifier, graph.output());
            assert_eq!(*graph.shapes().unwrap().last().unwrap(), Shape::Features(3), "{network}");
        }
    }

    #[test]
    fn a_cut_keeps_the_network_up_to_and_including_the_layer() {
        let old = zoo::build("resnet18", 1000).unwrap();
        for (cut, last, features) in [("layer3", "layer3.1.relu", 256), ("layer2.0.bn1", "layer2.0.bn1", 128)] {
            let Grafted { graph, classifier, .. } = old.graft(Some(cut), &HeadLayers::default(), 3).unwrap();
            let found = names(&graph, graph.last_node_of(last).unwrap() + 1);
            assert_eq!(found, ["avgpool AdaptiveAvgPool2d", "flatten Flatten", "fc Linear"], "{cut}");
            let Op::Linear(linear) = graph.nodes()[classifier].op else { panic!("{cut}") };
            assert_eq!(linear.in_features, features, "{cut}");
        }
        // A vector is not averaged.
        let mlp = HeadLayers { hidden: vec![64], ..HeadLayers::default() };
        let Grafted { graph, first, .. } =
            zoo::build("vgg16", 1000).unwrap().graft(Some("classifier.1"), &mlp, 3).unwrap();
        assert_eq!(names(&graph, first), ["fc.0 Linear", "fc.1 ReLU", "fc.2 Linear"]);
    }

    #[test]
    fn dropout_of_a_head_takes_the_place_of_the_networks_own() {
        let layers = HeadLayers { dropout: 0.3, ..HeadLayers::default() };
        for (network, before) in [("mobilenet_v2", "flatten"), ("vgg16", "classifier.4"), ("resnet18", "flatten")] {
            let Grafted { graph, first, .. } = zoo::build(network, 1000).unwrap().graft(None, &layers, 3).unwrap();
            assert_eq!(graph.nodes()[first - 1].name, before);
            assert_eq!(names(&graph, first), ["fc.0 Dropout", "fc.1 Linear"], "{network}");
        }
    }

    #[test]
    fn a_cut_that_does_not_go_is_explained() {
        let say = |network: &str, cut: &str, layers: &HeadLayers| {
            zoo::build(network, 1000).unwrap().graft(Some(cut), layers, 3).unwrap_err().to_string()
        };
        let linear = HeadLayers::default();
        let message = say("resnet18", "layer3.7", &linear);
        assert_eq!(message, "the network has no layer \"layer3.7\"; the layers of layer3 are layer3.0, layer3.1");
        assert!(say("resnet18", "layer9", &linear).contains("its top-level layers are conv1"));
        assert!(say("resnet18", "fc", &linear).contains("own head begins at fc"));
        assert!(say("resnet18", "input", &linear).contains("that is the input"));
        let message = say("vgg16", "classifier.1", &convolutional());
        assert!(message.contains("classifier.1") && message.contains("needs a feature map"), "{message}");
    }
}

//! Surgery on networks: cutting at a layer, grafting a head on, choosing what trains.

use crate::{Error, Graph, Linear, NodeId, Op, Shape};

/// Name of the fully connected layer grafted on a network whose own head is not one.
const GRAFTED_HEAD: &str = "fc";

impl Graph {
    /// The network's head: its last layer with parameters, a `Linear` or a 1x1 `Conv2d`.
    ///
    /// # Errors
    /// [`Error::NoHead`] if the last layer with parameters is of another kind.
    pub fn head(&self) -> Result<NodeId, Error> {
        let last = self.nodes().iter().rposition(|node| !node.op.parameters().is_empty());
        match last.map(|id| (id, &self.nodes()[id])) {
            Some((id, node)) => match &node.op {
                Op::Linear(_) => Ok(id),
                Op::Conv2d(conv) if conv.kernel_size == [1, 1] && conv.groups == 1 => Ok(id),
                op => Err(Error::NoHead { layer: node.name.clone(), op: op.name() }),
            },
            None => Err(Error::NoHead { layer: self.nodes()[self.output()].name.clone(), op: "no parameters" }),
        }
    }

    /// Gives the head `classes` outputs and returns its id; its parameters are then to be initialised.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    pub fn replace_head(&mut self, classes: usize) -> Result<NodeId, Error> {
        let head = self.head()?;
        match self.op_mut(head) {
            Op::Linear(linear) => linear.out_features = classes,
            Op::Conv2d(conv) => conv.out_channels = classes,
            _ => unreachable!("a head is a Linear or a Conv2d"),
        }
        Ok(head)
    }

    /// The part of the network that computes `node`, with `node` as its output.
    pub fn cut(&self, node: NodeId) -> Graph {
        let mut needed = vec![false; node + 1];
        needed[node] = true;
        needed[0] = true;
        for id in (0..=node).rev() {
            if needed[id] {
                for &input in &self.nodes()[id].inputs {
                    needed[input] = true;
                }
            }
        }
        let mut new_id = vec![0; node + 1];
        let mut part = Graph::new(self.input_shape());
        for id in (1..=node).filter(|&id| needed[id]) {
            let old = &self.nodes()[id];
            let inputs: Vec<NodeId> = old.inputs.iter().map(|&input| new_id[input]).collect();
            new_id[id] = part.push(old.name.clone(), old.op.clone(), &inputs);
        }
        part
    }

    /// The network in two: the part that computes `node`, and the rest, whose input is that value.
    ///
    /// `None` if the rest also reads something else, so that one value is not enough.
    ///
    /// # Errors
    /// [`Error::Shape`] if the layers don't fit together.
    pub fn split(&self, node: NodeId) -> Result<Option<(Graph, Graph)>, Error> {
        let mut rest = Graph::new(self.shapes()?[node]);
        let mut new_id = vec![None; self.nodes().len()];
        new_id[node] = Some(0);
        for (id, old) in self.nodes().iter().enumerate().skip(node + 1) {
            let Some(inputs) = old.inputs.iter().map(|&input| new_id[input]).collect::<Option<Vec<_>>>() else {
                return Ok(None);
            };
            new_id[id] = Some(rest.push(old.name.clone(), old.op.clone(), &inputs));
        }
        Ok(Some((self.cut(node), rest)))
    }

    /// `wanted`, or with a number after it if a layer here has that name.
    fn free_name(&self, wanted: &str) -> String {
        let taken = |name: &str| self.nodes().iter().any(|node| node.name == name);
        let numbered = (1..).map(|number| format!("{wanted}_{number}"));
        let mut names = std::iter::once(wanted.to_owned()).chain(numbered);
        names.find(|name| !taken(name)).expect("there are more numbers than layers")
    }

    /// The ConvNet without its head: a network from images to one vector of features each.
    ///
    /// It ends where the head begins; if a map arrives there (SqueezeNet's head is a convolution), the
    /// map is averaged over its area, as the head's own pooling would do.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    pub fn feature_extractor(&self) -> Result<Graph, Error> {
        let head = self.head()?;
        let mut part = self.cut(self.nodes()[head].inputs[0]);
        if let Some(Shape::Map { .. }) = part.shapes()?.last() {
            let (avgpool, flatten) = (part.free_name("avgpool"), part.free_name("flatten"));
            let pooled = part.push(avgpool, Op::AdaptiveAvgPool2d { output_size: 1 }, &[part.output()]);
            part.push(flatten, Op::Flatten, &[pooled]);
        }
        Ok(part)
    }

    /// The feature extractor of this network with a fresh `Linear` head of `classes` outputs, and the head's id.
    ///
    /// A head that already is a `Linear` keeps its name; otherwise the new one is called `fc`.
    ///
    /// # Errors
    /// As [`head`](Self::head).
    pub fn with_linear_head(&self, classes: usize) -> Result<(Graph, NodeId), Error> {
        let old = &self.nodes()[self.head()?];
        let mut network = self.feature_extractor()?;
        let name = if matches!(old.op, Op::Linear(_)) { old.name.clone() } else { network.free_name(GRAFTED_HEAD) };
        let features = network.shapes()?.last().map_or(0, Shape::len);
        let linear = Linear { in_features: features, out_features: classes, bias: true };
        let head = network.push(name, Op::Linear(linear), &[network.output()]);
        Ok((network, head))
    }
}

/// Which layers of a network learn; the others keep their values bit for bit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trainable {
    nodes: Vec<bool>,
}

impl Trainable {
    /// Every layer with parameters learns.
    pub fn all(graph: &Graph) -> Self {
        Self { nodes: graph.nodes().iter().map(|node| !node.op.parameters().is_empty()).collect() }
    }

    /// Nothing learns.
    pub fn none(graph: &Graph) -> Self {
        Self { nodes: vec![false; graph.nodes().len()] }
    }

    /// Only this node learns.
    pub fn only(graph: &Graph, node: NodeId) -> Self {
        let mut set = Self::none(graph);
        set.nodes[node] = true;
        set
    }

    /// Everything before the layer is frozen; the layer and all that follows it learn.
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`] if no layer has that name.
    pub fn from_layer(graph: &Graph, layer: &str) -> Result<Self, Error> {
        let first = graph.first_node_of(layer)?;
        let mut set = Self::all(graph);
        set.nodes[..first].fill(false);
        Ok(set)
    }

    /// Whether this node's parameters learn.
    pub fn contains(&self, node: NodeId) -> bool {
        self.nodes[node]
    }

    /// The network in two: the part whose values are the same in every step of training, and the rest with those of
    /// its layers that learn. The cut lies as late as one value can carry everything over: below the first layer that
    /// learns, and below the first dropout, which draws anew in every step.
    ///
    /// `None` if the first part would have no layer.
    ///
    /// # Errors
    /// [`Error::Shape`] if the layers don't fit together.
    pub fn divide(&self, graph: &Graph) -> Result<Option<(Graph, Graph, Trainable)>, Error> {
        let varies = |node: NodeId| self.nodes[node] || graph.nodes()[node].op.is_random();
        let first = (0..graph.nodes().len()).find(|&node| varies(node));
        let boundary = first.map_or(graph.output(), |node| graph.nodes()[node].inputs[0]);
        for node in (1..=boundary).rev() {
            if let Some((body, rest)) = graph.split(node)? {
                let mut nodes = self.nodes[node..].to_vec();
                nodes[0] = false;
                return Ok(Some((body, rest, Self { nodes })));
            }
        }
        Ok(None)
    }

    /// Whether nothing learns.
    pub fn is_empty(&self) -> bool {
        !self.nodes.contains(&true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conv2d, zoo};

    #[test]
    fn the_head_is_found_and_replaced_in_every_network() {
        for &name in zoo::NAMES {
            let mut graph = zoo::build(name, 1000).unwrap();
            graph.replace_head(7).unwrap();
            assert_eq!(graph, zoo::build(name, 7).unwrap(), "{name}");
            assert_eq!(*graph.shapes().unwrap().last().unwrap(), Shape::Features(7), "{name}");
        }
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
            let (graph, id) = zoo::build(name, 1000).unwrap().with_linear_head(3).unwrap();
            assert_eq!(graph.nodes()[id].name, head);
            let Op::Linear(linear) = graph.nodes()[id].op else { panic!("{name}") };
            assert_eq!((linear.in_features, linear.out_features), (features, 3), "{name}");
            graph.shapes().unwrap();
        }
    }

    #[test]
    fn grafted_layers_take_names_that_are_free() {
        let mut graph = Graph::new(Shape::rgb(8));
        let map = graph.push("fc", Op::Conv2d(Conv2d::new(3, 4, 3)), &[0]);
        let map = graph.push("flatten", Op::ReLU, &[map]);
        let map = graph.push("avgpool", Op::ReLU, &[map]);
        graph.push("head", Op::Conv2d(Conv2d::new(4, 9, 1)), &[map]);
        let (network, head) = graph.with_linear_head(2).unwrap();
        assert_eq!(network.nodes()[head].name, "fc_1");
        let names: Vec<_> = network.nodes().iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["input", "fc", "flatten", "avgpool", "avgpool_1", "flatten_1", "fc_1"]);
    }

    #[test]
    fn a_cut_keeps_only_what_the_layer_needs() {
        let graph = zoo::build("resnet18", 1000).unwrap();
        let layer = graph.first_node_of("layer1.0.bn2").unwrap();
        let part = graph.cut(layer);
        assert_eq!(part.nodes().last().unwrap().name, "layer1.0.bn2");
        assert_eq!(*part.shapes().unwrap().last().unwrap(), Shape::Map { channels: 64, height: 56, width: 56 });
        assert!(part.nodes().iter().all(|node| !node.name.starts_with("layer2")));
    }

    #[test]
    fn a_split_needs_a_value_that_everything_later_passes_through() {
        let graph = zoo::build("resnet18", 10).unwrap();
        let (body, rest) = graph.split(graph.first_node_of("layer3.1.relu").unwrap()).unwrap().unwrap();
        assert_eq!(rest.input_shape(), *body.shapes().unwrap().last().unwrap());
        assert_eq!(*rest.shapes().unwrap().last().unwrap(), Shape::Features(10));
        assert_eq!(body.parameters().len() + rest.parameters().len(), graph.parameters().len());
        // Inside a block the shortcut goes past.
        assert_eq!(graph.split(graph.first_node_of("layer3.1.conv1").unwrap()).unwrap(), None);
    }

    #[test]
    fn freezing_until_a_layer_leaves_it_and_what_follows() {
        let graph = zoo::build("resnet18", 10).unwrap();
        let set = Trainable::from_layer(&graph, "layer4").unwrap();
        for (id, node) in graph.nodes().iter().enumerate() {
            let expected = !node.op.parameters().is_empty() && (node.name.starts_with("layer4") || node.name == "fc");
            assert_eq!(set.contains(id), expected, "{}", node.name);
        }
        let error = Trainable::from_layer(&graph, "layer9").unwrap_err().to_string();
        assert!(error.contains("layer9") && error.contains("layer4") && error.contains("fc"), "{error}");
    }

    #[test]
    fn the_part_that_training_leaves_alone_ends_below_what_learns_and_what_draws() {
        let ends = |name: &str, layer: Option<&str>| {
            let graph = zoo::build(name, 10).unwrap();
            let trainable = match layer {
                Some(layer) => Trainable::from_layer(&graph, layer).unwrap(),
                None => Trainable::only(&graph, graph.head().unwrap()),
            };
            let (body, rest, above) = trainable.divide(&graph).unwrap()?;
            let learn = |graph: &Graph, set: &Trainable| {
                let names = graph.nodes().iter().enumerate().filter(|&(id, _)| set.contains(id));
                names.map(|(_, node)| node.name.clone()).collect::<Vec<_>>()
            };
            assert_eq!(learn(&rest, &above), learn(&graph, &trainable), "{name}");
            Some(body.nodes()[body.output()].name.clone())
        };
        for (name, layer, end) in [
            ("resnet18", None, "flatten"),
            ("resnet18", Some("layer4"), "layer3.1.relu"),
            // Within a block the shortcut goes past: the block's input is the last value that is enough.
            ("resnet18", Some("layer4.1.conv2"), "layer4.0.relu"),
            // Dropout comes before the heads of these.
            ("mobilenet_v2", None, "flatten"),
            ("vgg16", None, "classifier.1"),
        ] {
            assert_eq!(ends(name, layer).as_deref(), Some(end), "{name} {layer:?}");
        }
        assert_eq!(ends("resnet18", Some("conv1")), None);
        assert_eq!(ends("resnet18", Some("bn1")).as_deref(), Some("conv1"));
    }
}

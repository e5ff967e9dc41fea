//! Which layers of a network learn, and how fast.

use crate::{Error, Graph, NodeId};

/// Which layers of a network learn; the others keep their values bit for bit.
///
/// How fast a layer learns in comparison with the others, and whether it is new, is data here, because the parameters
/// may live where only an engine can reach them.
#[derive(Clone, Debug, PartialEq)]
pub struct Trainable {
    nodes: Vec<Learning>,
}

/// How one node learns.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Learning {
    /// Factor of the learning rate; 0 if the node is frozen.
    rate: f64,
    /// Whether it was grafted on and has learned nothing before.
    new: bool,
}

const FROZEN: Learning = Learning { rate: 0.0, new: false };

impl Trainable {
    /// Every layer with parameters learns.
    pub fn all(graph: &Graph) -> Self {
        Self::from_node(graph, 0)
    }

    /// Nothing learns.
    pub fn none(graph: &Graph) -> Self {
        Self { nodes: vec![FROZEN; graph.nodes().len()] }
    }

    /// Only this node learns.
    pub fn only(graph: &Graph, node: NodeId) -> Self {
        let mut set = Self::none(graph);
        set.nodes[node].rate = 1.0;
        set
    }

    /// Every node with parameters learns from `first` on.
    pub fn from_node(graph: &Graph, first: NodeId) -> Self {
        let mut set = Self::none(graph);
        for (learning, node) in set.nodes.iter_mut().zip(graph.nodes()).skip(first) {
            learning.rate = if node.op.parameters().is_empty() { 0.0 } else { 1.0 };
        }
        set
    }

    /// Everything before the layer is frozen; the layer and all that follows it learn.
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`] if no layer has that name.
    pub fn from_layer(graph: &Graph, layer: &str) -> Result<Self, Error> {
        Ok(Self::from_node(graph, graph.first_node_of(layer)?))
    }

    /// The same, with the nodes from `first` on marked as new: their batch norms have no statistics worth keeping, so
    /// they take each batch's even where those of the other layers are frozen.
    pub fn with_new(mut self, first: NodeId) -> Self {
        self.nodes[first..].iter_mut().for_each(|learning| learning.new = true);
        self
    }

    /// The same, each node's rate multiplied by a factor.
    ///
    /// # Panics
    /// If a factor is not positive and finite: freezing is not learning slowly.
    pub fn with_rates(mut self, factor: impl Fn(NodeId) -> f64) -> Self {
        for (node, learning) in self.nodes.iter_mut().enumerate().filter(|(_, learning)| learning.rate > 0.0) {
            learning.rate *= factor(node);
            assert!(learning.rate > 0.0 && learning.rate.is_finite(), "a layer that learns needs a positive rate");
        }
        self
    }

    /// Whether this node's parameters learn.
    pub fn contains(&self, node: NodeId) -> bool {
        self.nodes[node].rate > 0.0
    }

    /// The factor of the learning rate for this node's parameters, as a parameter group's own `lr` in PyTorch.
    pub fn rate(&self, node: NodeId) -> f64 {
        self.nodes[node].rate
    }

    /// Whether this node is new.
    pub fn is_new(&self, node: NodeId) -> bool {
        self.nodes[node].new
    }

    /// The last node whose value is the same in every step of training and from which alone the rest of the network
    /// can be computed: at the latest the one below the first layer that learns and below the first dropout, which draws
    /// anew in every step.
    ///
    /// `None` if that is the input, or if nothing learns.
    pub fn boundary(&self, graph: &Graph) -> Option<NodeId> {
        if self.is_empty() {
            return None;
        }
        let nodes = graph.nodes();
        let first = (0..nodes.len()).find(|&node| self.contains(node) || nodes[node].op.is_random())?;
        (1..=*nodes[first].inputs.first()?).rev().find(|&node| graph.separates(node))
    }

    /// Whether nothing learns.
    pub fn is_empty(&self) -> bool {
        self.nodes.iter().all(|learning| learning.rate == 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo;

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
    fn boundary_lies_below_what_learns_and_what_is_random() {
        let boundary = |name: &str, layer: Option<&str>| {
            let graph = zoo::build(name, 10).unwrap();
            let trainable = match layer {
                Some(layer) => Trainable::from_layer(&graph, layer).unwrap(),
                None => Trainable::only(&graph, graph.head().unwrap()),
            };
            let node = trainable.boundary(&graph)?;
            assert!((0..=node).all(|below| !trainable.contains(below)), "{name}");
            assert!(graph.split(node).unwrap().is_some(), "{name}");
            Some(graph.nodes()[node].name.clone())
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
            assert_eq!(boundary(name, layer).as_deref(), Some(end), "{name} {layer:?}");
        }
        assert_eq!(boundary("resnet18", Some("conv1")), None);
        assert_eq!(boundary("resnet18", Some("bn1")).as_deref(), Some("conv1"));
        let graph = zoo::build("resnet18", 10).unwrap();
        assert_eq!(Trainable::none(&graph).boundary(&graph), None);
    }

    #[test]
    fn rates_multiply() {
        let graph = zoo::build("resnet18", 10).unwrap();
        let (layer4, fc) = (graph.first_node_of("layer4").unwrap(), graph.first_node_of("fc").unwrap());
        let set = Trainable::from_node(&graph, layer4).with_new(fc);
        let set = set.with_rates(|node| if node < fc { 0.1 } else { 1.0 }).with_rates(|_| 0.5);
        assert_eq!((set.rate(layer4), set.rate(fc), set.rate(1)), (0.05, 0.5, 0.0));
        assert!(set.is_new(fc) && !set.is_new(layer4));
    }
}

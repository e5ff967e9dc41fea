//! The network as a value: nodes in topological order, each an operation on earlier ones.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::stages::top_level;
use crate::{Error, Op, ParameterKind, Shape};

/// Index of a node in its graph.
pub type NodeId = usize;

/// One operation with its name and the nodes it reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Path of the layer, as torchvision's `named_modules` gives it (`layer1.0.conv1`).
    pub name: String,
    /// What it computes.
    #[serde(flatten)]
    pub op: Op,
    /// What it reads: earlier nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<NodeId>,
}

/// A named tensor that a network owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSpec {
    /// Full name, as in a `state_dict` (`layer1.0.conv1.weight`).
    pub name: String,
    /// Its PyTorch shape.
    pub shape: Vec<usize>,
    /// Learned, or a statistic.
    pub kind: ParameterKind,
    /// The node that owns it.
    pub node: NodeId,
}

impl ParameterSpec {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A network: node 0 is the input, every node reads only earlier ones, the last is the output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StoredGraph")]
pub struct Graph {
    /// Shape of one input sample.
    input_shape: Shape,
    nodes: Vec<Node>,
}

/// A graph as read from a file, not yet checked.
#[derive(Deserialize)]
struct StoredGraph {
    input_shape: Shape,
    nodes: Vec<Node>,
}

impl TryFrom<StoredGraph> for Graph {
    type Error = Error;

    fn try_from(stored: StoredGraph) -> Result<Self, Error> {
        Graph::from_nodes(stored.input_shape, stored.nodes)
    }
}

impl Graph {
    /// A graph that is only its input; [`push`](Self::push) adds layers.
    pub fn new(input_shape: Shape) -> Self {
        Self { input_shape, nodes: vec![Node { name: "input".into(), op: Op::Input, inputs: Vec::new() }] }
    }

    /// A graph from nodes of unknown origin.
    ///
    /// # Errors
    /// [`Error::Invalid`] if an input is not an earlier node, a name repeats, the first node is not the
    /// only input, or [`Error::Shape`] if the shapes don't fit.
    pub fn from_nodes(input_shape: Shape, nodes: Vec<Node>) -> Result<Self, Error> {
        let invalid = |node: &Node, reason: String| Error::Invalid { layer: node.name.clone(), reason };
        let mut names = HashSet::new();
        for (id, node) in nodes.iter().enumerate() {
            if (id == 0) != (node.op == Op::Input) {
                return Err(invalid(node, "the first node, and no other, must be the input".into()));
            }
            if !names.insert(node.name.as_str()) {
                return Err(invalid(node, "its name occurs twice".into()));
            }
            if let Some(bad) = node.inputs.iter().find(|&&input| input >= id) {
                return Err(invalid(node, format!("it reads node {bad}, which does not come before it")));
            }
        }
        if nodes.is_empty() {
            return Err(Error::Invalid { layer: "input".into(), reason: "the network has no nodes".into() });
        }
        let graph = Self { input_shape, nodes };
        graph.shapes()?;
        Ok(graph)
    }

    /// Appends an operation and returns its id.
    ///
    /// # Panics
    /// If an input is not an earlier node: building a network from code is no place for bad ids.
    pub fn push(&mut self, name: impl Into<String>, op: Op, inputs: &[NodeId]) -> NodeId {
        assert!(inputs.iter().all(|&input| input < self.nodes.len()), "inputs must come before their reader");
        self.nodes.push(Node { name: name.into(), op, inputs: inputs.to_vec() });
        self.nodes.len() - 1
    }

    /// All nodes, inputs before their readers.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// One node, to change its operation in place.
    pub fn op_mut(&mut self, id: NodeId) -> &mut Op {
        &mut self.nodes[id].op
    }

    /// Shape of one input sample.
    pub fn input_shape(&self) -> Shape {
        self.input_shape
    }

    /// The same network for inputs of another shape.
    ///
    /// # Errors
    /// [`Error::Shape`] naming the first layer that cannot take it.
    pub fn with_input_shape(mut self, input_shape: Shape) -> Result<Self, Error> {
        self.input_shape = input_shape;
        self.shapes()?;
        Ok(self)
    }

    /// The last node, whose value is the network's result.
    pub fn output(&self) -> NodeId {
        self.nodes.len() - 1
    }

    /// How many nodes read each node.
    pub fn readers(&self) -> Vec<usize> {
        let mut readers = vec![0; self.nodes.len()];
        for &input in self.nodes.iter().flat_map(|node| &node.inputs) {
            readers[input] += 1;
        }
        readers
    }

    /// Every named tensor, in the order of the nodes.
    pub fn parameters(&self) -> Vec<ParameterSpec> {
        let mut list = Vec::new();
        for (id, node) in self.nodes.iter().enumerate() {
            for (suffix, shape, kind) in node.op.parameters() {
                list.push(ParameterSpec { name: format!("{}.{suffix}", node.name), shape, kind, node: id });
            }
        }
        list
    }

    /// The first node of a layer: the node with this name or below it (`layer4` finds `layer4.0.conv1`).
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`], listing the names near it.
    pub fn first_node_of(&self, layer: &str) -> Result<NodeId, Error> {
        self.nodes.iter().position(|node| belongs_to(&node.name, layer)).ok_or_else(|| self.no_such_layer(layer))
    }

    /// The last node of a layer: the last of the nodes with this name or below it (`layer3` finds `layer3.1.relu`).
    ///
    /// # Errors
    /// [`Error::NoSuchLayer`], listing the names near it.
    pub fn last_node_of(&self, layer: &str) -> Result<NodeId, Error> {
        self.nodes.iter().rposition(|node| belongs_to(&node.name, layer)).ok_or_else(|| self.no_such_layer(layer))
    }

    /// The error for a name that is none, with the layers below the longest part of it that is one.
    fn no_such_layer(&self, name: &str) -> Error {
        let parents = name.match_indices('.').rev().map(|(end, _)| &name[..end]);
        let parent = parents.into_iter().find(|parent| self.nodes.iter().any(|node| belongs_to(&node.name, parent)));
        let mut known: Vec<String> = Vec::new();
        for node in self.nodes[1..].iter().filter(|node| parent.is_none_or(|parent| belongs_to(&node.name, parent))) {
            let near = match parent {
                Some(parent) => prefix(&node.name, parent.split('.').count() + 1),
                None => top_level(&node.name),
            };
            if !known.iter().any(|known| known == near) {
                known.push(near.into());
            }
        }
        let near = parent.map_or("its top-level layers are".into(), |parent| format!("the layers of {parent} are"));
        Error::NoSuchLayer { name: name.into(), near, known }
    }
}

/// The first `parts` parts of a name.
pub(crate) fn prefix(name: &str, parts: usize) -> &str {
    name.match_indices('.').nth(parts - 1).map_or(name, |(end, _)| &name[..end])
}

/// Whether `name` is `layer` itself or lies below it.
fn belongs_to(name: &str, layer: &str) -> bool {
    name.strip_prefix(layer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, op: Op, inputs: &[NodeId]) -> Node {
        Node { name: name.into(), op, inputs: inputs.to_vec() }
    }

    #[test]
    fn a_stored_graph_that_breaks_an_invariant_is_refused_by_name() {
        let shape = Shape::Features(3);
        let cases = [
            (vec![], "no nodes"),
            (vec![node("a", Op::ReLU, &[])], "must be the input"),
            (vec![node("input", Op::Input, &[]), node("a", Op::ReLU, &[1])], "does not come before"),
            (vec![node("input", Op::Input, &[]), node("input", Op::ReLU, &[0])], "occurs twice"),
            (vec![node("input", Op::Input, &[]), node("a", Op::ReLU, &[])], "takes 1 input"),
        ];
        for (nodes, reason) in cases {
            let error = Graph::from_nodes(shape, nodes).unwrap_err().to_string();
            assert!(error.contains(reason), "{error:?} should say {reason:?}");
        }
    }

    #[test]
    fn a_name_that_is_none_is_answered_with_the_layers_there_are() {
        let say =
            |layer| crate::zoo::build("regnet_x_400mf", 10).unwrap().first_node_of(layer).unwrap_err().to_string();
        assert!(say("layer4").contains("top-level layers are stem, trunk_output.block1, "), "{}", say("layer4"));
        assert!(say("trunk_output.block5").contains("the layers of trunk_output are trunk_output.block1, "));
    }

    #[test]
    fn a_graph_survives_its_json() {
        let graph = crate::zoo::build("squeezenet1_1", 10).unwrap();
        let json = serde_json::to_string(&graph).unwrap();
        assert_eq!(serde_json::from_str::<Graph>(&json).unwrap(), graph);
    }
}

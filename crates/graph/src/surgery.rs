//! Surgery on networks: finding and replacing the head, cutting at a layer, dividing in two.

use crate::{Error, Graph, NodeId, Op};

impl Graph {
    /// The network's head: its last layer with parameters, a `Linear`, a `CosineLinear` or a 1x1 `Conv2d`.
    ///
    /// # Errors
    /// [`Error::NoHead`] if the last layer with parameters is of another kind.
    pub fn head(&self) -> Result<NodeId, Error> {
        let last = self.nodes().iter().rposition(|node| !node.op.parameters().is_empty());
        match last.map(|id| (id, &self.nodes()[id])) {
            Some((id, node)) => match &node.op {
                Op::Linear(_) | Op::CosineLinear(_) => Ok(id),
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
            Op::CosineLinear(cosine) => cosine.out_features = classes,
            Op::Conv2d(conv) => conv.out_channels = classes,
            _ => unreachable!("`head` gives no other"),
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

    /// Whether all that comes after `node` can be computed from its value alone.
    pub(crate) fn separates(&self, node: NodeId) -> bool {
        self.nodes()[node + 1..].iter().flat_map(|later| &later.inputs).all(|&input| input >= node)
    }

    /// The network in two: the part that computes `node`, and the rest, whose input is that value.
    ///
    /// `None` if the rest also reads something else, so that one value is not enough.
    ///
    /// # Errors
    /// [`Error::Shape`] if the layers don't fit together.
    pub fn split(&self, node: NodeId) -> Result<Option<(Graph, Graph)>, Error> {
        if !self.separates(node) {
            return Ok(None);
        }
        let mut rest = Graph::new(self.shapes()?[node]);
        for old in &self.nodes()[node + 1..] {
            let inputs: Vec<NodeId> = old.inputs.iter().map(|input| input - node).collect();
            rest.push(old.name.clone(), old.op.clone(), &inputs);
        }
        Ok(Some((self.cut(node), rest)))
    }
}

#[cfg(test)]
mod tests {
    use crate::{CosineLinear, HeadLayers, Op, Shape, zoo};

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
    fn a_head_by_cosines_can_be_replaced_as_well() {
        let cosine = HeadLayers { cosine: true, ..HeadLayers::default() };
        for network in ["resnet18", "mobilenet_v2"] {
            let trained = zoo::build(network, 1000).unwrap().graft(None, &cosine, 5).unwrap();
            let mut graph = trained.graph;
            assert_eq!(graph.head().unwrap(), trained.classifier, "{network}");
            let head = graph.replace_head(7).unwrap();
            assert!(
                matches!(graph.nodes()[head].op, Op::CosineLinear(CosineLinear { out_features: 7, .. })),
                "{network}"
            );
            assert_eq!(*graph.shapes().unwrap().last().unwrap(), Shape::Features(7), "{network}");
            // A new one takes its place and its name, as it does with any other.
            let plain = graph.graft(None, &HeadLayers::default(), 3).unwrap();
            assert_eq!(
                plain.graph,
                zoo::build(network, 1000).unwrap().graft(None, &HeadLayers::default(), 3).unwrap().graph
            );
        }
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
}

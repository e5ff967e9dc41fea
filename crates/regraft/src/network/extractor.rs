//! Where a network's head begins.

use regraft_graph::{Graph, NodeId};

use crate::Result;

/// Divides a network below a layer of its head: the part that gives the features which that layer reads, and the rest.
/// `None` if something else goes past the features, so that they are not all that the rest needs.
///
/// # Errors
/// [`crate::Error::Graph`] if the layers don't fit together.
pub(crate) fn feature_extractor(graph: &Graph, layer: NodeId) -> Result<Option<(Graph, Graph)>> {
    Ok(graph.split(graph.nodes()[layer].inputs[0])?)
}

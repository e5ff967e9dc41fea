//! Where a network's head begins.

use regraft_graph::{Graph, NodeId, Tensor};

use crate::Result;

/// Divides a network below a layer of its head: the part that gives the features which that layer reads, and the rest.
/// `None` if something else goes past the features, so that they are not all that the rest needs.
///
/// # Errors
/// [`crate::Error::Graph`] if the layers don't fit together.
pub(crate) fn feature_extractor(graph: &Graph, layer: NodeId) -> Result<Option<(Graph, Graph)>> {
    Ok(graph.split(graph.nodes()[layer].inputs[0])?)
}

/// Features as one vector a sample, `[n, channels]` row-major: of a map, the mean over its area.
pub(crate) fn pooled(values: &Tensor) -> Vec<f32> {
    let plane = values.shape()[2..].iter().product::<usize>();
    values.data().chunks_exact(plane).map(|plane| plane.iter().sum::<f32>() / plane.len() as f32).collect()
}

//! A teacher: a network whose outputs the student learns.

use std::path::Path;

use regraft_data::Preprocessing;
use regraft_engine::Images;
use regraft_graph::{Graph, NodeId, StateDict};
use serde::{Deserialize, Serialize};

use super::TeacherSpec;
use crate::network::extractor::{feature_extractor, pooled};
use crate::network::session::Network;
use crate::{Context, Error, Model, Pretrained, Result, Source};

/// A teacher on an engine.
pub(super) struct Teacher {
    network: Network,
    /// The node that the head reads and, if the head's weights are known, the output.
    nodes: Vec<NodeId>,
    /// How images are prepared for it.
    pub preprocessing: Preprocessing,
    /// Lengths of its outputs for one image.
    pub widths: Widths,
    pub about: About,
}

/// Lengths of a teacher's outputs for one image: its features (of a map, the mean over its area), then its logits, if it has a
/// head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Widths {
    pub features: usize,
    pub logits: usize,
}

impl Widths {
    pub fn all(self) -> usize {
        self.features + self.logits
    }
}

/// Which teacher it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    /// Name of the architecture.
    pub backbone: String,
    /// SHA-256 of the weights' file.
    pub sha256: String,
}

impl TeacherSpec {
    /// Side in pixels that images are resized to for it.
    pub(super) fn side(&self) -> Result<u32> {
        Ok(match self {
            TeacherSpec::Backbone { preprocessing, .. } => preprocessing.resize,
            TeacherSpec::Model { path } => Model::open(path)?.preprocessing.resize,
        })
    }

    /// The trained model, if the teacher is one.
    pub(super) fn model(&self) -> Result<Option<Model>> {
        match self {
            TeacherSpec::Backbone { .. } => Ok(None),
            TeacherSpec::Model { path } => Model::open(path).map(Some),
        }
    }
}

impl Teacher {
    /// # Errors
    /// Errors of reading and compiling it.
    pub fn open(settings: &TeacherSpec, context: &Context) -> Result<Self> {
        match settings {
            TeacherSpec::Backbone { backbone: name, weights, preprocessing } => {
                let backbone =
                    Pretrained::load(&name.as_str().into(), &Source::File(weights.clone()), preprocessing.crop, 0)?;
                let mut state = backbone.state;
                let head = head_of(name, &backbone.graph, weights)?;
                let has_head = head.is_some();
                state.extend(head.unwrap_or_default());
                let about = About { backbone: name.clone(), sha256: backbone.weights_sha256.unwrap_or_default() };
                Self::new(&backbone.graph, &state, has_head, preprocessing.clone(), about, weights, context)
            }
            TeacherSpec::Model { path } => {
                let Model { graph, state, preprocessing, provenance, .. } = Model::open(path)?;
                let about = About { backbone: provenance.backbone, sha256: regraft_io::sha256_file(path)? };
                Self::new(&graph, &state, true, preprocessing, about, path, context)
            }
        }
    }

    /// `path` is only for the error message.
    fn new(
        graph: &Graph,
        state: &StateDict,
        has_head: bool,
        preprocessing: Preprocessing,
        about: About,
        path: &Path,
        context: &Context,
    ) -> Result<Self> {
        let head = graph.head()?;
        let features = graph.nodes()[head].inputs[0];
        if feature_extractor(graph, head)?.is_none() {
            let layer = &graph.nodes()[head].name;
            return Err(Error::File {
                path: path.to_owned(),
                reason: format!(
                    "cannot teach: something in its network goes past its last layer, {layer}, so what that layer reads is \
                     not all that it knows; choose another `teacher`"
                ),
            });
        }
        let shapes = graph.shapes()?;
        let widths = Widths {
            features: shapes[features].channels(),
            logits: if has_head { shapes[graph.output()].len() } else { 0 },
        };
        let (network, nodes) = match has_head {
            true => (Network::inspected(context.engine, graph, state)?, vec![features, graph.output()]),
            false => {
                let trunk = graph.cut(features);
                let output = trunk.output();
                (Network::inspected(context.engine, &trunk, state)?, vec![output])
            }
        };
        Ok(Self { network, nodes, preprocessing, widths, about })
    }

    /// Its outputs for prepared images: `[n, widths.all()]`.
    ///
    /// # Errors
    /// Errors of inferring.
    pub fn infer(&mut self, images: Images) -> Result<Vec<f32>> {
        let values = self.network.infer_nodes(images, &self.nodes)?;
        let features = pooled(&values[0]);
        let mut rows = Vec::with_capacity(features.len() / self.widths.features * self.widths.all());
        for (i, features) in features.chunks_exact(self.widths.features).enumerate() {
            rows.extend_from_slice(features);
            if let Some(outputs) = values.get(1) {
                rows.extend_from_slice(&outputs.data()[i * self.widths.logits..][..self.widths.logits]);
            }
        }
        Ok(rows)
    }
}

/// The tensors of the head that a file of weights was published with, if it has them.
fn head_of(name: &str, graph: &Graph, weights: &Path) -> Result<Option<StateDict>> {
    let head = format!("{}.", graph.nodes()[graph.head()?].name);
    let found = regraft_weights::read(weights)?.into_iter();
    let found: StateDict = found
        .filter_map(|(tensor, value)| Some((regraft_graph::zoo::present_name(name, &tensor)?, value)))
        .filter(|(tensor, _)| tensor.starts_with(&head))
        .collect();
    let fits = graph
        .parameters()
        .iter()
        .filter(|spec| spec.name.starts_with(&head))
        .all(|spec| found.get(&spec.name).is_some_and(|tensor| tensor.shape() == spec.shape));
    Ok(fits.then_some(found))
}

//! A network that is learned from.

use std::path::Path;

use regraft_data::Preprocessing;
use regraft_engine::{Session, SessionOptions};
use regraft_graph::{Graph, Shape, StateDict};
use serde::{Deserialize, Serialize};

use super::TeacherConfig;
use crate::{Context, Error, Model, Pretrained, Result, Source};

/// A teacher, ready to be asked.
pub(super) struct Teacher {
    /// Up to the head.
    below: Box<dyn Session>,
    /// The head; absent if its weights are not known.
    top: Option<Box<dyn Session>>,
    /// Shape of the values that the head reads.
    shape: Shape,
    /// How it wants photos prepared.
    pub preprocessing: Preprocessing,
    /// Lengths of what it says of a photo.
    pub widths: Widths,
    pub about: About,
}

/// What a teacher says of a photo: its features (a map's mean over the area), then its logits, if it has a head.
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

/// Where what a student knows comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct About {
    /// Name of the architecture.
    pub backbone: String,
    /// SHA-256 of the weights' file.
    pub sha256: String,
}

impl TeacherConfig {
    /// Side that photos are resized to for it, in pixels.
    pub(super) fn side(&self) -> Result<u32> {
        Ok(match self {
            TeacherConfig::Backbone { preprocessing, .. } => preprocessing.resize,
            TeacherConfig::Model { path } => Model::open(path)?.preprocessing.resize,
        })
    }

    /// The trained model, if the teacher is one.
    pub(super) fn model(&self) -> Result<Option<Model>> {
        match self {
            TeacherConfig::Backbone { .. } => Ok(None),
            TeacherConfig::Model { path } => Model::open(path).map(Some),
        }
    }
}

impl Teacher {
    /// # Errors
    /// Those of reading and compiling it.
    pub fn open(config: &TeacherConfig, context: &Context) -> Result<Self> {
        match config {
            TeacherConfig::Backbone { backbone: name, weights, preprocessing } => {
                let backbone =
                    Pretrained::load(&name.as_str().into(), &Source::File(weights.clone()), preprocessing.crop, 0)?;
                let mut state = backbone.state;
                let head = head_of(name, &backbone.graph, weights)?;
                let has_head = head.is_some();
                state.extend(head.unwrap_or_default());
                let about = About { backbone: name.clone(), sha256: backbone.weights_sha256.unwrap_or_default() };
                Self::new(&backbone.graph, &state, has_head, preprocessing.clone(), about, weights, context)
            }
            TeacherConfig::Model { path } => {
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
        let head = graph.nodes()[graph.head()?].inputs[0];
        let shape = graph.shapes()?[head];
        let Some((extractor, rest)) = graph.split(head)? else {
            let layer = &graph.nodes()[graph.head()?].name;
            return Err(Error::File {
                path: path.to_owned(),
                reason: format!(
                    "is no teacher: something in its network goes past its last layer, {layer}, so what that layer reads is \
                     not all that it knows; choose another --teacher"
                ),
            });
        };
        let below = context.engine.compile(&extractor, state, SessionOptions::inference(&extractor))?;
        let top = match has_head {
            true => Some(context.engine.compile(&rest, state, SessionOptions::inference(&rest))?),
            false => None,
        };
        let features = match shape {
            Shape::Features(features) => features,
            Shape::Map { channels, .. } => channels,
        };
        let logits = if has_head { rest.shapes()?[rest.output()].len() } else { 0 };
        Ok(Self { below, top, shape, preprocessing, widths: Widths { features, logits }, about })
    }

    /// What it says of prepared photos: `[n, widths.all()]`.
    ///
    /// # Errors
    /// Those of inferring.
    pub fn ask(&mut self, images: &[f32]) -> Result<Vec<f32>> {
        let values = self.below.infer(images)?;
        let logits = self.top.as_mut().map(|top| top.infer(&values)).transpose()?;
        let (len, Widths { features, logits: classes }) = (self.shape.len(), self.widths);
        let mut said = Vec::with_capacity(values.len() / len * self.widths.all());
        for (i, values) in values.chunks_exact(len).enumerate() {
            let pixels = (len / features) as f32;
            // A map lies pixel by pixel.
            said.extend((0..features).map(|c| values[c..].iter().step_by(features).sum::<f32>() / pixels));
            if let Some(logits) = &logits {
                said.extend_from_slice(&logits[i * classes..][..classes]);
            }
        }
        Ok(said)
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

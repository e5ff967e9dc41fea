//! A pretrained network, ready to be grafted on.

use std::path::Path;
use std::sync::Arc;

use regraft_data::{ImageStore, Preprocessing, Sample};
use regraft_graph::{Graph, StateDict, init, zoo};

use crate::network::batch_norms;
use crate::network::onnx;
use crate::{Backbone, Context, Embedded, Error, Result, Source};

/// A network and the weights below its head.
pub struct Pretrained {
    /// Name of the architecture; that of the file for a network from an ONNX file.
    pub name: String,
    /// The architecture, with a head of as many classes as it was built with.
    pub graph: Graph,
    /// The weights, without the head's.
    pub state: StateDict,
    /// SHA-256 of the file the weights came from; `None` for random ones.
    pub weights_sha256: Option<String>,
    /// Notes for people about how the network was read.
    pub notes: Vec<String>,
}

impl Pretrained {
    /// A backbone for square images of `size` pixels, with the weights of a file, the embedded ones, or random ones by
    /// `seed`. An ONNX file has its own.
    ///
    /// # Errors
    /// [`Error::Onnx`] and [`Error::Headless`] for an ONNX file that cannot be used; [`Error::Graph`] for an unknown name,
    /// [`Error::Setting`] for a size the network cannot take; [`Error::Io`] and [`Error::Weights`] for a file that cannot
    /// be read, [`Error::WrongWeights`] naming every tensor that does not fit.
    pub fn load(backbone: &Backbone, weights: &Source, size: u32, seed: u64) -> Result<Self> {
        let name = match backbone {
            Backbone::Zoo(name) => name,
            Backbone::Onnx(path) if weights.is_random() => return onnx::load(path, size),
            Backbone::Onnx(_) => {
                let allowed = format!("{backbone} has weights of its own: leave it out");
                return Err(Error::Setting { field: "weights", value: weights.to_string(), allowed });
            }
        };
        let graph = backbone.graph(Some(size))?;
        let head = graph.nodes()[graph.head()?].name.clone();
        let (found, weights_sha256, path) = match weights {
            Source::Random => {
                let mut state = init::random(&graph, seed);
                state.retain(|tensor, _| !tensor.starts_with(&format!("{head}.")));
                return Ok(Self { name: name.into(), graph, state, weights_sha256: None, notes: Vec::new() });
            }
            Source::Embedded => {
                let no_weights = || Error::Setting {
                    field: "weights",
                    value: weights.to_string(),
                    allowed: format!("there are no embedded weights of {name}"),
                };
                let bytes = Embedded::of(name).ok_or_else(no_weights)?.bytes;
                let (state, _) = regraft_weights::parse_safetensors(bytes)?;
                (state, regraft_io::sha256(bytes), Path::new("the weights inside this program"))
            }
            Source::File(path) => (regraft_weights::read(path)?, regraft_io::sha256_file(path)?, path.as_path()),
        };
        let expected: Vec<_> = graph.parameters().into_iter().map(|spec| (spec.name, spec.shape)).collect();
        // The head is replaced anyway; a file whose head was replaced by this program may call it `fc`.
        let found =
            found.into_iter().filter_map(|(tensor, value)| Some((zoo::present_name(name, &tensor)?, value))).collect();
        let state = regraft_weights::fit(&expected, found, &[&head, "fc"]);
        let state = state.map_err(|error| match error {
            regraft_weights::Error::Mismatch(mismatch) => {
                Error::WrongWeights { path: path.to_owned(), backbone: name.into(), reason: mismatch.to_string() }
            }
            other => other.into(),
        })?;
        let (weights_sha256, notes) = (Some(weights_sha256), Vec::new());
        Ok(Self { name: name.into(), graph, state, weights_sha256, notes })
    }

    /// Whether the weights have batch norms and all of them are identities: they have been folded into the
    /// convolutions, and normalising by batch statistics would break the network.
    pub fn batch_norms_are_folded(&self) -> bool {
        batch_norms::are_folded(&self.graph, &self.state)
    }

    /// Gives the batch norms of random weights the statistics of some images, before features are used: otherwise a deep
    /// network's features fade. Does nothing to weights from a file.
    ///
    /// # Errors
    /// Errors of reading images and of the engine.
    pub(crate) fn calibrate(
        &mut self,
        photos: &[Sample],
        store: &Arc<ImageStore>,
        preprocessing: &Preprocessing,
        context: &Context,
    ) -> Result<()> {
        if self.weights_sha256.is_some() {
            return Ok(());
        }
        let extractor = self.graph.cut(self.graph.nodes()[self.graph.head()?].inputs[0]);
        if batch_norms::are_folded(&extractor, &self.state) {
            let images = batch_norms::sample(photos, store, preprocessing, context)?;
            batch_norms::calibrate(&extractor, &mut self.state, &images, context)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_batch_norms_are_recognised() {
        let mut backbone = Pretrained::load(&"resnet18".into(), &Source::Random, 224, 0).unwrap();
        // A fresh network has identities too: nothing was ever normalised.
        assert!(backbone.batch_norms_are_folded());
        backbone.state.get_mut("layer3.0.bn1.running_var").unwrap().data_mut()[7] = 0.5;
        assert!(!backbone.batch_norms_are_folded());
        assert!(!Pretrained::load(&"squeezenet1_1".into(), &Source::Random, 224, 0).unwrap().batch_norms_are_folded());
    }
}

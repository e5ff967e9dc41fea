//! What a student starts from.

use std::path::Path;

use regraft_graph::{Graph, StateDict, init, narrow, zoo};

use super::{DistillSettings, Unlabelled};
use crate::network::batch_norms;
use crate::run::checkpoint::Position;
use crate::{Context, Error, Pretrained, Result, Source};

/// The tensors that a student starts from.
pub(super) struct Start {
    pub state: StateDict,
    /// Hash of the weights' file; `None` if all values are random.
    pub weights_sha256: Option<String>,
}

impl Start {
    /// Random values, or weights that may be those of a wider network and may have their batch norms folded.
    ///
    /// # Errors
    /// [`Error::WrongWeights`] for weights of another network; errors of reading images and of running the network.
    pub fn new(settings: &DistillSettings, graph: &Graph, images: &Unlabelled, context: &Context) -> Result<Self> {
        let mut state = init::random(graph, settings.seed);
        let (begun, sha256) = match &settings.weights {
            Source::Random => return Ok(Self { state, weights_sha256: None }),
            Source::Embedded => {
                let backbone = Pretrained::load(
                    &settings.student.as_str().into(),
                    &Source::Embedded,
                    settings.preprocessing.crop,
                    settings.seed,
                )?;
                (backbone.state, backbone.weights_sha256)
            }
            Source::File(path) => (narrowed(&settings.student, graph, path)?, Some(regraft_io::sha256_file(path)?)),
        };
        let folded = batch_norms::are_folded(graph, &begun);
        state.extend(begun);
        // With a last layer of zeros, no gradient reaches the layers below until it has learned something.
        let head = format!("{}.", graph.nodes()[graph.head()?].name);
        state
            .iter_mut()
            .filter(|(name, _)| name.starts_with(&head))
            .for_each(|(_, tensor)| tensor.data_mut().fill(0.0));
        if folded {
            context
                .progress
                .note("the batch norms of these weights are folded into the convolutions: they are unfolded");
            let images = batch_norms::sample(&images.train, &images.store, &settings.preprocessing, context)?;
            batch_norms::unfold(graph, &mut state, &images, context)?;
        }
        Ok(Self { state, weights_sha256: sha256 })
    }

    /// For a resumed run, whose tensors are in a checkpoint: the weights it started from may be gone.
    pub fn resumed(settings: &DistillSettings, graph: &Graph, position: &Position) -> Self {
        Self { state: init::random(graph, settings.seed), weights_sha256: position.weights_sha256.clone() }
    }
}

/// The weights of a file, with the channels removed that the student lacks.
fn narrowed(student: &str, graph: &Graph, path: &Path) -> Result<StateDict> {
    let found = regraft_weights::read(path)?.into_iter();
    let found = found.filter_map(|(tensor, value)| Some((zoo::present_name(student, &tensor)?, value))).collect();
    narrow(graph, &found).map_err(|error| Error::WrongWeights {
        path: path.to_owned(),
        backbone: student.into(),
        reason: error.to_string(),
    })
}

//! Measuring the network on the validation photos after every epoch.

use regraft_data::Loader;
use regraft_engine::Session;
use regraft_graph::{Graph, StateDict, Trainable};
use regraft_learn::linear::HeadKind;
use regraft_learn::metrics::Tally;

use crate::features::{BATCH, for_each_batch, labels_u32};
use crate::model::inference;
use crate::{Context, Result};

/// Most bytes of features kept: what lies below the trainable layers is computed once if it fits.
const MAX_CACHED_BYTES: usize = 512 << 20;

/// The validation photos and, if the network is frozen up to some layer, its features of them there.
pub(crate) struct Validation {
    loader: Loader,
    classes: usize,
    cached: Option<Cached>,
}

/// Features at the boundary between what is frozen and what learns.
struct Cached {
    /// The network up to the boundary; dropped once the features are there.
    body: Option<Graph>,
    /// The network from the boundary on.
    rest: Graph,
    features: Vec<f32>,
    labels: Vec<usize>,
}

impl Validation {
    /// # Errors
    /// [`crate::Error::Graph`] if the layers don't fit together.
    pub fn new(graph: &Graph, trainable: &Trainable, loader: Loader, classes: usize) -> Result<Self> {
        let boundary = trainable.boundary(graph);
        let bytes = graph.shapes()?[boundary].len() * loader.num_samples() * size_of::<f32>();
        let worth_it = boundary > 0 && bytes <= MAX_CACHED_BYTES;
        let cached = if worth_it { graph.split(boundary)? } else { None }.map(|(body, rest)| Cached {
            body: Some(body),
            rest,
            features: Vec::new(),
            labels: Vec::new(),
        });
        Ok(Self { loader, classes, cached })
    }

    /// Loss and accuracy of the network as it is now. `frozen` holds at least the tensors that `session` does
    /// not train.
    ///
    /// # Errors
    /// Those of loading and inferring, [`crate::Error::Interrupted`].
    pub fn run(&mut self, session: &mut dyn Session, frozen: &StateDict, context: &Context) -> Result<Tally> {
        let mut tally = Tally::new(HeadKind::Softmax, self.classes);
        let Some(cached) = &mut self.cached else {
            for_each_batch("validating", &self.loader, session, context, |logits, labels| {
                Ok(tally.add(logits, &labels_u32(labels))?)
            })?;
            return Ok(tally);
        };
        if let Some(body) = &cached.body {
            let mut below = context.engine.compile(body, frozen, inference(body))?;
            let (features, all_labels) = (&mut cached.features, &mut cached.labels);
            features.clear();
            all_labels.clear();
            for_each_batch("validation features", &self.loader, below.as_mut(), context, |values, labels| {
                features.extend_from_slice(values);
                all_labels.extend_from_slice(labels);
                Ok(())
            })?;
            cached.body = None;
        }
        let mut state = session.trained_state();
        for spec in cached.rest.parameters() {
            if !state.contains_key(&spec.name)
                && let Some(tensor) = frozen.get(&spec.name)
            {
                state.insert(spec.name, tensor.clone());
            }
        }
        let mut above = context.engine.compile(&cached.rest, &state, inference(&cached.rest))?;
        let batch = BATCH * cached.rest.input_shape().len();
        for (features, labels) in cached.features.chunks(batch).zip(cached.labels.chunks(BATCH)) {
            tally.add(&above.infer(features)?, &labels_u32(labels))?;
        }
        Ok(tally)
    }
}

//! What a frozen network makes of photos, computed once.

use std::sync::Arc;

use regraft_data::{Batch, ImageStore, Loader, LoaderOptions, Preprocessing, Sample};
use regraft_engine::Session;

use crate::{Context, Result};

/// Photos that pass through the network together: enough for full speed, little enough for memory.
pub(crate) const BATCH: usize = 32;

/// A loader of photos in their order, without variation.
///
/// # Errors
/// Those of [`Loader::new`].
pub(crate) fn loader(
    samples: &[Sample],
    store: &Arc<ImageStore>,
    preprocessing: &Preprocessing,
    context: &Context,
) -> Result<Loader> {
    let options = LoaderOptions { batch_size: BATCH, workers: context.threads, ..LoaderOptions::default() };
    Ok(Loader::new(samples.to_vec(), store.clone(), preprocessing.clone(), options)?)
}

/// Hands every batch of an epoch, and what `infer` makes of its photos, to `take`.
///
/// # Errors
/// Those of loading and inferring, [`crate::Error::Interrupted`] between batches, and those of `take`.
pub(crate) fn for_each_batch(
    what: &str,
    loader: &Loader,
    epoch: u64,
    mut infer: impl FnMut(&[f32]) -> Result<Vec<f32>>,
    context: &Context,
    mut take: impl FnMut(&[f32], &Batch) -> Result<()>,
) -> Result<()> {
    context.progress.begin(what, "img", loader.num_samples() as u64);
    let mut done = 0;
    for batch in loader.epoch(epoch, 0) {
        let batch = batch?;
        take(&infer(&batch.images)?, &batch)?;
        done += batch.n;
        context.progress.advance(done as u64, "");
        context.check_cancelled()?;
    }
    context.progress.end();
    Ok(())
}

/// The features of some photos.
pub(crate) struct Features {
    /// `[photos, dim]`.
    pub values: Vec<f32>,
    pub dim: usize,
}

impl Features {
    /// What `session` makes of photos that are prepared without variation.
    ///
    /// # Errors
    /// Those of [`loader`] and [`for_each_batch`].
    pub fn extract(
        what: &str,
        samples: &[Sample],
        session: &mut dyn Session,
        store: &Arc<ImageStore>,
        preprocessing: &Preprocessing,
        context: &Context,
    ) -> Result<Self> {
        let loader = loader(samples, store, preprocessing, context)?;
        let mut features = Self { values: Vec::new(), dim: 0 };
        let infer = |images: &[f32]| Ok(session.infer(images)?);
        for_each_batch(what, &loader, 0, infer, context, |values, batch| {
            features.dim = values.len() / batch.n;
            features.values.extend_from_slice(values);
            Ok(())
        })?;
        Ok(features)
    }
}

//! Passing images through a network that does not learn, batch by batch.

use std::ops::Range;
use std::sync::Arc;

use regraft_data::{Batch, ImageStore, Loader, LoaderOptions, Preprocessing, Sample};
use regraft_engine::Images;

use crate::network::session::Network;
use crate::{Context, Result};

/// Images that pass through the network together: enough for full speed, little enough for memory.
pub(crate) const BATCH: usize = 32;

/// Some images of a batch.
pub(crate) fn images(batch: &Batch, range: Range<usize>) -> Images<'_> {
    let len = batch.images.len() / batch.n.max(1);
    Images::Floats(&batch.images[range.start * len..range.end * len])
}

/// A loader of images in their order, without variation.
///
/// # Errors
/// Errors of [`Loader::new`].
pub(crate) fn loader(
    samples: &[Sample],
    store: &Arc<ImageStore>,
    preprocessing: &Preprocessing,
    context: &Context,
) -> Result<Loader> {
    let options = LoaderOptions { batch_size: BATCH, workers: context.threads, ..LoaderOptions::default() };
    Ok(Loader::new(samples.to_vec(), store.clone(), preprocessing.clone(), options)?)
}

/// Hands every batch of an epoch, and what `infer` makes of its images, to `take`. `stage` is the name of the work.
///
/// # Errors
/// Errors of loading and of `infer`, [`crate::Error::Interrupted`] between batches, and errors of `take`.
pub(crate) fn for_each_batch(
    stage: &str,
    loader: &Loader,
    epoch: u64,
    mut infer: impl FnMut(Images) -> Result<Vec<f32>>,
    context: &Context,
    mut take: impl FnMut(&[f32], &Batch) -> Result<()>,
) -> Result<()> {
    context.progress.begin(stage, "img", loader.num_samples() as u64);
    let mut done = 0;
    for batch in loader.epoch(epoch, 0) {
        let batch = batch?;
        take(&infer(images(&batch, 0..batch.n))?, &batch)?;
        done += batch.n;
        context.progress.advance(done as u64, "");
        context.check_cancelled()?;
    }
    context.progress.end();
    Ok(())
}

/// The features of some images.
pub(crate) struct Features {
    /// `[n, dim]`.
    pub values: Vec<f32>,
    pub dim: usize,
}

impl Features {
    /// The output of `network` for images that are prepared without variation.
    ///
    /// # Errors
    /// Errors of [`loader`] and [`for_each_batch`].
    pub fn extract(
        stage: &str,
        samples: &[Sample],
        network: &mut Network,
        store: &Arc<ImageStore>,
        preprocessing: &Preprocessing,
        context: &Context,
    ) -> Result<Self> {
        let loader = loader(samples, store, preprocessing, context)?;
        let mut features = Self { values: Vec::new(), dim: 0 };
        let infer = |images: Images| network.infer(images);
        for_each_batch(stage, &loader, 0, infer, context, |values, batch| {
            features.dim = values.len() / batch.n;
            features.values.extend_from_slice(values);
            Ok(())
        })?;
        Ok(features)
    }
}

//! Measuring a model on labelled photos.

use std::path::Path;
use std::sync::Arc;

use regraft_data::{ImageStore, Sample, open_eval, verify};
use regraft_engine::Images;
use regraft_learn::metrics::{Evaluation, Tally};

use crate::evaluation::tta;
use crate::network::session::Network;
use crate::photos::features::{for_each_batch, loader};
use crate::photos::prepare::{refuse_false_photos, report};
use crate::photos::targets::{self, SampleTargets};
use crate::{Context, Model, Result, Tta};

/// Evaluates the model at `model_path` on a folder of class folders or a manifest (or the validation part of one), asking about each
/// photo as `tta` says.
///
/// # Errors
/// Any of [`crate::Error`]; unreadable photos are left out with a warning, or an error with `strict`.
pub fn evaluate(
    model_path: &Path,
    data: &Path,
    strict: bool,
    tta: Option<Tta>,
    context: &Context,
) -> Result<Evaluation> {
    let model = Model::open(model_path)?;
    let mut network = model.network(context.engine, model_path)?;
    let (mut samples, mut findings) = open_eval(data, model.task(), &model.classes)?;
    if strict {
        refuse_false_photos(&findings)?;
    }
    let store = Arc::new(ImageStore::new(model.preprocessing.decode_options(), regraft_data::default_cache_bytes()));
    let Context { progress, cancel, threads, .. } = *context;
    progress.begin("reading photos", "photos", samples.len() as u64);
    let verified =
        verify(&mut samples, &store, threads, strict, cancel.flag(), |done| progress.advance(done as u64, ""));
    progress.end();
    findings.extend(verified?);
    report(&findings, progress);
    let tally = measure("evaluating", &model, &mut network, &samples, &store, tta, context)?;
    Ok(tally.finish(&model.classes)?)
}

/// What a model makes of photos whose right answers are known; numbers in their own unit.
///
/// # Errors
/// Those of loading and inferring, [`crate::Error::Interrupted`].
pub(crate) fn measure(
    what: &str,
    model: &Model,
    network: &mut Network,
    samples: &[Sample],
    store: &Arc<ImageStore>,
    tta: Option<Tta>,
    context: &Context,
) -> Result<Tally> {
    let loader = loader(samples, store, &model.preprocessing, context)?;
    let mut tally = Tally::new(Tta::head(tta, model.head), model.classes.len());
    let right = SampleTargets::new(samples, model.task(), model.classes.len(), None);
    let infer = |images: Images| tta::infer(network, images, model.preprocessing.crop, model.head, tta);
    for_each_batch(what, &loader, 0, infer, context, |outputs, batch| {
        let right = right.select(&batch.sample_keys);
        let numbers = model.scale.map(|scale| outputs.iter().map(|&z| scale.to_value(z) as f32).collect::<Vec<_>>());
        targets::add(&mut tally, numbers.as_deref().unwrap_or(outputs), right.labels(0..batch.n))
    })?;
    Ok(tally)
}

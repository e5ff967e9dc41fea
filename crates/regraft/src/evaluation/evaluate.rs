//! Measuring a model on labelled photos.

use std::path::Path;
use std::sync::Arc;

use regraft_data::{ImageStore, Sample, open_eval, verify};
use regraft_engine::Images;

use crate::evaluation::scores::Scores;
use crate::evaluation::tta;
use crate::network::session::Network;
use crate::photos::features::{for_each_batch, loader};
use crate::photos::prepare::{refuse_false_photos, report};
use crate::{Context, Model, Result, Tta};

/// Scores the model at `model_path` on a folder of class folders or a manifest, or on the validation part of one. `tta`
/// varies each image.
///
/// # Errors
/// Any of [`crate::Error`]; unreadable photos are left out with a warning, or an error with `strict`.
pub fn evaluate(model_path: &Path, data: &Path, strict: bool, tta: Option<Tta>, context: &Context) -> Result<Scores> {
    let model = Model::open(model_path)?;
    let mut network = model.network(context.engine, model_path)?;
    let (mut samples, mut findings) = open_eval(data, model.task(), &model.classes)?;
    if strict {
        refuse_false_photos(&findings)?;
    }
    let store = Arc::new(ImageStore::new(model.preprocessing.decode_options(), regraft_data::default_cache_bytes()));
    let Context { progress, cancel, threads, .. } = *context;
    progress.begin("reading photos", "photos", samples.len() as u64);
    let verified = verify(&mut samples, &store, threads, strict, cancel, |done| progress.advance(done as u64, ""));
    progress.end();
    findings.extend(verified?);
    report(&findings, progress);
    score("evaluating", &model, &mut network, &samples, &store, tta, context)
}

/// A model's outputs for labelled images; numbers in their own unit.
///
/// # Errors
/// Errors of loading and inferring, [`crate::Error::Interrupted`].
pub(crate) fn score(
    stage: &str,
    model: &Model,
    network: &mut Network,
    samples: &[Sample],
    store: &Arc<ImageStore>,
    tta: Option<Tta>,
    context: &Context,
) -> Result<Scores> {
    let loader = loader(samples, store, &model.preprocessing, context)?;
    let mut scores = Scores::new(Tta::head(tta, model.head), model);
    let infer = |images: Images| tta::infer(network, images, model.preprocessing.crop, model.head, tta);
    for_each_batch(stage, &loader, 0, infer, context, |outputs, batch| {
        let batch = batch.sample_keys.iter().map(|&sample| samples[sample as usize].clone());
        match model.scale {
            Some(scale) => scores.push(batch, &outputs.iter().map(|&z| scale.to_value(z) as f32).collect::<Vec<_>>()),
            None => scores.push(batch, outputs),
        }
        Ok(())
    })?;
    Ok(scores)
}

//! Measuring a model on labelled photos.

use std::path::Path;
use std::sync::Arc;

use regraft_data::{ImageStore, open_eval, verify};
use regraft_learn::linear::Truth;
use regraft_learn::metrics::{Evaluation, Tally};

use crate::features::{for_each_batch, labels_u32, loader};
use crate::prepare::{refuse_false_photos, report};
use crate::{Context, Model, Result, Tta, tta};

/// Evaluates the model at `model_path` on a folder of class folders (or the validation part of one), asking about each
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
    let mut session = model.session(context.engine, model_path)?;
    let (mut samples, mut findings) = open_eval(data, &model.classes)?;
    if strict {
        refuse_false_photos(&findings)?;
    }
    let store = Arc::new(ImageStore::new(model.preprocessing.decode_options(), regraft_data::default_cache_bytes()));
    let Context { reporter, interrupt, threads, .. } = *context;
    reporter.begin("reading photos", "photos", samples.len() as u64);
    let verified = verify(&mut samples, &store, threads, strict, interrupt, |done| reporter.advance(done as u64, ""));
    reporter.end();
    findings.extend(verified?);
    report(&findings, reporter);
    let loader = loader(&samples, &store, &model.preprocessing, context)?;
    let mut tally = Tally::new(Tta::head(tta, model.head), model.classes.len());
    let infer = |images: &[f32]| tta::infer(session.as_mut(), images, model.preprocessing.crop, model.head, tta);
    for_each_batch("evaluating", &loader, 0, infer, context, |logits, batch| {
        Ok(tally.add(logits, Truth::Classes(&labels_u32(&batch.labels)))?)
    })?;
    Ok(tally.finish(&model.classes)?)
}

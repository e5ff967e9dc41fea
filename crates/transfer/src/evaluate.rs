//! Measuring a model on labelled photos.

use std::path::Path;
use std::sync::Arc;

use regraft_data::{ImageStore, Sample, open_eval, verify};
use regraft_engine::Session;
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
    let tally = answers("evaluating", &model, session.as_mut(), &samples, &store, tta, context)?;
    Ok(tally.finish(&model.classes)?)
}

/// What a model makes of labelled photos.
///
/// # Errors
/// Those of loading and inferring, [`crate::Error::Interrupted`].
pub(crate) fn answers(
    what: &str,
    model: &Model,
    session: &mut dyn Session,
    samples: &[Sample],
    store: &Arc<ImageStore>,
    tta: Option<Tta>,
    context: &Context,
) -> Result<Tally> {
    let loader = loader(samples, store, &model.preprocessing, context)?;
    let mut tally = Tally::new(Tta::head(tta, model.head), model.classes.len());
    let infer = |images: &[f32]| tta::infer(&mut *session, images, model.preprocessing.crop, model.head, tta);
    for_each_batch(what, &loader, 0, infer, context, |logits, batch| {
        Ok(tally.add(logits, &labels_u32(&batch.labels))?)
    })?;
    Ok(tally)
}

/// Which labelled photos a model gets right.
///
/// # Errors
/// As [`answers`].
pub(crate) fn correct(
    what: &str,
    model: &Model,
    session: &mut dyn Session,
    samples: &[Sample],
    store: &Arc<ImageStore>,
    context: &Context,
) -> Result<Vec<bool>> {
    let loader = loader(samples, store, &model.preprocessing, context)?;
    let mut right = Vec::new();
    let infer = |images: &[f32]| Ok(session.infer(images)?);
    for_each_batch(what, &loader, 0, infer, context, |logits, batch| {
        for (row, &label) in logits.chunks_exact(model.classes.len()).zip(&batch.labels) {
            let row: Vec<f64> = row.iter().map(|&z| f64::from(z)).collect();
            right.push(regraft_learn::metrics::argmax(&row) == label);
        }
        Ok(())
    })?;
    Ok(right)
}

//! Naming what is on photos.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use regraft_data::decode_file;
use regraft_engine::Images;
use regraft_learn::linear::{HeadKind, probabilities};

use crate::evaluation::tta;
use crate::network::session::Network;
use crate::photos::features::BATCH;
use crate::{Context, Error, Model, Result, Tta};

/// A class or label and its probability.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Name of the class.
    pub label: String,
    /// Probability, 0 to 1.
    pub prob: f64,
}

/// What a model says of one file.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The file.
    pub path: PathBuf,
    /// The answer, or why the file could not be read.
    pub answer: Result<Answer, String>,
}

/// What a model says of a photo.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The most probable classes, best first.
    Classes(Vec<Ranked>),
    /// The most probable labels, best first; the photo has those of at least [`YES`].
    Labels(Vec<Ranked>),
    /// A number, in the unit of those it was trained on.
    Value(f64),
}

/// The probability from which on a photo has a label.
pub const YES: f64 = 0.5;

/// Predicts each file, asking about it as `tta` says, and hands the answers to `take` in the order of `paths`. A file
/// that cannot be read gets an answer that says so; the others go on.
///
/// # Errors
/// Those of inferring and of `take`; [`Error::Interrupted`] between batches.
pub fn predict(
    model: &Model,
    network: &mut Network,
    paths: &[PathBuf],
    top_k: usize,
    tta: Option<Tta>,
    context: &Context,
    mut take: impl FnMut(Prediction) -> Result<()>,
) -> Result<()> {
    for paths in paths.chunks(BATCH) {
        let inputs: Vec<Result<Vec<f32>, String>> = paths.par_iter().map(|path| input(model, path)).collect();
        let readable: Vec<f32> = inputs.iter().flatten().flatten().copied().collect();
        let (side, head) = (model.preprocessing.crop, model.head);
        let logits = if readable.is_empty() {
            Vec::new()
        } else {
            tta::infer(network, Images::Floats(&readable), side, head, tta)?
        };
        let mut rows = logits.chunks_exact(model.classes.len());
        for (path, input) in paths.iter().zip(inputs) {
            let head = Tta::head(tta, head);
            let answer = input.map(|_| answer(model, head, rows.next().expect("a row an input"), top_k));
            take(Prediction { path: path.clone(), answer })?;
        }
        if context.cancel.is_cancelled() {
            return Err(Error::Interrupted);
        }
    }
    Ok(())
}

/// The network's input for a file.
fn input(model: &Model, path: &Path) -> Result<Vec<f32>, String> {
    let image = decode_file(path, &model.preprocessing.decode_options()).map_err(|error| match error {
        // The path stands beside the message already.
        regraft_data::Error::InFile { source, .. } => source.to_string(),
        regraft_data::Error::NotFound { .. } => "does not exist; check the path".into(),
        other => other.to_string(),
    })?;
    Ok(model.preprocessing.apply(&image))
}

fn answer(model: &Model, head: HeadKind, outputs: &[f32], top_k: usize) -> Answer {
    match head {
        HeadKind::Softmax | HeadKind::Ovr => Answer::Classes(rank(model, head, outputs, top_k)),
        HeadKind::Labels => Answer::Labels(rank(model, head, outputs, top_k)),
        HeadKind::Value => Answer::Value(model.scale.map_or(f64::from(outputs[0]), |scale| scale.to_value(outputs[0]))),
    }
}

fn rank(model: &Model, head: HeadKind, logits: &[f32], top_k: usize) -> Vec<Ranked> {
    let logits: Vec<f64> = logits.iter().map(|&z| f64::from(z)).collect();
    let probabilities = probabilities(head, &logits);
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    let ranked = |&class: &usize| Ranked { label: model.classes[class].clone(), prob: probabilities[class] };
    order.iter().take(top_k).map(ranked).collect()
}

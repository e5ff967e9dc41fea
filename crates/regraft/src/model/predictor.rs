//! Prediction: a model, ready to be asked about photos.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use regraft_data::{DecodeOptions, Image, Preprocessing, decode, decode_file};
use regraft_engine::{Engine, Images, Precision};
use regraft_graph::NodeId;
use regraft_learn::linear::{HeadKind, probabilities};
use serde::{Serialize, Serializer};

use crate::evaluation::tta;
use crate::model::decode_ahead::decode_ahead;
use crate::network::extractor::pooled;
use crate::network::session::Network;
use crate::photos::features::BATCH;
use crate::{Cancel, Error, Model, Result, Tta, default_threads};

/// A photo to predict.
#[derive(Clone, Debug)]
pub enum Photo {
    /// A file.
    File(PathBuf),
    /// An encoded photo in memory, and what to call it.
    Bytes(String, Vec<u8>),
    /// A decoded photo, and what to call it.
    Image(String, Image),
}

impl Photo {
    /// What answers call it: its path or name.
    pub fn name(&self) -> Cow<'_, str> {
        match self {
            Photo::File(path) => path.to_string_lossy(),
            Photo::Bytes(name, _) | Photo::Image(name, _) => Cow::Borrowed(name),
        }
    }

    /// The network's input, `[crop, crop, 3]`, or why there is none.
    fn values(&self, preprocessing: &Preprocessing, options: &DecodeOptions) -> Result<Vec<f32>, String> {
        let decoded = match self {
            Photo::Image(_, image) => return Ok(preprocessing.apply(image)),
            Photo::File(path) => decode_file(path, options).map_err(|error| match error {
                // The name stands beside the message already.
                regraft_data::Error::InFile { source, .. } => source.to_string(),
                regraft_data::Error::NotFound { .. } => "does not exist; check the path".into(),
                other => other.to_string(),
            })?,
            Photo::Bytes(_, bytes) => decode(bytes, options).map_err(|error| error.to_string())?,
        };
        Ok(preprocessing.apply(&decoded))
    }
}

impl From<PathBuf> for Photo {
    fn from(path: PathBuf) -> Self {
        Photo::File(path)
    }
}

impl From<&Path> for Photo {
    fn from(path: &Path) -> Self {
        Photo::File(path.into())
    }
}

impl From<&str> for Photo {
    fn from(path: &str) -> Self {
        Photo::File(path.into())
    }
}

/// A class or label and its probability.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranked {
    /// Name of the class or label.
    pub label: String,
    /// Probability, 0 to 1.
    pub prob: f64,
}

/// A model's answer about a photo.
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

impl Answer {
    /// The labels that the photo has; its class, where it has one.
    pub fn labels(&self) -> Vec<&str> {
        match self {
            Answer::Classes(top) => top.iter().take(1).map(|ranked| ranked.label.as_str()).collect(),
            Answer::Labels(labels) => {
                labels.iter().filter(|ranked| ranked.prob >= YES).map(|ranked| ranked.label.as_str()).collect()
            }
            Answer::Value(_) => Vec::new(),
        }
    }
}

/// A photo and the model's answer about it. Serialises to the object that `regraft predict --json` prints.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The photo's path or name.
    pub name: String,
    /// The answer, or why the photo could not be read.
    pub answer: Result<Answer, String>,
    /// The features that the network's head reads, if they were asked for.
    pub features: Option<Vec<f32>>,
}

impl Serialize for Prediction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Default, Serialize)]
        struct Line<'a> {
            path: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            label: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            prob: Option<f64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            labels: Option<Vec<&'a str>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            top: Option<&'a [Ranked]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            value: Option<f64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            features: Option<&'a [f32]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<&'a str>,
        }
        let (path, features) = (self.name.as_str(), self.features.as_deref());
        let line = match &self.answer {
            Ok(Answer::Classes(top)) => {
                let best = top.first();
                let (label, prob) = (best.map(|best| best.label.as_str()), best.map(|best| best.prob));
                Line { path, label, prob, top: Some(top), features, ..Line::default() }
            }
            Ok(answer @ Answer::Labels(top)) => {
                Line { path, labels: Some(answer.labels()), top: Some(top), features, ..Line::default() }
            }
            Ok(Answer::Value(value)) => Line { path, value: Some(*value), features, ..Line::default() },
            Err(error) => Line { path, error: Some(error), ..Line::default() },
        };
        line.serialize(serializer)
    }
}

/// How photos are predicted.
#[derive(Clone, Debug)]
pub struct PredictOptions {
    /// Classes or labels of each answer; all of them if absent.
    pub top_k: Option<usize>,
    /// How each photo is varied.
    pub tta: Option<Tta>,
    /// Whether predictions have the features that the network's head reads.
    pub features: bool,
    /// Threads that decode.
    pub threads: usize,
}

impl Default for PredictOptions {
    fn default() -> Self {
        Self { top_k: None, tta: None, features: false, threads: default_threads() }
    }
}

/// A model on an engine, ready to be asked. Photos are decoded on other threads while the network computes.
pub struct Predictor {
    model: Model,
    network: Network,
    options: PredictOptions,
    /// The node whose value is the features, where they are asked for.
    features: Option<NodeId>,
}

impl Predictor {
    /// Opens a model file on an engine; the model must give its golden answers.
    ///
    /// # Errors
    /// Errors of [`Model::open`]; [`Error::Engine`] if it cannot be compiled, [`Error::File`] if its answers differ.
    pub fn open(path: impl AsRef<Path>, engine: &dyn Engine, options: PredictOptions) -> Result<Self> {
        let path = path.as_ref();
        Self::new(Model::open(path)?, path, engine, options)
    }

    /// Puts a model on an engine. `path` is only for error messages.
    ///
    /// # Errors
    /// [`Error::Engine`] if it cannot be compiled, [`Error::File`] if its golden answers differ.
    pub fn new(model: Model, path: &Path, engine: &dyn Engine, options: PredictOptions) -> Result<Self> {
        let features = if options.features { Some(model.feature_node()?) } else { None };
        let mut network = match features {
            Some(_) => Network::inspected(engine, &model.graph, &model.state)?,
            None => Network::new(engine, &model.graph, &model.state)?,
        };
        model.check_golden(&mut network, engine, Precision::F32, path)?;
        Ok(Self { model, network, options, features })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The answers about some photos, in their order.
    ///
    /// # Errors
    /// Errors of inferring. A photo that cannot be read has an answer that says so.
    pub fn predict<P: Into<Photo>>(
        &mut self,
        photos: impl IntoIterator<Item = P, IntoIter: Send>,
    ) -> Result<Vec<Prediction>> {
        let mut all = Vec::new();
        self.predict_each(photos, &Cancel::new(), |prediction| {
            all.push(prediction);
            ControlFlow::Continue(())
        })?;
        Ok(all)
    }

    /// Hands the answers about photos to `take` in their order, as they come, until it breaks. No more photos are held
    /// than are decoded ahead.
    ///
    /// # Errors
    /// Errors of inferring; [`Error::Interrupted`] between batches.
    pub fn predict_each<P: Into<Photo>>(
        &mut self,
        photos: impl IntoIterator<Item = P, IntoIter: Send>,
        cancel: &Cancel,
        mut take: impl FnMut(Prediction) -> ControlFlow<()>,
    ) -> Result<()> {
        let preprocessing = self.model.preprocessing.clone();
        let options = preprocessing.decode_options();
        let read = |photo: Photo| (photo.name().into_owned(), photo.values(&preprocessing, &options));
        let photos = photos.into_iter().map(Into::into);
        let mut batch = Vec::with_capacity(BATCH);
        decode_ahead(photos, self.options.threads, 2 * BATCH, read, |decoded| {
            let last = decoded.is_none();
            batch.extend(decoded);
            if batch.len() < BATCH && !last {
                return Ok(ControlFlow::Continue(()));
            }
            for prediction in self.predict_batch(std::mem::take(&mut batch))? {
                if take(prediction).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            match cancel.is_cancelled() {
                true => Err(Error::Interrupted),
                false => Ok(ControlFlow::Continue(())),
            }
        })
    }

    fn predict_batch(&mut self, batch: Vec<(String, Result<Vec<f32>, String>)>) -> Result<Vec<Prediction>> {
        let readable: Vec<f32> = batch.iter().flat_map(|(_, values)| values.iter().flatten()).copied().collect();
        let (outputs, features) = match readable.is_empty() {
            true => (Vec::new(), Vec::new()),
            false => self.infer(Images::Floats(&readable))?,
        };
        let head = Tta::head(self.options.tta, self.model.head);
        let mut rows = outputs.chunks_exact(self.model.classes.len());
        let n = rows.len().max(1);
        let mut features = features.chunks_exact((features.len() / n).max(1));
        let prediction = |(name, values): (String, Result<Vec<f32>, String>)| match values {
            Ok(_) => {
                let answer = self.answer(head, rows.next().expect("a row for each readable photo"));
                Prediction { name, answer: Ok(answer), features: features.next().map(<[f32]>::to_vec) }
            }
            Err(error) => Prediction { name, answer: Err(error), features: None },
        };
        Ok(batch.into_iter().map(prediction).collect())
    }

    /// Outputs, `[n, outputs]`, and features, `[n, dim]`, if they are asked for.
    fn infer(&mut self, images: Images) -> Result<(Vec<f32>, Vec<f32>)> {
        let features = match self.features {
            Some(node) => pooled(&self.network.infer_nodes(images, &[node])?[0]),
            None => Vec::new(),
        };
        let (side, head, tta) = (self.model.preprocessing.crop, self.model.head, self.options.tta);
        Ok((tta::infer(&mut self.network, images, side, head, tta)?, features))
    }

    fn answer(&self, head: HeadKind, outputs: &[f32]) -> Answer {
        match head {
            HeadKind::Softmax | HeadKind::Ovr => Answer::Classes(self.rank(head, outputs)),
            HeadKind::Labels => Answer::Labels(self.rank(head, outputs)),
            HeadKind::Value => {
                Answer::Value(self.model.scale.map_or(f64::from(outputs[0]), |scale| scale.to_value(outputs[0])))
            }
        }
    }

    fn rank(&self, head: HeadKind, logits: &[f32]) -> Vec<Ranked> {
        let logits: Vec<f64> = logits.iter().map(|&z| f64::from(z)).collect();
        let probabilities = probabilities(head, &logits);
        let mut order: Vec<usize> = (0..probabilities.len()).collect();
        order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        let ranked = |&class: &usize| Ranked { label: self.model.classes[class].clone(), prob: probabilities[class] };
        order.iter().take(self.options.top_k.unwrap_or(usize::MAX)).map(ranked).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prediction_serialises_to_one_object_by_kind() {
        let top = vec![Ranked { label: "a|b".into(), prob: 0.75 }, Ranked { label: "c".into(), prob: 0.25 }];
        for (answer, expected) in [
            (
                Ok(Answer::Classes(top.clone())),
                r#"{"path":"x.jpg","label":"a|b","prob":0.75,"top":[{"label":"a|b","prob":0.75},{"label":"c","prob":0.25}]}"#,
            ),
            (
                Ok(Answer::Labels(top)),
                r#"{"path":"x.jpg","labels":["a|b"],"top":[{"label":"a|b","prob":0.75},{"label":"c","prob":0.25}]}"#,
            ),
            (Ok(Answer::Value(1.5)), r#"{"path":"x.jpg","value":1.5}"#),
            (Err("is cut short".into()), r#"{"path":"x.jpg","error":"is cut short"}"#),
        ] {
            let prediction = Prediction { name: "x.jpg".into(), answer, features: None };
            assert_eq!(serde_json::to_string(&prediction).unwrap(), expected);
        }
    }
}

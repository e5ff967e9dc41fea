//! What a distillation writes: the student's weights and, if the teacher was a trained model, a model.

use std::collections::BTreeMap;
use std::path::PathBuf;

use regraft_graph::{Graph, Op, StateDict, Tensor};
use serde_json::json;

use super::targets::TeacherOutputs;
use super::teacher::{About, Widths};
use super::{DistillSettings, Unlabelled};
use crate::model::golden::Golden;
use crate::network::session::Network;
use crate::{Context, Distillation, Model, Provenance, Result, RunFolder};

/// A finished student.
pub(super) struct Product<'a> {
    pub settings: &'a DistillSettings,
    pub graph: &'a Graph,
    pub targets: &'a TeacherOutputs<'a>,
    pub images: &'a Unlabelled,
    /// Hash of the weights that it started from.
    pub weights_sha256: Option<String>,
    pub val_r2: f64,
}

impl Product<'_> {
    /// Writes the trained model, if there is one, then the weights without the last layer, with their provenance. The run is
    /// complete once these are there.
    ///
    /// # Errors
    /// [`crate::Error::Io`] if a file cannot be written.
    pub fn save(
        &self,
        mut state: StateDict,
        folder: &RunFolder,
        context: &Context,
    ) -> Result<(PathBuf, Option<PathBuf>)> {
        let Self { settings, graph, targets, images, .. } = *self;
        let head = graph.nodes()[graph.head()?].name.clone();
        let model = self.model(&state, &head, context)?;
        state.retain(|tensor, _| !tensor.starts_with(&format!("{head}.")));
        let about = json!({
            "backbone": settings.student,
            "weights_sha256": self.weights_sha256,
            "teachers": targets.about,
            "photos": images.train.len(),
            "photos_sha256": images.sha256,
            "epochs": settings.epochs,
            "views": settings.views,
            "seed": settings.seed,
            "val_r2": self.val_r2,
        });
        let preprocessing =
            serde_json::to_string(&settings.preprocessing).expect("these values have no JSON that can fail");
        let mut metadata = BTreeMap::from([
            ("format".to_string(), "pt".to_string()),
            ("distilled".to_string(), about.to_string()),
            ("preprocessing".to_string(), preprocessing),
        ]);
        metadata.extend(settings.licence.iter().map(|licence| ("licence".to_string(), licence.clone())));
        let model = model.map(|model| model.save(&folder.best_path()).map(|()| folder.best_path())).transpose()?;
        let path = folder.student_path();
        match settings.half {
            true => regraft_weights::write_safetensors_half(&path, &state, &metadata)?,
            false => regraft_weights::write_safetensors(&path, &state, &metadata)?,
        }
        Ok((path, model))
    }

    /// The student as a model, with the part of its last layer that gives the logits, if its only teacher is a model.
    fn model(&self, state: &StateDict, head: &str, context: &Context) -> Result<Option<Model>> {
        let Self { settings, graph, targets, images, .. } = *self;
        let [teacher] = settings.teachers.as_slice() else { return Ok(None) };
        let Some(taught) = teacher.model()? else { return Ok(None) };
        let head_node = graph.head()?;
        let Op::Linear(linear) = graph.nodes()[head_node].op else { return Ok(None) };
        let Widths { features, logits } = targets.widths[0];
        let mut state = state.clone();
        let (weight, bias) = (format!("{head}.weight"), format!("{head}.bias"));
        let take = |name: &str| state.get(name).map(|tensor| tensor.data().to_vec()).unwrap_or_default();
        let (all_weights, all_biases) = (take(&weight), take(&bias));
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for k in features..features + logits {
            // Undo the standardisation.
            let (mean, factor) = (targets.mean[k], targets.factor[k]);
            let scale = if factor > 0.0 { 1.0 / factor } else { 0.0 };
            weights.extend(all_weights[k * linear.in_features..][..linear.in_features].iter().map(|w| w * scale));
            biases.push(all_biases[k] * scale + mean);
        }
        state.insert(weight, Tensor::new([logits, linear.in_features], weights));
        state.insert(bias, Tensor::new([logits], biases));
        let mut graph = graph.clone();
        graph.replace_head(logits)?;
        let mut network = Network::new(context.engine, &graph, &state)?;
        let golden = Golden::record(graph.input_shape(), |images| network.infer(images))?;
        let About { backbone, sha256 } = targets.about[0].clone();
        let provenance = Provenance {
            regraft: env!("CARGO_PKG_VERSION").into(),
            backbone: settings.student.clone(),
            weights_sha256: self.weights_sha256.clone(),
            weights: settings.published.clone(),
            data_sha256: images.sha256.clone(),
            mode: None,
            distilled: Some(Distillation { teacher: backbone, teacher_sha256: sha256, r2: self.val_r2 }),
            seed: settings.seed,
            epoch: settings.epochs,
            val_score: None,
            val_n: images.val.len(),
        };
        Ok(Some(Model {
            graph,
            state,
            classes: taught.classes,
            preprocessing: settings.preprocessing.clone(),
            head: taught.head,
            scale: taught.scale,
            provenance,
            golden,
        }))
    }
}

//! Where a model comes from.

use serde::{Deserialize, Serialize};

use crate::photos::prepare::Photos;
use crate::{Mode, Pretrained, Published, Settings};

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of the program that made it.
    pub regraft: String,
    /// Name of the backbone.
    pub backbone: String,
    /// SHA-256 of the pretrained weights' file; absent for random weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights_sha256: Option<String>,
    /// What these weights are, if they are published ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Published>,
    /// SHA-256 over the images, their classes and their split.
    pub data_sha256: String,
    /// How it was trained; absent if it learned from another model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The model that it learned from, if it did not learn from labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distilled: Option<Distillation>,
    /// Seed of the run.
    pub seed: u64,
    /// Epoch whose weights these are, from 1.
    pub epoch: usize,
    /// Score on the validation images: accuracy, 0 to 1; of labels, mean average precision; of numbers, R². Absent if the
    /// images had no targets.
    #[serde(default, alias = "val_acc", skip_serializing_if = "Option::is_none")]
    pub val_score: Option<f64>,
    /// Number of validation images.
    pub val_n: usize,
}

/// How a model learned from another one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distillation {
    /// Name of the teacher's backbone.
    pub teacher: String,
    /// SHA-256 of the teacher's file.
    pub teacher_sha256: String,
    /// Fraction of the variance of the teacher's outputs that the model explains on the validation images (R²).
    pub r2: f64,
}

impl Provenance {
    /// What is known of a model before it is trained.
    pub(crate) fn of(settings: &Settings, pretrained: &Pretrained, photos: &Photos) -> Self {
        Self {
            regraft: env!("CARGO_PKG_VERSION").into(),
            backbone: pretrained.name.clone(),
            weights_sha256: pretrained.weights_sha256.clone(),
            weights: settings.published.clone(),
            data_sha256: photos.sha256.clone(),
            mode: Some(settings.mode),
            distilled: None,
            seed: settings.seed,
            epoch: 0,
            val_score: None,
            val_n: photos.dataset.val.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provenance_of_older_files_is_read() {
        let text = r#"{"regraft":"0.1.0","backbone":"resnet18","data_sha256":"0","mode":"probe","seed":3,"epoch":1,
            "val_acc":0.75,"val_n":8}"#;
        let trained: Provenance = serde_json::from_str(text).unwrap();
        assert_eq!((trained.mode, trained.val_score, &trained.distilled), (Some(Mode::Probe), Some(0.75), &None));
        let distillation = Distillation { teacher: "resnet50".into(), teacher_sha256: "1".into(), r2: 0.5 };
        let distilled = Provenance { mode: None, val_score: None, distilled: Some(distillation), ..trained };
        let text = serde_json::to_string(&distilled).unwrap();
        assert!(!text.contains("mode") && !text.contains("val_score"), "{text}");
        assert_eq!(serde_json::from_str::<Provenance>(&text).unwrap(), distilled);
    }
}

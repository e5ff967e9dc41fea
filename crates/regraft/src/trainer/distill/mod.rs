//! Distillation: a small network learns the outputs of larger ones ("Distilling the Knowledge in a Neural Network", Hinton et
//! al. 2015; both see the same crop of an image: "Knowledge distillation: A good teacher is patient and consistent", Beyer
//! et al. 2022).
//!
//! The images need no labels. Each teacher's outputs are computed once for each of a few views (crop, mirror image) and
//! stored on disk. The student's last layer learns every teacher's features and logits at once. That layer is removed at the
//! end or, if the teacher is a trained model, becomes the student's classifier.

mod product;
mod start;
mod student;
mod targets;
mod teacher;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use regraft_data::{
    Augmentation, Dataset, DecodeOptions, ImageStore, Preprocessing, Sample, Target, Task, default_cache_bytes,
    fingerprint, image_paths, verify,
};
use regraft_engine::UpdateRule;
use regraft_learn::schedule::{Policy, Schedule, Warmup};
use regraft_random::{Purpose, keyed, shuffle};
use serde::{Deserialize, Serialize};

use crate::photos::prepare::report;
use crate::run::checkpoint::Checkpoint;
use crate::settings::{ADAMW_BETAS, ADAMW_EPS};
use crate::{Context, Error, Outcome, Published, Result, RunFolder, Source};

/// A teacher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum TeacherSpec {
    /// A backbone and a file of weights for it.
    Backbone {
        /// Name of the architecture.
        backbone: String,
        /// The file.
        weights: PathBuf,
        /// How images are prepared for it.
        preprocessing: Preprocessing,
    },
    /// A trained model.
    Model {
        /// Its file.
        path: PathBuf,
    },
}

/// Everything that decides the result of a distillation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillSettings {
    /// Images, and folders with images anywhere inside.
    pub images: Vec<PathBuf>,
    /// Name of the student's architecture.
    pub student: String,
    /// What the student starts from.
    #[serde(default, skip_serializing_if = "Source::is_random")]
    pub weights: Source,
    /// Name and address of these weights, if they are published ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<Published>,
    /// Passes over the images.
    pub epochs: usize,
    /// Images a step.
    pub batch_size: usize,
    /// Highest learning rate.
    pub lr: f64,
    /// Weight decay of AdamW.
    pub weight_decay: f64,
    /// Views of each image, which repeat after as many epochs.
    pub views: usize,
    /// Smallest fraction of an image's area that a view may have.
    pub min_scale: f64,
    /// Fraction of the images held out for validation.
    pub val_fraction: f64,
    /// Seed of every random decision.
    pub seed: u64,
    /// Whether the weights are saved in half precision.
    pub half: bool,
    /// Licence of the weights, to be stored with them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// How images are prepared for the student.
    pub preprocessing: Preprocessing,
    /// The teachers.
    pub teachers: Vec<TeacherSpec>,
}

/// Most images held out.
const MAX_VAL: usize = 2000;

impl DistillSettings {
    /// Default settings for these images, student and teachers: AdamW at 0.002 with a warm-up and half a cosine.
    pub fn new(
        images: Vec<PathBuf>,
        student: String,
        teachers: Vec<TeacherSpec>,
        preprocessing: Preprocessing,
    ) -> Self {
        Self {
            images,
            student,
            weights: Source::Random,
            published: None,
            epochs: 12,
            batch_size: 64,
            lr: 0.002,
            weight_decay: 0.02,
            views: 4,
            min_scale: 0.2,
            val_fraction: 0.02,
            seed: 0,
            half: false,
            licence: None,
            preprocessing,
            teachers,
        }
    }

    fn validate(&self) -> Result<()> {
        let refuse = |field, value: &dyn std::fmt::Display, allowed: &str| {
            Err(Error::Setting { field, value: value.to_string(), allowed: allowed.into() })
        };
        for (field, value) in [("epochs", self.epochs), ("batch_size", self.batch_size), ("views", self.views)] {
            if value == 0 {
                return refuse(field, &value, "it must be at least 1");
            }
        }
        for (field, value) in [("min_scale", self.min_scale), ("val_fraction", self.val_fraction)] {
            if !(value > 0.0 && value < 1.0) {
                return refuse(field, &value, "it must be between 0 and 1");
            }
        }
        if !(self.lr.is_finite() && self.lr > 0.0) {
            return refuse("lr", &self.lr, "it must be a number above 0");
        }
        if self.teachers.is_empty() {
            return refuse("teacher", &"absent", "give one to learn from");
        }
        Ok(self.preprocessing.validate()?)
    }

    fn optimizer(&self) -> UpdateRule {
        UpdateRule::AdamW { betas: ADAMW_BETAS, eps: ADAMW_EPS, weight_decay: self.weight_decay }
    }

    fn schedule(&self) -> Schedule {
        // One value a step, so that few epochs fall as smoothly as many.
        let policy = Policy::OneCycleLR { max_lr: self.lr, pct_start: 0.1, div_factor: 25.0, final_div_factor: 1e3 };
        Schedule { policy, warmup: None::<Warmup> }
    }

    /// How a view is drawn.
    fn augmentation(&self) -> Augmentation {
        Augmentation { scale: (self.min_scale, 1.0), ..Augmentation::default() }
    }

    /// Files of the teachers, and of the weights that the student starts from.
    fn files(&self) -> impl Iterator<Item = &Path> {
        let teachers = self.teachers.iter().map(|teacher| match teacher {
            TeacherSpec::Backbone { weights: path, .. } | TeacherSpec::Model { path } => path.as_path(),
        });
        teachers.chain(self.weights.file())
    }

    /// The same settings with absolute paths, so that the run can be resumed from any folder.
    fn resolved(&self) -> Result<Self> {
        let whole = |path: &Path| {
            let reason = |e: std::io::Error| Error::File { path: path.to_owned(), reason: e.to_string() };
            std::path::absolute(path).map_err(reason)
        };
        let mut settings = self.clone();
        settings.images = self.images.iter().map(|path| whole(path)).collect::<Result<_>>()?;
        if let Source::File(path) = &self.weights {
            settings.weights = Source::File(whole(path)?);
        }
        for teacher in &mut settings.teachers {
            match teacher {
                TeacherSpec::Backbone { weights: path, .. } | TeacherSpec::Model { path } => *path = whole(path)?,
            }
        }
        Ok(settings)
    }
}

/// The unlabelled images of a distillation.
struct Unlabelled {
    train: Vec<Sample>,
    val: Vec<Sample>,
    store: Arc<ImageStore>,
    /// Side in pixels that they are decoded for.
    side: u32,
    /// Hash over their names, their content and their split.
    sha256: String,
}

/// Trains a student on its teachers' outputs. The run's folder is `output_dir`, or the next free `runs/distill`.
///
/// # Errors
/// Any of [`Error`].
pub fn distill(
    settings: &DistillSettings,
    output_dir: Option<&Path>,
    replace: bool,
    context: &Context,
) -> Result<Outcome> {
    settings.validate()?;
    RunFolder::require_free(output_dir, replace)?;
    let settings = &settings.resolved()?;
    if let Some(folder) = output_dir.map(RunFolder::at) {
        settings.files().try_for_each(|file| folder.require_apart(file))?;
    }
    let images = Unlabelled::gather(settings, context)?;
    let folder = RunFolder::create(output_dir, "distill")?;
    folder.clear()?;
    let wrong = |e: toml::ser::Error| Error::File {
        path: folder.distillation_path(),
        reason: format!("cannot hold these settings: {e}"),
    };
    folder.write_distillation(&toml::to_string(settings).map_err(wrong)?)?;
    context.progress.run_folder(folder.path());
    student::run(settings, &images, &folder, None, context)
}

/// Whether a folder is that of a distillation.
pub(crate) fn is_distillation(run: &Path) -> bool {
    RunFolder::at(run).distillation_path().is_file()
}

/// Continues an interrupted distillation.
///
/// # Errors
/// Any of [`Error`]; [`Error::File`] if the folder is not that of one, it is complete, or its images have changed.
pub(crate) fn resume(run: &Path, context: &Context) -> Result<Outcome> {
    let folder = RunFolder::at(run);
    let path = folder.distillation_path();
    let wrong = |reason: String| Error::File { path: path.clone(), reason };
    let text = std::fs::read_to_string(&path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    let settings: DistillSettings =
        toml::from_str(&text).map_err(|e| wrong(format!("is not the settings of a run: {e}")))?;
    settings.validate()?;
    let checkpoint =
        folder.checkpoint_path().exists().then(|| Checkpoint::read(&folder.checkpoint_path())).transpose()?;
    let trained = checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.position.epoch >= settings.epochs);
    // The student's weights are what is written last.
    if trained && folder.student_path().is_file() {
        let reason = format!("is complete; the student's weights are {}", folder.student_path().display());
        return Err(Error::File { path: run.to_owned(), reason });
    }
    let images = Unlabelled::gather(&settings, context)?;
    if checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.position.data_sha256 != images.sha256) {
        let reason = "the photos have changed since this run began, so it cannot go on; start a new run";
        return Err(Error::File { path: run.to_owned(), reason: reason.into() });
    }
    context.progress.run_folder(folder.path());
    student::run(&settings, &images, &folder, checkpoint, context)
}

impl Unlabelled {
    /// Finds the images, decodes each once and holds some out.
    fn gather(settings: &DistillSettings, context: &Context) -> Result<Self> {
        let (mut paths, mut findings) = image_paths(&settings.images)?;
        paths.sort();
        paths.dedup();
        let mut samples: Vec<Sample> =
            paths.into_iter().map(|path| Sample { path, target: Target::Value(0.0) }).collect();
        let side = settings.teachers.iter().map(TeacherSpec::side).collect::<Result<Vec<_>>>()?;
        let side =
            side.into_iter().chain([settings.preprocessing.resize]).max().unwrap_or(settings.preprocessing.resize);
        let options = DecodeOptions { min_side: Some(side), ..settings.preprocessing.decode_options() };
        let store = Arc::new(ImageStore::new(options, default_cache_bytes()));
        let Context { progress, cancel, threads, .. } = *context;
        progress.begin("reading photos", "photos", samples.len() as u64);
        let advance = |done: usize| progress.advance(done as u64, "");
        let verified = verify(&mut samples, &store, threads, false, cancel, advance);
        progress.end();
        findings.extend(verified?);
        report(&findings, progress);
        if samples.len() < 2 {
            let reason = "holds too few photos to learn from".into();
            return Err(Error::File { path: settings.images.first().cloned().unwrap_or_default(), reason });
        }
        // Both parts get an image.
        let most = MAX_VAL.min(samples.len() - 1);
        let n_val = ((samples.len() as f64 * settings.val_fraction).round() as usize).clamp(1, most);
        let mut order: Vec<usize> = (0..samples.len()).collect();
        shuffle(&mut order, &mut keyed(settings.seed, Purpose::Split, regraft_random::hash_name("distill"), 0));
        let (mut val, mut train) = (order[..n_val].to_vec(), order[n_val..].to_vec());
        val.sort_unstable();
        train.sort_unstable();
        let pick = |indices: Vec<usize>| indices.into_iter().map(|i| samples[i].clone()).collect::<Vec<_>>();
        let (train, val) = (pick(train), pick(val));
        progress.note(&format!("{} photos to learn from, {} held out", train.len(), val.len()));
        let root = common_folder(&settings.images);
        let dataset = Dataset { root, task: Task::Value, classes: Vec::new(), train, val };
        let sha256 = fingerprint(&dataset, cancel)?.sha256;
        let Dataset { train, val, .. } = dataset;
        Ok(Self { train, val, store, side, sha256 })
    }
}

/// The innermost folder that contains all of these, so that a hash does not depend on the location of the photos.
fn common_folder(paths: &[PathBuf]) -> PathBuf {
    let mut common = paths.first().cloned().unwrap_or_default();
    // An empty path contains everything.
    while !paths.iter().all(|path| path.starts_with(&common)) {
        if !common.pop() {
            common.clear();
        }
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distill_config_toml_round_trips() {
        let preprocessing = Preprocessing::default();
        let teachers = vec![
            TeacherSpec::Model { path: "/a/best.safetensors".into() },
            TeacherSpec::Backbone {
                backbone: "resnet18".into(),
                weights: "/a/b.pth".into(),
                preprocessing: preprocessing.clone(),
            },
        ];
        let published = Published { name: "V1".into(), url: "https://host/weights.pth".into() };
        let settings = DistillSettings {
            weights: Source::File("/a/weights.pth".into()),
            published: Some(published),
            licence: Some("MIT".into()),
            ..DistillSettings::new(vec!["/photos".into()], "rootstock".into(), teachers, preprocessing)
        };
        let text = toml::to_string(&settings).unwrap();
        assert_eq!(toml::from_str::<DistillSettings>(&text).unwrap(), settings, "{text}");
    }

    #[test]
    fn common_folder_contains_all_paths() {
        for (paths, expected) in [
            (&["/a/photos"][..], "/a/photos"),
            (&["/a/pile", "/a/more/b"], "/a"),
            (&["/a/pile", "/a/pile/inner"], "/a/pile"),
            (&["/a/pile", "/a/pile2"], "/a"),
            (&["/a", "b"], ""),
            (&[], ""),
        ] {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            assert_eq!(common_folder(&paths), Path::new(expected), "{paths:?}");
        }
    }
}

//! From settings to a model: checks, loading, training.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::network::weights;
use crate::photos::prepare::{self, Opened};
use crate::run::checkpoint::Checkpoint;
use crate::run::outcome::Interrupted;
use crate::trainer::job::Job;
use crate::trainer::recipe::Recipe;
use crate::trainer::{auto, distill, find_lr, probe, supervised};
use crate::{
    Backbone, Context, Error, FoundRate, Hub, InitHead, Mode, Outcome, Published, Result, RunFolder, Settings, Source,
};

/// A run whose settings have been checked against its folder of images and its network, before any weights are loaded.
#[derive(Debug)]
pub struct PreparedRun {
    settings: Settings,
    opened: Opened,
    output_dir: Option<PathBuf>,
}

impl PreparedRun {
    /// Checks everything that can be wrong before weights are here: the settings, the output folder, the network for that
    /// size of images, the folder of images. `replace` allows a run that `output_dir` holds to be replaced.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub fn check(settings: Settings, output_dir: Option<&Path>, replace: bool, context: &Context) -> Result<Self> {
        settings.validate()?;
        RunFolder::require_free(output_dir, replace)?;
        context.engine.supports(settings.precision)?;
        let graph = settings.backbone.graph(Some(settings.preprocessing.crop))?;
        let opened = prepare::open(&settings)?;
        let classes = opened.dataset.classes.len();
        settings.trainable(&settings.graft_on(&graph, classes)?, 0)?;
        settings.validate_for(&opened.dataset)?;
        Ok(Self { settings, opened, output_dir: output_dir.map(Path::to_owned) })
    }

    /// Checks that the run takes steps of a given rate, as [`find_lr`](Self::find_lr) needs.
    ///
    /// # Errors
    /// [`Error::Setting`] if not.
    pub fn require_steps(&self) -> Result<()> {
        find_lr::require_steps(&self.settings)
    }

    /// The same with what the backbone starts from.
    pub fn with_weights(mut self, weights: Source, published: Option<Published>) -> Self {
        (self.settings.weights, self.settings.published) = (weights, published);
        self
    }

    /// Trains a classifier. The run's folder is made once the images and the network have been loaded: the output folder
    /// given, or the next free one under `runs`.
    ///
    /// # Errors
    /// Any of [`Error`].
    pub fn train(self, context: &Context) -> Result<Outcome> {
        let started = Instant::now();
        let Self { settings, opened, output_dir } = self;
        let (photos, pretrained) = prepare::load(&settings, opened, context)?;
        if settings.weights.is_random() && settings.backbone.zoo_name().is_some() {
            context.progress.warn(&format!(
                "{} starts from random weights, which have learned nothing yet and give a poor classifier",
                settings.backbone
            ));
        }
        let folder = RunFolder::create(output_dir.as_deref(), "train")?;
        folder.start(&settings.resolved()?, &photos.dataset.classes)?;
        context.progress.run_folder(folder.path());
        let job = Job { settings: &settings, pretrained: &pretrained, photos: &photos, folder: &folder, context };
        run(&job, None, started)
    }

    /// Tries learning rates on the network that the run would begin with: a hundred steps, each with a higher rate than the
    /// one before, until the loss diverges. Nothing but the curve is kept: `lr_find.csv` and `lr_find.svg` in the output
    /// folder, or in the next free `runs/find-lr`.
    ///
    /// # Errors
    /// Any of [`Error`]; [`Error::Setting`] for a probe, which takes no steps.
    pub fn find_lr(self, context: &Context) -> Result<FoundRate> {
        let Self { settings, opened, output_dir } = self;
        find_lr::require_steps(&settings)?;
        let folder = RunFolder::create(output_dir.as_deref(), "find-lr")?;
        let (photos, pretrained) = prepare::load(&settings, opened, context)?;
        find_lr::run(&Job { settings: &settings, pretrained: &pretrained, photos: &photos, folder: &folder, context })
    }
}

/// Continues an interrupted run or distillation, to the same bits as if it had not been interrupted. Published weights that
/// it began with and that have gone since are downloaded again.
///
/// # Errors
/// Any of [`Error`]; [`Error::File`] if the folder is no run, the run is complete, or its images have changed.
pub fn resume(run: &Path, hub: &Hub, context: &Context) -> Result<Outcome> {
    if distill::is_distillation(run) {
        return distill::resume(run, context);
    }
    let started = Instant::now();
    let (folder, settings) = RunFolder::open(run)?;
    settings.validate()?;
    let checkpoint = open_checkpoint(&folder, &settings)?;
    weights::restore(&settings, hub, context)?;
    let (photos, pretrained) = prepare::load(&settings, prepare::open(&settings)?, context)?;
    let job = Job { settings: &settings, pretrained: &pretrained, photos: &photos, folder: &folder, context };
    if let Some(checkpoint) = &checkpoint {
        checkpoint.require_same(&job)?;
    }
    context.progress.run_folder(folder.path());
    self::run(&job, checkpoint, started)
}

/// The checkpoint that a run goes on from, if it has got so far.
///
/// # Errors
/// [`Error::File`] if the run is complete or cannot be read.
fn open_checkpoint(folder: &RunFolder, settings: &Settings) -> Result<Option<Checkpoint>> {
    let complete = |reason: String| Err(Error::File { path: folder.path().to_owned(), reason });
    let (model, checkpoint) = (folder.best_path(), folder.checkpoint_path());
    match settings.mode {
        Mode::Auto if folder.read_auto()?.is_some_and(|result| result.is_complete()) => {
            return complete(format!("is complete; its model is {}", model.display()));
        }
        Mode::Probe if model.exists() => return complete(format!("is complete; its model is {}", model.display())),
        Mode::Auto | Mode::Probe => return Ok(None),
        // The probe that the head starts from takes seconds and starts again.
        Mode::Frozen | Mode::Finetune if settings.init_head == InitHead::Probe && !checkpoint.exists() => {
            return Ok(None);
        }
        Mode::Frozen | Mode::Finetune => {}
    }
    let read = Checkpoint::read(&checkpoint)?;
    let (done, epochs) = (read.position.epoch, settings.epochs);
    if !read.position.is_complete(&Recipe::new(settings)) {
        return Ok(Some(read));
    }
    let stopped = if done < epochs { ", and then `patience` ended it" } else { "" };
    complete(format!("is complete: {done} of {epochs} epochs are done{stopped}; its best model is {}", model.display()))
}

/// Runs a job by its mode. `started` is when the run's time began.
fn run(job: &Job, checkpoint: Option<Checkpoint>, started: Instant) -> Result<Outcome> {
    let result = match job.settings.mode {
        Mode::Auto => auto::run(job, started),
        Mode::Probe => probe::run(job).map(|probed| Outcome::Trained(probed.trained)),
        Mode::Frozen | Mode::Finetune => supervised::run(*job, None, checkpoint),
    };
    match result {
        // A probe, which starts again when the run is resumed, or what auto mode measures between its stages.
        Err(error) if error.is_interruption() => {
            Ok(Outcome::Interrupted(Interrupted { folder: job.folder.clone(), epoch: 0, step: 0 }))
        }
        result => result,
    }
}

impl Settings {
    /// The same settings with paths that hold wherever the run is resumed from.
    fn resolved(&self) -> Result<Self> {
        let whole = |path: &Path| {
            let reason = |e: std::io::Error| Error::File { path: path.to_owned(), reason: e.to_string() };
            std::path::absolute(path).map_err(reason)
        };
        let weights = match &self.weights {
            Source::File(path) => Source::File(whole(path)?),
            other => other.clone(),
        };
        let backbone = match &self.backbone {
            Backbone::Onnx(path) => Backbone::Onnx(whole(path)?),
            zoo => zoo.clone(),
        };
        Ok(Self { data: whole(&self.data)?, backbone, weights, ..self.clone() })
    }
}

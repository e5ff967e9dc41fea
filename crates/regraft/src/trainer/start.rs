//! From settings to a model: what is checked, loaded and run, in this order.

use std::path::Path;
use std::time::Instant;

use crate::photos::prepare;
use crate::run::checkpoint::Checkpoint;
use crate::run::outcome::Interrupted;
use crate::trainer::job::Job;
use crate::trainer::recipe::Recipe;
use crate::trainer::{auto, distill, probe, supervised};
use crate::{Backbone, Config, Context, Error, InitHead, Mode, Outcome, Result, RunFolder, Source};

/// Looks for what is wrong with a run whose weights are not here yet: its settings, its output folder, the network for
/// that size of pictures, the folder of photos. All of it is looked at again by [`train`].
///
/// # Errors
/// Any of [`Error`].
pub fn check(config: &Config, output_dir: Option<&Path>, replace: bool, context: &Context) -> Result<()> {
    config.validate()?;
    RunFolder::require_free(output_dir, replace)?;
    context.engine.supports(config.precision)?;
    let graph = config.backbone.graph(Some(config.preprocessing.crop))?;
    config.trainable(&config.graft_on(&graph, 2)?, 0)?;
    let (dataset, _) = prepare::open(config)?;
    config.validate_for(&dataset)
}

/// Trains a classifier on a folder of photos. The run's folder is made once the photos and the network have
/// been looked at: `output_dir`, or the next free one under `runs`.
///
/// # Errors
/// Any of [`Error`].
pub fn train(config: &Config, output_dir: Option<&Path>, replace: bool, context: &Context) -> Result<Outcome> {
    let started = Instant::now();
    config.validate()?;
    RunFolder::require_free(output_dir, replace)?;
    let (photos, pretrained) = prepare::look(config, context)?;
    if config.weights.is_random() && config.backbone.zoo_name().is_some() {
        context.progress.warn(&format!(
            "{} starts from random weights, which have learned nothing yet and give a poor classifier",
            config.backbone
        ));
    }
    let folder = RunFolder::create(output_dir, "train")?;
    folder.start(&config.resolved()?, &photos.dataset.classes)?;
    context.progress.run_folder(folder.path());
    run(&Job { config, pretrained: &pretrained, photos: &photos, folder: &folder, context }, None, started)
}

/// Continues an interrupted run or distillation, to the same bits as if it had not been interrupted.
///
/// # Errors
/// Any of [`Error`]; [`Error::File`] if the folder is no run, the run is complete, or its images have changed.
pub fn resume(run: &Path, context: &Context) -> Result<Outcome> {
    if distill::is_distillation(run) {
        return distill::resume(run, context);
    }
    let started = Instant::now();
    let (folder, config) = RunFolder::open(run)?;
    config.validate()?;
    let checkpoint = open_checkpoint(&folder, &config)?;
    let (photos, pretrained) = prepare::look(&config, context)?;
    let job = Job { config: &config, pretrained: &pretrained, photos: &photos, folder: &folder, context };
    if let Some(checkpoint) = &checkpoint {
        checkpoint.require_same(&job)?;
    }
    context.progress.run_folder(folder.path());
    self::run(&job, checkpoint, started)
}

/// The checkpoint that a run goes on from, if it has got so far.
///
/// # Errors
/// [`Error::File`] if the run is complete; those of reading it.
fn open_checkpoint(folder: &RunFolder, config: &Config) -> Result<Option<Checkpoint>> {
    let complete = |reason: String| Err(Error::File { path: folder.path().to_owned(), reason });
    let (model, checkpoint) = (folder.best_path(), folder.checkpoint_path());
    match config.mode {
        Mode::Auto if folder.read_auto()?.is_some_and(|result| result.is_complete()) => {
            return complete(format!("is complete; its model is {}", model.display()));
        }
        Mode::Probe if model.exists() => return complete(format!("is complete; its model is {}", model.display())),
        Mode::Auto | Mode::Probe => return Ok(None),
        // The probe that the head starts from takes seconds and starts again.
        Mode::Frozen | Mode::Finetune if config.init_head == InitHead::Probe && !checkpoint.exists() => {
            return Ok(None);
        }
        Mode::Frozen | Mode::Finetune => {}
    }
    let read = Checkpoint::read(&checkpoint)?;
    let (done, epochs) = (read.position.epoch, config.epochs);
    if !read.position.is_complete(&Recipe::new(config)) {
        return Ok(Some(read));
    }
    let stopped = if done < epochs { ", and then --patience ended it" } else { "" };
    complete(format!("is complete: {done} of {epochs} epochs are done{stopped}; its best model is {}", model.display()))
}

/// Runs a job by its mode. `started` is when the run's time began.
fn run(job: &Job, checkpoint: Option<Checkpoint>, started: Instant) -> Result<Outcome> {
    let result = match job.config.mode {
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

impl Config {
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

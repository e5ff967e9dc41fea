//! The way of the data: folder, network, road, model.

use std::path::Path;
use std::time::Instant;

use crate::photos::prepare::{self, Photos};
use crate::run::checkpoint::Loaded;
use crate::trainer::auto;
use crate::trainer::epochs;
use crate::trainer::probe;
use crate::{Backbone, Config, Context, Error, InitHead, Mode, Outcome, Pretrained, Result, RunFolder, Source};

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
    let (photos, backbone) = prepare::look(config, context)?;
    if config.weights.is_random() && config.backbone.zoo_name().is_some() {
        context.progress.warn(&format!(
            "{} starts from random weights, which have learned nothing yet and give a poor classifier",
            config.backbone
        ));
    }
    let folder = RunFolder::create(output_dir, "train")?;
    folder.start(&config.resolved()?, &photos.dataset.classes)?;
    context.progress.run_folder(folder.path());
    take_road(config, &backbone, &photos, &folder, None, started, context)
}

/// Goes on with an interrupted run, to the same bits as if it had not been interrupted.
///
/// # Errors
/// Any of [`Error`]; [`Error::File`] if the folder is no run, the run is complete, or its photos have changed.
pub fn resume(run: &Path, context: &Context) -> Result<Outcome> {
    let started = Instant::now();
    let (folder, config) = RunFolder::open(run)?;
    config.validate()?;
    let complete = match config.mode {
        Mode::Auto => folder.read_ladder()?.is_some_and(|ladder| ladder.is_complete()),
        Mode::Probe => folder.best_path().exists(),
        Mode::Frozen | Mode::Finetune => false, // the checkpoint knows
    };
    if complete {
        let reason = format!("is complete; its model is {}", folder.best_path().display());
        return Err(Error::File { path: run.to_owned(), reason });
    }
    // A probe takes seconds and starts again, also that which comes before fine-tuning; what else a ladder has tried has a
    // folder of its own.
    let probing = config.init_head == InitHead::Probe && !folder.checkpoint_path().exists();
    let checkpoint = match config.mode {
        Mode::Auto | Mode::Probe => None,
        Mode::Frozen | Mode::Finetune if probing => None,
        Mode::Frozen | Mode::Finetune => Some(Loaded::read(&folder.checkpoint_path())?),
    };
    if let Some(loaded) = &checkpoint
        && loaded.position.is_complete(&config)
    {
        let stopped = if loaded.position.epoch < config.epochs { ", and then --patience ended it" } else { "" };
        let reason = format!(
            "is complete: {} of {} epochs are done{stopped}; its best model is {}",
            loaded.position.epoch,
            config.epochs,
            folder.best_path().display()
        );
        return Err(Error::File { path: run.to_owned(), reason });
    }
    let (photos, backbone) = prepare::look(&config, context)?;
    if let Some(loaded) = &checkpoint {
        loaded.require_same(&config, &photos, &backbone)?;
    }
    context.progress.run_folder(folder.path());
    take_road(&config, &backbone, &photos, &folder, checkpoint, started, context)
}

fn take_road(
    config: &Config,
    backbone: &Pretrained,
    photos: &Photos,
    folder: &RunFolder,
    checkpoint: Option<Loaded>,
    started: Instant,
    context: &Context,
) -> Result<Outcome> {
    let result = match config.mode {
        Mode::Auto => auto::climb(config, backbone, photos, folder, started, context),
        Mode::Probe => probe::run(config, backbone, photos, folder, context).map(Outcome::Finished),
        Mode::Frozen | Mode::Finetune => epochs::run(config, backbone, None, photos, folder, checkpoint, context),
    };
    match result {
        // A probe, which starts again when the run is resumed, or what is measured between a ladder's rungs.
        Err(error) if error.is_interruption() => Ok(Outcome::Interrupted { folder: folder.clone(), epoch: 0, step: 0 }),
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

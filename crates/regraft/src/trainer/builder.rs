//! Training from Rust.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use regraft_engine::Engine;

use crate::run::outcome::Trained;
use crate::{
    Backbone, Cancel, Context, DeviceChoice, Error, FoundWeights, Head, Hub, Mode, Outcome, PreparedRun, Progress,
    Result, Settings, Silent, WeightSpec, default_threads, engine,
};

/// Trains a classifier on a folder of photos.
///
/// Without more it trains as `regraft train photos/` does: the embedded backbone, in mode auto. The defaults of other
/// settings depend on the mode; what is set here is put on top of them.
///
/// ```no_run
/// let run = regraft::Trainer::new("photos/").backbone("resnet18").mode(regraft::Mode::Frozen).epochs(5).run()?;
/// let model = regraft::Model::open(run.model())?;
/// for prediction in model.predictor()?.predict(["new.jpg"])? {
///     println!("{}", serde_json::to_string(&prediction).expect("a prediction is JSON"));
/// }
/// # Ok::<(), regraft::Error>(())
/// ```
pub struct Trainer<'a> {
    data: PathBuf,
    backbone: Backbone,
    weights: WeightSpec,
    changes: Vec<(String, String)>,
    output_dir: Option<PathBuf>,
    replace: bool,
    offline: bool,
    threads: usize,
    engine: Option<&'a dyn Engine>,
    progress: &'a dyn Progress,
    cancel: Cancel,
}

impl<'a> Trainer<'a> {
    /// A trainer for a folder of class folders, or a CSV file that lists photos.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            backbone: Backbone::embedded(),
            weights: WeightSpec::default(),
            changes: Vec::new(),
            output_dir: None,
            replace: false,
            offline: false,
            threads: default_threads(),
            engine: None,
            progress: &Silent,
            cancel: Cancel::new(),
        }
    }

    /// The network to graft on: an architecture's name, or an ONNX file.
    pub fn backbone(self, backbone: impl Into<Backbone>) -> Self {
        Self { backbone: backbone.into(), ..self }
    }

    /// What the backbone starts from: a published name, a file or `random`. Default: the recommended published weights, for
    /// the embedded backbone its own.
    pub fn weights(self, weights: impl Into<WeightSpec>) -> Self {
        Self { weights: weights.into(), ..self }
    }

    /// How to train. Default: [`Mode::Auto`].
    pub fn mode(self, mode: Mode) -> Self {
        self.set("mode", mode)
    }

    /// The new head.
    pub fn head(self, head: Head) -> Self {
        self.set("head", head)
    }

    /// Passes over the training photos.
    pub fn epochs(self, epochs: usize) -> Self {
        self.set("epochs", epochs)
    }

    /// Photos a step.
    pub fn batch_size(self, batch_size: usize) -> Self {
        self.set("batch_size", batch_size)
    }

    /// Learning rate.
    pub fn lr(self, lr: f64) -> Self {
        self.set("lr", lr)
    }

    /// Seed of every random decision.
    pub fn seed(self, seed: u64) -> Self {
        self.set("seed", seed)
    }

    /// Any of [`FIELDS`](crate::FIELDS) by its name, with a value as the command line takes it. An error is reported by
    /// [`run`](Self::run).
    pub fn set(mut self, name: &str, value: impl Display) -> Self {
        self.changes.push((name.into(), value.to_string()));
        self
    }

    /// Folder for the run. Default: the next free one of `runs/train`, `runs/train2`, ...
    pub fn output_dir(self, folder: impl Into<PathBuf>) -> Self {
        Self { output_dir: Some(folder.into()), ..self }
    }

    /// Replaces the run that the output folder holds.
    pub fn replace(self) -> Self {
        Self { replace: true, ..self }
    }

    /// Forbids downloads.
    pub fn offline(self) -> Self {
        Self { offline: true, ..self }
    }

    /// Threads to compute on. Default: as many as this process may use.
    pub fn threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// The engine to run on. Default: the CPU's.
    pub fn engine(self, engine: &'a dyn Engine) -> Self {
        Self { engine: Some(engine), ..self }
    }

    /// Who hears about the progress. Default: nobody.
    pub fn progress(self, progress: &'a dyn Progress) -> Self {
        Self { progress, ..self }
    }

    /// The wish to stop, which ends [`run`](Self::run) with [`Error::Interrupted`] and everything saved.
    pub fn cancel(self, cancel: &Cancel) -> Self {
        Self { cancel: cancel.clone(), ..self }
    }

    /// Trains.
    ///
    /// # Errors
    /// Any of [`Error`]; [`Error::Interrupted`] if it was cancelled: [`resume`](crate::resume) continues it.
    pub fn run(self) -> Result<Trained> {
        let default;
        let engine = match self.engine {
            Some(engine) => engine,
            None => {
                default = engine(DeviceChoice::Auto, self.threads)?;
                default.as_ref()
            }
        };
        let context = Context { engine, progress: self.progress, cancel: &self.cancel, threads: self.threads };
        let hub = Hub::from_env(self.offline)?;
        let found = FoundWeights::find(&self.weights, &self.backbone, &hub, self.progress)?;
        let changes = self.changes.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut settings = Settings::with_changes(self.data, self.backbone, changes)?;
        settings.prepare_as(&found.preprocessing);
        let output_dir: Option<&Path> = self.output_dir.as_deref();
        let prepared = PreparedRun::check(settings, output_dir, self.replace, &context)?;
        let (weights, published) = found.load(&hub, &context)?;
        match prepared.with_weights(weights, published).train(&context)? {
            Outcome::Trained(run) => Ok(run),
            Outcome::Distilled(_) | Outcome::Interrupted(_) => Err(Error::Interrupted),
        }
    }
}

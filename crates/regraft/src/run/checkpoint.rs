//! The state of a training run between two steps: `last.ckpt`.

use std::collections::BTreeMap;
use std::path::Path;

use regraft_engine::{Losses, Pending, SessionState};
use regraft_graph::StateDict;
use regraft_learn::history::Row;
use regraft_learn::linear::HeadKind;
use serde::{Deserialize, Serialize};

use crate::trainer::job::Job;
use crate::trainer::recipe::Recipe;
use crate::{Error, Result};

/// The best epoch so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    /// From 1.
    pub epoch: usize,
    #[serde(alias = "val_acc")]
    pub val_score: f64,
}

/// Sums over the training samples of the current epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sums {
    pub loss: f64,
    pub weight: f64,
    /// Right answers: samples or, where they have labels, decisions about these.
    pub correct: u64,
    pub seen: u64,
}

impl Sums {
    /// Adds a batch of `samples`.
    pub fn add(&mut self, losses: &Losses, samples: usize) {
        self.loss += losses.sum;
        self.weight += losses.weight;
        self.correct += losses.correct;
        self.seen += samples as u64;
    }

    /// Score on the samples while the network learned: accuracy; of labels that of all decisions about them; of numbers,
    /// which are learned in standard deviations from their mean, R².
    pub fn score(&self, kind: HeadKind, outputs: usize) -> f64 {
        match kind {
            HeadKind::Softmax | HeadKind::Ovr => self.correct as f64 / self.seen.max(1) as f64,
            HeadKind::Labels => self.correct as f64 / (self.seen.max(1) * outputs as u64) as f64,
            HeadKind::Value => 1.0 - self.mean_loss(),
        }
    }

    pub fn mean_loss(&self) -> f64 {
        self.loss / self.weight
    }
}

/// Batches of a step that is not taken yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct PendingBatches {
    batches: usize,
    weight: f64,
}

/// Where a run is. Everything random is keyed by place, so no generator has a state to keep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Epochs finished.
    pub epoch: usize,
    /// Batches done in the next one.
    pub step: usize,
    /// Its sums.
    pub sums: Sums,
    #[serde(default)]
    pending: PendingBatches,
    pub best: Option<Best>,
    pub rows: Vec<Row>,
    /// Seconds spent on the current epoch.
    pub epoch_seconds: f64,
    /// Seconds spent on the whole run.
    pub seconds: f64,
    /// Hash of the images the run is about.
    pub data_sha256: String,
    /// Hash of the weights it started from; `None` for random ones.
    pub weights_sha256: Option<String>,
}

impl Position {
    pub fn start(data_sha256: String, weights_sha256: Option<String>) -> Self {
        Self {
            epoch: 0,
            step: 0,
            sums: Sums::default(),
            pending: PendingBatches::default(),
            best: None,
            rows: Vec::new(),
            epoch_seconds: 0.0,
            seconds: 0.0,
            data_sha256,
            weights_sha256,
        }
    }

    /// Goes on to the next epoch after one with these results.
    pub fn end_epoch(&mut self, row: Row) {
        self.rows.push(row);
        self.epoch += 1;
        self.step = 0;
        self.sums = Sums::default();
        self.epoch_seconds = 0.0;
        self.seconds += row.seconds;
    }

    /// Whether nothing is left to do: all epochs are done, or the last `patience` of them were no better than one before.
    pub fn is_complete(&self, recipe: &Recipe) -> bool {
        let since_best = self.best.map_or(0, |best| self.epoch - best.epoch.min(self.epoch));
        self.epoch >= recipe.epochs || recipe.patience.is_some_and(|patience| since_best >= patience)
    }

    /// The error that `what` has become `value` in the current epoch.
    pub fn diverged(&self, what: &'static str, value: f64, lr: f64) -> Error {
        let best_epoch = self.best.map(|best| best.epoch);
        Error::Diverged { what, value, epoch: self.epoch + 1, lr, best_epoch }
    }
}

/// Prefixes of the tensors' names in the file.
const TRAINED: &str = "state/";
const OPTIMIZER: &str = "optimizer/";
const AVERAGE: &str = "ema/";
const PENDING: &str = "pending/";

/// What version 0.1.0 called pending gradients, which it stored in the layouts of its engine.
const PENDING_OLD: &str = "gradient/";

/// Writes a run's state, whole or not at all.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written.
pub(crate) fn save(path: &Path, state: &SessionState, position: &Position) -> Result<()> {
    let average = state.average.clone().unwrap_or_default();
    let mut tensors = StateDict::new();
    for (prefix, part) in [
        (TRAINED, &state.trained),
        (OPTIMIZER, &state.optimizer),
        (AVERAGE, &average),
        (PENDING, &state.pending.gradients),
    ] {
        tensors.extend(part.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone())));
    }
    let pending = PendingBatches { batches: state.pending.batches, weight: state.pending.weight };
    let position = Position { pending, ..position.clone() };
    let position = serde_json::to_string(&position).expect("a position has no JSON that can fail");
    let metadata = BTreeMap::from([("progress".to_string(), position)]);
    Ok(regraft_weights::write_safetensors(path, &tensors, &metadata)?)
}

/// A checkpoint read back.
pub(crate) struct Checkpoint {
    pub position: Position,
    pub state: SessionState,
}

impl Checkpoint {
    /// # Errors
    /// [`Error::Io`] or [`Error::Weights`] if the file cannot be read, [`Error::File`] if it is no checkpoint or one that an
    /// earlier version wrote in the middle of a step.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |what: &str| Error::File {
            path: path.to_owned(),
            reason: format!("is not a checkpoint of a run: {what}; start the run again"),
        };
        let (tensors, metadata) = regraft_weights::read_safetensors_with_metadata(path)?;
        let position = metadata.get("progress").ok_or_else(|| wrong("it does not say how far the run is"))?;
        let position: Position = serde_json::from_str(position).map_err(|e| wrong(&e.to_string()))?;
        let mut parts = [TRAINED, OPTIMIZER, AVERAGE, PENDING, PENDING_OLD].map(|prefix| (prefix, StateDict::new()));
        for (name, tensor) in tensors {
            let of = parts.iter_mut().find_map(|(prefix, part)| Some((name.strip_prefix(*prefix)?.to_owned(), part)));
            if let Some((name, part)) = of {
                part.insert(name, tensor);
            }
        }
        let [trained, optimizer, average, gradients, old] = parts.map(|(_, part)| part);
        if !old.is_empty() {
            return Err(wrong("an earlier version of Regraft wrote it in the middle of a step, in a form of its own"));
        }
        let PendingBatches { batches, weight } = position.pending;
        let state = SessionState {
            trained,
            optimizer,
            pending: Pending { batches, weight, gradients },
            average: (!average.is_empty()).then_some(average),
        };
        Ok(Self { position, state })
    }

    /// Checks that a run would go on with the images and the weights that it began with.
    ///
    /// # Errors
    /// [`Error::File`] naming the changed file.
    pub fn require_same(&self, job: &Job) -> Result<()> {
        let Position { data_sha256, weights_sha256, .. } = &self.position;
        require_same(data_sha256, weights_sha256.as_deref(), job)
    }
}

/// Checks by their hashes that the inputs of a run have not changed since it began.
///
/// # Errors
/// [`Error::File`] naming the changed file.
pub(crate) fn require_same(data_sha256: &str, weights_sha256: Option<&str>, job: &Job) -> Result<()> {
    let changed = |what: &str, path: &Path| {
        let reason = format!("{what} have changed since this run began, so it cannot go on; start a new run");
        Err(Error::File { path: path.to_owned(), reason })
    };
    let Job { settings, pretrained, photos, .. } = job;
    if data_sha256 != photos.sha256 {
        return changed("the photos", &settings.data);
    }
    if weights_sha256 != pretrained.weights_sha256.as_deref() {
        let path = settings.weights.file().or(settings.backbone.onnx_file());
        // Another version of the program may have other weights inside.
        return changed("these weights", path.unwrap_or(Path::new("the weights inside this program")));
    }
    Ok(())
}

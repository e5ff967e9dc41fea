//! The state of a training run between two steps: `last.ckpt`.

use std::collections::BTreeMap;
use std::path::Path;

use regraft_engine::Session;
use regraft_graph::StateDict;
use regraft_learn::history::Row;
use serde::{Deserialize, Serialize};

use crate::photos::prepare::Photos;
use crate::trainer::average::Average;
use crate::trainer::gradients::{Accumulation, Pending};
use crate::{Config, Error, Pretrained, Result};

/// The best epoch so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    /// From 1.
    pub epoch: usize,
    #[serde(alias = "val_acc")]
    pub val_score: f64,
}

/// Sums over the training samples of the epoch at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sums {
    pub loss: f64,
    pub weight: f64,
    /// Right answers: photos or, where they have labels, decisions about these.
    pub correct: u64,
    pub seen: u64,
}

/// Where a run is. Everything random is keyed by place, so no generator has a state to keep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Epochs finished.
    pub epoch: usize,
    /// Steps done in the next one.
    pub step: usize,
    /// Its sums.
    pub sums: Sums,
    /// Batches of a step that is not taken yet.
    #[serde(default)]
    pub pending: Pending,
    pub best: Option<Best>,
    pub rows: Vec<Row>,
    /// Time spent on the epoch at hand.
    pub epoch_seconds: f64,
    /// Time spent on the whole run.
    pub seconds: f64,
    /// The photos the run is about.
    pub data_sha256: String,
    /// The weights it started from; `None` for random ones.
    pub weights_sha256: Option<String>,
}

impl Position {
    pub fn start(data_sha256: String, weights_sha256: Option<String>) -> Self {
        Self {
            epoch: 0,
            step: 0,
            sums: Sums::default(),
            pending: Pending::default(),
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
    pub fn is_complete(&self, config: &Config) -> bool {
        let since_best = self.best.map_or(0, |best| self.epoch - best.epoch.min(self.epoch));
        self.epoch >= config.epochs || config.patience.is_some_and(|patience| since_best >= patience)
    }
}

/// Names in the file.
const STATE: &str = "state/";
const OPTIMIZER: &str = "optimizer/";
const AVERAGE: &str = "ema/";
const GRADIENT: &str = "gradient/";

/// What training changes, in a session and beside it.
pub(crate) struct Changing<'a> {
    pub session: &'a mut dyn Session,
    pub accumulation: &'a mut Accumulation,
    pub average: Option<&'a mut Average>,
}

/// Writes the run's state, whole or not at all.
///
/// # Errors
/// [`Error::Weights`] if the file cannot be written.
pub(crate) fn save(path: &Path, changing: Changing, progress: &Position) -> Result<()> {
    let Changing { session, accumulation, average } = changing;
    let (gradient, pending) = accumulation.state();
    let average = average.map(|average| average.state(session)).unwrap_or_default();
    let mut tensors = StateDict::new();
    for (prefix, state) in [
        (STATE, session.trained_state()),
        (OPTIMIZER, session.optimizer_state()),
        (AVERAGE, average),
        (GRADIENT, gradient),
    ] {
        tensors.extend(state.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
    }
    let progress = Position { pending, ..progress.clone() };
    let progress = serde_json::to_string(&progress).expect("progress has no JSON that can fail");
    let metadata = BTreeMap::from([("progress".to_string(), progress)]);
    Ok(regraft_weights::write_safetensors(path, &tensors, &metadata)?)
}

/// A checkpoint read back.
pub(crate) struct Loaded {
    pub position: Position,
    state: StateDict,
    optimizer: StateDict,
    average: StateDict,
    gradient: StateDict,
}

impl Loaded {
    /// # Errors
    /// [`Error::Weights`] if the file cannot be read, [`Error::File`] if it is no checkpoint.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong = |what: &str| Error::File {
            path: path.to_owned(),
            reason: format!("is not a checkpoint of a run: {what}; start the run again"),
        };
        let (tensors, metadata) = regraft_weights::read_safetensors_with_metadata(path)?;
        let progress = metadata.get("progress").ok_or_else(|| wrong("it has no progress"))?;
        let progress = serde_json::from_str(progress).map_err(|e| wrong(&e.to_string()))?;
        let mut parts = [STATE, OPTIMIZER, AVERAGE, GRADIENT].map(|prefix| (prefix, StateDict::new()));
        for (name, tensor) in tensors {
            let of = parts.iter_mut().find_map(|(prefix, part)| Some((name.strip_prefix(*prefix)?.to_owned(), part)));
            if let Some((name, part)) = of {
                part.insert(name, tensor);
            }
        }
        let [state, optimizer, average, gradient] = parts.map(|(_, part)| part);
        Ok(Self { position: progress, state, optimizer, average, gradient })
    }

    /// Checks that a run would go on with the photos and the weights that it began with.
    ///
    /// # Errors
    /// [`Error::File`] naming what has changed.
    pub fn require_same(&self, config: &Config, photos: &Photos, backbone: &Pretrained) -> Result<()> {
        let Position { data_sha256, weights_sha256, .. } = &self.position;
        require_same(data_sha256, weights_sha256.as_deref(), config, photos, backbone)
    }

    /// Puts the state into a session that was compiled as the run's was, and gives back where the run is.
    ///
    /// # Errors
    /// [`Error::Engine`] if a tensor is absent or misshapen.
    pub fn restore(self, changing: Changing, path: &Path) -> Result<Position> {
        let Changing { session, accumulation, average } = changing;
        session.restore_trained(&self.state)?;
        session.restore_optimizer(&self.optimizer)?;
        if let Some(average) = average {
            average.restore(session, &self.average)?;
        }
        if !accumulation.restore(session, self.gradient, self.position.pending) {
            let reason = "was written in the middle of a step, and its gradients are not those of this network; start \
                          the run again";
            return Err(Error::File { path: path.to_owned(), reason: reason.into() });
        }
        Ok(self.position)
    }
}

/// Makes sure that what a run began with, by the hashes that it has kept, is what it goes on with.
///
/// # Errors
/// [`Error::File`] saying what has changed.
pub(crate) fn require_same(
    data_sha256: &str,
    weights_sha256: Option<&str>,
    config: &Config,
    photos: &Photos,
    backbone: &Pretrained,
) -> Result<()> {
    let changed = |what: &str, path: &Path| {
        let reason = format!("{what} have changed since this run began, so it cannot go on; start a new run");
        Err(Error::File { path: path.to_owned(), reason })
    };
    if data_sha256 != photos.sha256 {
        return changed("the photos", &config.data);
    }
    if weights_sha256 != backbone.weights_sha256.as_deref() {
        let pretrained = config.weights.file().or(config.backbone.onnx_file());
        // Another version of the program may have other weights inside.
        return changed("these weights", pretrained.unwrap_or(Path::new("the weights inside this program")));
    }
    Ok(())
}

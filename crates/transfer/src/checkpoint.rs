//! The state of a training run between two steps: `last.ckpt`.

use std::collections::BTreeMap;
use std::path::Path;

use regraft_engine::Session;
use regraft_graph::StateDict;
use regraft_learn::history::Row;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The best epoch so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Best {
    /// From 1.
    pub epoch: usize,
    pub val_acc: f64,
}

/// Sums over the training samples of the epoch at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sums {
    pub loss: f64,
    pub weight: f64,
    pub correct: u64,
    pub seen: u64,
}

/// Where a run is. Everything random is keyed by place, so no generator has a state to keep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Epochs finished.
    pub epoch: usize,
    /// Steps done in the next one.
    pub step: usize,
    /// Its sums.
    pub sums: Sums,
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

impl Progress {
    pub fn start(data_sha256: String, weights_sha256: Option<String>) -> Self {
        Self {
            epoch: 0,
            step: 0,
            sums: Sums::default(),
            best: None,
            rows: Vec::new(),
            epoch_seconds: 0.0,
            seconds: 0.0,
            data_sha256,
            weights_sha256,
        }
    }
}

/// Names in the file.
const STATE: &str = "state/";
const OPTIMIZER: &str = "optimizer/";

/// Writes the run's state, whole or not at all.
///
/// # Errors
/// [`Error::Weights`] if the file cannot be written.
pub(crate) fn save(path: &Path, session: &dyn Session, progress: &Progress) -> Result<()> {
    let (optimizer, optimizer_steps) = session.optimizer_state();
    let mut tensors = StateDict::new();
    tensors.extend(session.trained_state().into_iter().map(|(name, tensor)| (format!("{STATE}{name}"), tensor)));
    tensors.extend(optimizer.into_iter().map(|(name, tensor)| (format!("{OPTIMIZER}{name}"), tensor)));
    let progress = serde_json::to_string(progress).expect("progress has no JSON that can fail");
    let metadata = BTreeMap::from([
        ("progress".to_string(), progress),
        ("optimizer_steps".to_string(), optimizer_steps.to_string()),
    ]);
    Ok(regraft_weights::write_safetensors(path, &tensors, &metadata)?)
}

/// A checkpoint read back.
pub(crate) struct Loaded {
    pub progress: Progress,
    state: StateDict,
    optimizer: StateDict,
    optimizer_steps: u64,
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
        let steps = metadata.get("optimizer_steps").and_then(|steps| steps.parse().ok());
        let optimizer_steps = steps.ok_or_else(|| wrong("it has no step count"))?;
        let (mut state, mut optimizer) = (StateDict::new(), StateDict::new());
        for (name, tensor) in tensors {
            if let Some(name) = name.strip_prefix(STATE) {
                state.insert(name.into(), tensor);
            } else if let Some(name) = name.strip_prefix(OPTIMIZER) {
                optimizer.insert(name.into(), tensor);
            }
        }
        Ok(Self { progress, state, optimizer, optimizer_steps })
    }

    /// Puts the state into a session that was compiled as the run's was.
    ///
    /// # Errors
    /// [`Error::Engine`] if a tensor is absent or misshapen.
    pub fn restore(&self, session: &mut dyn Session) -> Result<()> {
        session.restore_trained(&self.state)?;
        Ok(session.restore_optimizer(&self.optimizer, self.optimizer_steps)?)
    }
}

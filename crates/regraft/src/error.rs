//! What can go wrong between a folder of photos and a model.

use std::path::PathBuf;

use regraft_io::ErrorKind;

use crate::network::weights::INSTEAD_OF_PUBLISHED;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// From the photos.
    #[error(transparent)]
    Data(#[from] regraft_data::Error),
    /// From the network.
    #[error(transparent)]
    Graph(#[from] regraft_graph::Error),
    /// From the engine.
    #[error(transparent)]
    Engine(#[from] regraft_engine::Error),
    /// From files: those that could not be read or written.
    #[error(transparent)]
    Io(#[from] regraft_io::Error),
    /// From the weights.
    #[error(transparent)]
    Weights(regraft_weights::Error),
    /// From published weights: the registry, the cache, the environment.
    #[error(transparent)]
    Hub(#[from] regraft_hub::Error),
    /// Published weights could not be downloaded.
    #[error("{source}, {INSTEAD_OF_PUBLISHED}")]
    Download {
        /// Why not.
        source: regraft_hub::Error,
    },
    /// From an ONNX file.
    #[error(transparent)]
    Onnx(#[from] regraft_onnx::Error),
    /// A network from an ONNX file has nothing that could be replaced by a new head.
    #[error("{} cannot be grafted on: {reason}", path.display())]
    Headless {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The weights in a file are not those of the backbone.
    #[error("{} does not fit the backbone {backbone}: {reason}", path.display())]
    WrongWeights {
        /// The file.
        path: PathBuf,
        /// The backbone asked for.
        backbone: String,
        /// All differences by name.
        reason: String,
    },
    /// From the heads, schedules and metrics.
    #[error(transparent)]
    Learn(#[from] regraft_learn::Error),
    /// A setting lies outside its range, or contradicts another one.
    #[error("`{field}` is {value}; {allowed}")]
    Setting {
        /// Name of the setting.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is allowed, other settings in backquotes.
        allowed: String,
    },
    /// There is no setting of this name.
    #[error("there is no setting {name:?}")]
    NoSuchSetting {
        /// The name.
        name: String,
    },
    /// An environment variable has a value that is not allowed.
    #[error("{0}")]
    Environment(String),
    /// A file that belongs to a run or model cannot be read or does not hold what it should.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The disk has no room for what the run will write.
    #[error(
        "{} has {available} bytes free, but this run writes up to {needed}; free some space or choose another `output_dir`",
        path.display()
    )]
    NoRoom {
        /// The output folder.
        path: PathBuf,
        /// Bytes that are free.
        available: u64,
        /// Bytes that the run needs.
        needed: u64,
    },
    /// The output folder could not be written, and the best model was put elsewhere.
    #[error("{cause}; the best model so far was saved to {} instead", rescued.display())]
    Rescued {
        /// Why the output folder could not be written.
        cause: Box<Error>,
        /// Where the model is.
        rescued: PathBuf,
    },
    /// Training diverged.
    #[error(
        "{what} became {value} in epoch {epoch}: training has diverged; use a lower `lr` (now {lr}), and `bn` frozen if the batch norms of the weights are folded{}",
        kept(*best_epoch)
    )]
    Diverged {
        /// What is no longer finite.
        what: &'static str,
        /// What it is.
        value: f64,
        /// Epoch, from 1.
        epoch: usize,
        /// The learning rate in use.
        lr: f64,
        /// The epoch of the best model before that, which is kept, if there is one.
        best_epoch: Option<usize>,
    },
    /// A network answers a golden input with a number that is not finite, so no model can be made of it.
    #[error("the network answers with {value} where a finite number belongs; look at the weights it started from")]
    NotFinite {
        /// The answer.
        value: f32,
    },
    /// The caller asked to stop before there was anything to save.
    #[error("interrupted")]
    Interrupted,
}

impl From<regraft_weights::Error> for Error {
    fn from(error: regraft_weights::Error) -> Self {
        match error {
            regraft_weights::Error::Io(error) => Self::Io(error),
            other => Self::Weights(other),
        }
    }
}

impl Error {
    /// What kind of fault it is.
    pub fn kind(&self) -> ErrorKind {
        use regraft_graph::Error::{Graft, NoSuchArchitecture, NoSuchLayer};
        match self {
            Error::Setting { .. }
            | Error::NoSuchSetting { .. }
            | Error::Environment(_)
            | Error::Data(regraft_data::Error::Setting { .. })
            | Error::Graph(Graft { .. } | NoSuchArchitecture { .. } | NoSuchLayer { .. })
            | Error::Engine(regraft_engine::Error::Precision { .. }) => ErrorKind::Setting,
            Error::Learn(regraft_learn::Error::Setting { .. }) => ErrorKind::Setting,
            Error::Learn(regraft_learn::Error::Cancelled) => ErrorKind::Cancelled,
            Error::Hub(error) => error.kind(),
            Error::Interrupted | Error::Data(regraft_data::Error::Cancelled) => ErrorKind::Cancelled,
            Error::Io(regraft_io::Error::Write { .. }) | Error::NoRoom { .. } | Error::Rescued { .. } => {
                ErrorKind::Write
            }
            Error::Engine(regraft_engine::Error::Device { .. }) => ErrorKind::Device,
            Error::Engine(_) | Error::Diverged { .. } | Error::NotFinite { .. } => ErrorKind::Other,
            _ => ErrorKind::Input,
        }
    }

    /// Whether the caller asked to stop.
    pub fn is_interruption(&self) -> bool {
        self.kind() == ErrorKind::Cancelled
    }
}

fn kept(best_epoch: Option<usize>) -> String {
    best_epoch.map_or_else(String::new, |epoch| format!("; the best model so far, that of epoch {epoch}, is kept"))
}

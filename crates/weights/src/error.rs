//! What can go wrong with a weight file.

use std::io;
use std::path::{Path, PathBuf};

use crate::fit::Mismatch;

/// Why a weight file could not be read, used or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read or written.
    #[error(transparent)]
    Io(#[from] regraft_io::Error),
    /// The file's first bytes are those of no format known here.
    #[error(
        "{} is not a weight file: it begins with \"{start}\", which is neither safetensors nor a file that \
         torch.save wrote; was it downloaded whole?", path.display()
    )]
    Unrecognised {
        /// The file.
        path: PathBuf,
        /// Its first bytes, escaped.
        start: String,
    },
    /// The file's content contradicts its format.
    #[error("{} is damaged or incomplete: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What contradicts what.
        reason: String,
    },
    /// The file holds something that the weights of a network do not consist of.
    #[error("{} is refused: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What was found, by name, and what to do about it.
        reason: String,
    },
    /// The file's tensors are not those of the network.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
}

/// A fault found below the level that knows the file's path.
#[derive(Debug)]
pub(crate) enum Problem {
    Io(io::Error),
    Malformed(String),
    Refused(String),
}

impl Problem {
    pub(crate) fn malformed<T>(reason: impl Into<String>) -> Result<T, Self> {
        Err(Self::Malformed(reason.into()))
    }

    pub(crate) fn refused<T>(reason: impl Into<String>) -> Result<T, Self> {
        Err(Self::Refused(reason.into()))
    }

    pub(crate) fn at(self, path: &Path) -> Error {
        let path = path.to_path_buf();
        match self {
            Self::Io(source) => Error::Io(regraft_io::Error::Read { path, source }),
            Self::Malformed(reason) => Error::Malformed { path, reason },
            Self::Refused(reason) => Error::Refused { path, reason },
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Malformed("it ends before its content does".into()),
            _ => Self::Io(error),
        }
    }
}

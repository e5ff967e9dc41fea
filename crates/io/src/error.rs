//! Errors of reading and writing files.

use std::io;
use std::path::PathBuf;

use crate::ErrorKind;

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be opened or read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The file is larger than the caller allows.
    #[error("{} is larger than the {max_bytes} bytes that such a file may have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The largest size allowed.
        max_bytes: u64,
    },
    /// The file could not be written. The old file is still there; if only the flush of the folder failed, the complete new
    /// file is.
    #[error("cannot write {}: {source}{}", path.display(), needed(*bytes_needed))]
    Write {
        /// The file.
        path: PathBuf,
        /// Size of the complete file, if a full disk, a quota or a size limit was the reason.
        bytes_needed: Option<u64>,
        /// The operating system's reason.
        source: io::Error,
    },
}

impl Error {
    /// What kind of fault it is: [`ErrorKind::Write`] for a failed write, else [`ErrorKind::Input`].
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Write { .. } => ErrorKind::Write,
            Error::Read { .. } | Error::TooLarge { .. } => ErrorKind::Input,
        }
    }
}

fn needed(bytes: Option<u64>) -> String {
    bytes.map_or_else(String::new, |bytes| format!(" ({bytes} bytes are needed)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_tells_writing_from_reading() {
        let (path, source) = (PathBuf::from("results.csv"), || io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(Error::Read { path: path.clone(), source: source() }.kind(), ErrorKind::Input);
        assert_eq!(Error::TooLarge { path: path.clone(), max_bytes: 1 }.kind(), ErrorKind::Input);
        assert_eq!(Error::Write { path, bytes_needed: None, source: source() }.kind(), ErrorKind::Write);
    }
}

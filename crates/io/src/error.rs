//! What can go wrong with a file.

use std::io;
use std::path::PathBuf;

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system would not let the file be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The file is larger than anything that belongs there.
    #[error("{} is larger than the {max_bytes} bytes that such a file may have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound.
        max_bytes: u64,
    },
    /// The file could not be written. What was at its path before is still there, unless only the folder could not be
    /// flushed; then the new file is there as a whole.
    #[error("cannot write {}: {source}{}", path.display(), needed(*bytes_needed))]
    Write {
        /// The file.
        path: PathBuf,
        /// Bytes that the whole file needs, where a full disk, a quota or a limit was the reason.
        bytes_needed: Option<u64>,
        /// The operating system's reason.
        source: io::Error,
    },
}

fn needed(bytes: Option<u64>) -> String {
    bytes.map_or_else(String::new, |bytes| format!(" ({bytes} bytes are needed)"))
}

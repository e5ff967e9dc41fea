//! One process at a time downloads a file.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use regraft_progress::{Cancel, Progress};

use crate::{Error, Result};

/// How often a lock that is somebody else's is asked for again.
const INTERVAL: Duration = Duration::from_millis(100);

/// Waits until no other process downloads the file at `path`. The lock is held until it is dropped; the system drops
/// those of a process that has gone. Its file, `.NAME.lock`, stays: removing it could give two processes a lock each.
///
/// Where the file system knows no locks, there is none: two downloads at once then end with a wrong hash, at worst.
///
/// # Errors
/// [`Error::Cache`] if the lock's file cannot be made, [`Error::Interrupted`].
pub(crate) fn take(path: &Path, progress: &dyn Progress, cancel: &Cancel) -> Result<File> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let lock = path.with_file_name(format!(".{name}.lock"));
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&lock);
    let file = opened.map_err(|source| Error::Cache { what: "make", path: lock, source })?;
    let mut told = false;
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        if !std::mem::replace(&mut told, true) {
            progress.note(&format!("waiting for another process that is downloading {name}"));
        }
        if cancel.is_cancelled() {
            return Err(Error::Interrupted);
        }
        sleep(INTERVAL);
    }
    Ok(file)
}

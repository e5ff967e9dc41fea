//! Lock that lets one process at a time download a file.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use regraft_progress::{Cancel, Progress};

use crate::{Error, Result};

/// Pause between two tries to get a lock that another process holds.
const INTERVAL: Duration = Duration::from_millis(100);

/// Waits until no other process downloads the file at `path`, and locks it. Dropping the result, or the end of the
/// process, releases the lock.
///
/// The lock's file, `.NAME.lock`, stays: removing it could give two processes a lock each. Where the file system has no
/// locks, nothing is locked: two downloads at once then end with a wrong hash at worst.
///
/// # Errors
/// [`Error::CacheWrite`] if the lock's file cannot be created, [`Error::Cancelled`].
pub(crate) fn acquire(path: &Path, progress: &dyn Progress, cancel: &Cancel) -> Result<File> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let lock = path.with_file_name(format!(".{name}.lock"));
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&lock);
    let file = opened.map_err(|source| Error::CacheWrite { path: lock, source })?;
    let mut reported = false;
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        if !std::mem::replace(&mut reported, true) {
            progress.note(&format!("waiting for another process that is downloading {name}"));
        }
        cancel.check()?;
        sleep(INTERVAL);
    }
    Ok(file)
}

//! Removal of the temporary files that a killed process leaves.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

/// End of a temporary sibling's name, after `.NAME` and random characters.
pub(crate) const SUFFIX: &str = ".regraft.tmp";

/// Age from which a temporary file without a lock is stale: a writer creates its file a moment before it locks it.
const MIN_AGE: Duration = Duration::from_secs(5);

/// Removes the temporary files in `folder` that a killed [`write_atomically`](crate::write_atomically) left.
///
/// A file is removed only if it has the name of such a file, is a regular file, and is not locked: a writer holds the lock
/// until it renames the file. Files that cannot be inspected or removed stay.
pub fn remove_stale(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.file_name().is_some_and(is_temporary) && is_stale(&path) {
            let _ = fs::remove_file(&path);
        }
    }
}

fn is_temporary(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(SUFFIX))
}

fn is_stale(path: &Path) -> bool {
    let Ok(metadata) = fs::symlink_metadata(path) else { return false };
    let old = metadata.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > MIN_AGE));
    metadata.is_file() && old && File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn remove_stale_removes_only_abandoned_temporary_files() {
        let dir = tempfile::tempdir().unwrap();
        let old = SystemTime::now() - Duration::from_secs(60);
        let make = |name: &str| {
            let file = File::create(dir.path().join(name)).unwrap();
            file.set_modified(old).unwrap();
            file
        };
        make(".best.safetensorsAb3.regraft.tmp");
        for other in ["best.regraft.tmp", ".notes.tmp", "photo.jpg"] {
            make(other);
        }
        let held = make(".heldXy1.regraft.tmp");
        held.lock().unwrap();
        File::create(dir.path().join(".youngXy1.regraft.tmp")).unwrap();
        remove_stale(dir.path());
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(
            names,
            [".heldXy1.regraft.tmp", ".notes.tmp", ".youngXy1.regraft.tmp", "best.regraft.tmp", "photo.jpg"]
        );
    }
}

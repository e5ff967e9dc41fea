//! Files that are whole or not there.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::Builder;

use crate::{Error, stale};

/// Writes the file at `path`, whole or not at all: at every instant, even after a crash or a power failure, the whole new
/// file is there or the old one (or none, if there was none). After a power failure just behind this call it is the new
/// one where the system can flush a folder.
///
/// `content` writes to a temporary sibling, which is flushed to the disk and then takes the name `path`. If anything
/// fails the sibling is removed; what a kill leaves is for [`remove_stale`](crate::remove_stale). `content` must write the
/// same each time: where the disk is full it is called again to count what would have been needed. A link at `path` is
/// followed, and a file that is replaced keeps its permissions.
///
/// # Errors
/// [`Error::Write`] with the path and the reason.
pub fn write_atomically(path: &Path, content: impl Fn(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    replace(path, &content).map_err(|source| {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let full = matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge);
        let bytes_needed = if full { count(&content) } else { None };
        Error::Write { path: path.to_path_buf(), bytes_needed, source }
    })
}

fn replace(path: &Path, content: &impl Fn(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let old = match fs::metadata(path) {
        Ok(old) if !old.is_file() => {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "something that is no regular file is there"));
        }
        Ok(old) => Some(old),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let path = if old.is_some() { fs::canonicalize(path)? } else { path.to_path_buf() };
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))?;
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    let mut builder = Builder::new();
    builder.prefix(&prefix).suffix(stale::SUFFIX);
    // As any new file has them, less the umask; a temporary file would be private otherwise.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let temporary = builder.tempfile_in(&directory)?;
    // Tells the file from one that a killed process left, for `remove_stale`. Where files cannot be locked, nothing is lost.
    let _ = temporary.as_file().try_lock();
    if let Some(old) = old {
        temporary.as_file().set_permissions(old.permissions())?;
    }
    let mut writer = BufWriter::new(temporary.as_file());
    content(&mut writer)?;
    writer.flush()?;
    drop(writer);
    temporary.as_file().sync_all()?;
    temporary.persist(&path).map_err(|e| e.error)?;
    // The new name is in the directory, which has to reach the disk too; only Unix lets one open it.
    #[cfg(unix)]
    if_possible(File::open(&directory).and_then(|directory| directory.sync_all()))?;
    Ok(())
}

/// What flushing a directory came to, where that is a fault of the disk.
///
/// The file is written and has its name by then. Some file systems have no way to flush a directory, and one that may be
/// written to need not be readable, which it must be to be opened: there the name reaches the disk when the system sees
/// fit, and to call the file unwritten would be wrong.
#[cfg(unix)]
fn if_possible(flushed: io::Result<()>) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    flushed.or_else(|e| match e.kind() {
        Unsupported | InvalidInput | PermissionDenied => Ok(()),
        _ => Err(e),
    })
}

/// How many bytes `content` writes.
fn count(content: &impl Fn(&mut dyn Write) -> io::Result<()>) -> Option<u64> {
    struct Counter(u64);
    impl Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    content(&mut counter).ok().map(|()| counter.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn names(directory: &Path) -> Vec<String> {
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.csv");
        write_atomically(&path, |file| file.write_all(b"old")).unwrap();
        let error = write_atomically(&path, |file| {
            file.write_all(b"half of the ne")?;
            Err(io::Error::other("the pen broke"))
        });
        let message = error.unwrap_err().to_string();
        assert_eq!(message, format!("cannot write {}: the pen broke", path.display()));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(directory.path()), ["results.csv"]);
    }

    #[test]
    fn a_full_disk_is_reported_with_the_bytes_needed() {
        let directory = tempfile::tempdir().unwrap();
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge] {
            let calls = Cell::new(0);
            let error = write_atomically(&directory.path().join("model"), |file| {
                calls.set(calls.get() + 1);
                file.write_all(&[0; 300])?;
                if calls.get() == 1 { Err(kind.into()) } else { file.write_all(&[0; 45]) }
            })
            .unwrap_err();
            assert!(matches!(error, Error::Write { bytes_needed: Some(345), .. }), "{error:?}");
            assert!(error.to_string().ends_with("(345 bytes are needed)"), "{error}");
            assert!(names(directory.path()).is_empty());
        }
    }

    #[test]
    fn a_directory_is_not_replaced_by_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let error = write_atomically(directory.path(), |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
        let nowhere = directory.path().join("absent/model");
        assert!(matches!(write_atomically(&nowhere, |_| Ok(())), Err(Error::Write { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn a_directory_that_cannot_be_flushed_does_not_fail_the_write() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        // One may write here, but not look (who may do anything is let in all the same).
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o300)).unwrap();
        let path = directory.path().join("model");
        let written = write_atomically(&path, |file| file.write_all(b"1"));
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        written.unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"1");

        let came_to = |kind: io::ErrorKind| if_possible(Err(kind.into())).map_err(|e| e.kind());
        for kind in [io::ErrorKind::Unsupported, io::ErrorKind::InvalidInput, io::ErrorKind::PermissionDenied] {
            assert_eq!(came_to(kind), Ok(()));
        }
        for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull, io::ErrorKind::NotFound] {
            assert_eq!(came_to(kind), Err(kind));
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_permissions_kept() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("model"), directory.path().join("best"));
        write_atomically(&path, |file| file.write_all(b"1")).unwrap();
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path) & 0o600, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("model", &link).unwrap();
        write_atomically(&link, |file| file.write_all(b"2")).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!((fs::read(&path).unwrap().as_slice(), mode(&path)), (b"2".as_slice(), 0o640));
    }
}

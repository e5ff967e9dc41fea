//! Atomic writes: a file is complete or absent.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::Builder;

use crate::{Error, stale};

/// Writes the file at `path` atomically: at every moment, even after a crash or a power failure, `path` has the complete
/// new content or is as it was before.
///
/// `content` writes to a temporary sibling, which is flushed to disk and then renamed to `path`. If anything fails, the
/// sibling is removed; [`remove_stale`](crate::remove_stale) removes what a killed process leaves. If the disk is full,
/// `content` is called again to count the bytes it needs, so each call must write the same bytes. A symbolic link at
/// `path` is followed. A replaced file keeps its permissions. Where the system can flush a directory, the new file
/// survives a power failure from the moment this function returns.
///
/// # Errors
/// [`Error::Write`] with the path, the reason, and the bytes needed if the disk was full.
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
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it exists and is not a regular file"));
        }
        Ok(old) => Some(old),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let path = if old.is_some() { fs::canonicalize(path)? } else { path.to_path_buf() };
    let name =
        path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name"))?;
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    let mut builder = Builder::new();
    builder.prefix(&prefix).suffix(stale::SUFFIX);
    // The permissions of any new file, before the umask: temporary files are private by default.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let temporary = builder.tempfile_in(&directory)?;
    // The lock tells `remove_stale` that the file is in use. On a file system without locks, `remove_stale` cannot take one
    // either and removes nothing.
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
    // The new name is stored in the directory, so that must reach the disk too. Only Unix can open a directory.
    #[cfg(unix)]
    allow_unflushable(File::open(&directory).and_then(|directory| directory.sync_all()))?;
    Ok(())
}

/// The result of flushing a directory, without the errors that only say that the directory cannot be flushed.
///
/// Some file systems cannot flush a directory, and a writable directory need not be readable, which opening it requires.
/// The file is written and renamed by then, so a failure would be misleading.
#[cfg(unix)]
fn allow_unflushable(flushed: io::Result<()>) -> io::Result<()> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    flushed.or_else(|e| match e.kind() {
        Unsupported | InvalidInput | PermissionDenied => Ok(()),
        _ => Err(e),
    })
}

/// Number of bytes that `content` writes; `None` if it fails.
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
    fn failed_write_leaves_only_the_old_file() {
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
    fn full_disk_error_has_bytes_needed() {
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
    fn write_refuses_directory_and_missing_parent() {
        let directory = tempfile::tempdir().unwrap();
        let error = write_atomically(directory.path(), |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
        let nowhere = directory.path().join("absent/model");
        assert!(matches!(write_atomically(&nowhere, |_| Ok(())), Err(Error::Write { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn unflushable_directory_does_not_fail_write() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        // Writable but not readable. Root can still read it.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o300)).unwrap();
        let path = directory.path().join("model");
        let written = write_atomically(&path, |file| file.write_all(b"1"));
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        written.unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"1");

        let result = |kind: io::ErrorKind| allow_unflushable(Err(kind.into())).map_err(|e| e.kind());
        for kind in [io::ErrorKind::Unsupported, io::ErrorKind::InvalidInput, io::ErrorKind::PermissionDenied] {
            assert_eq!(result(kind), Ok(()));
        }
        for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull, io::ErrorKind::NotFound] {
            assert_eq!(result(kind), Err(kind));
        }
    }

    #[cfg(unix)]
    #[test]
    fn write_follows_links_and_keeps_permissions() {
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

//! A file that is still downloading: `NAME.part`, and beside it the validator that identifies the server's file.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use regraft_io::Sha256;

use crate::{Error, Result};

/// Path of the bytes that have arrived of the file at `path`.
pub(crate) fn part_path(path: &Path) -> PathBuf {
    with_suffix(path, ".part")
}

fn validator_path(part: &Path) -> PathBuf {
    with_suffix(part, ".etag")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Most bytes of a validator that is stored.
const MAX_VALIDATOR: usize = 1024;

/// The bytes of a file that have arrived.
///
/// They are in the file as soon as they are [written](Part::write), so the next download continues from there however
/// the program ends.
pub(crate) struct Part {
    path: PathBuf,
    file: File,
    hash: Sha256,
    len: u64,
    validator: Option<String>,
    resumed: bool,
}

impl Part {
    /// Opens the part of the file at `path` that an earlier download left, or creates an empty one. A part is emptied if it
    /// is longer than `max` bytes or has no validator, because then it cannot be continued.
    ///
    /// # Errors
    /// [`Error::CacheRead`], [`Error::CacheWrite`].
    pub fn open(path: &Path, max: u64) -> Result<Self> {
        let path = part_path(path);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(|source| Error::CacheWrite { path: path.clone(), source })?;
        let failed = |source| Error::CacheRead { path: path.clone(), source };
        let len = file.metadata().map_err(failed)?.len();
        let validator = if (1..=max).contains(&len) { read_validator(&validator_path(&path)) } else { None };
        let mut hash = Sha256::new();
        if validator.is_some() {
            hash.update_from(&mut file).map_err(failed)?;
        }
        let mut part = Self { path, file, hash, len, resumed: validator.is_some(), validator };
        if part.validator.is_none() {
            part.restart(None)?;
        }
        Ok(part)
    }

    /// Bytes that have arrived.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Validator of the server's file, an `ETag` or a date, for `If-Range`.
    pub fn validator(&self) -> Option<&str> {
        self.validator.as_deref()
    }

    /// Whether the bytes came with several responses, so that they may be of different files.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Records that the next bytes come with another response.
    pub fn resume(&mut self) {
        self.resumed = true;
    }

    /// Drops all bytes; the next ones are of the file with this validator.
    ///
    /// # Errors
    /// [`Error::CacheWrite`].
    pub fn restart(&mut self, validator: Option<&str>) -> Result<()> {
        // The bytes go first: if the program ends in between, none are left beside another file's validator.
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|source| self.write_error(source))?;
        (self.hash, self.len, self.resumed) = (Sha256::new(), 0, false);
        self.validator = validator.filter(|validator| validator.len() <= MAX_VALIDATOR).map(Into::into);
        let path = validator_path(&self.path);
        let written = match &self.validator {
            Some(validator) => fs::write(&path, validator),
            None => remove_if_exists(&path),
        };
        written.map_err(|source| Error::CacheWrite { path, source })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`Error::CacheWrite`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|source| self.write_error(source))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// SHA-256 of the bytes that have arrived, 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        self.hash.clone().finish_hex()
    }

    /// Renames the part to `path`, where the file is whole or absent at every instant.
    ///
    /// # Errors
    /// [`Error::CacheWrite`].
    pub fn finish(self, path: &Path) -> Result<()> {
        let moved = self.file.sync_all().and_then(|()| fs::rename(&self.path, path));
        moved.map_err(|source| self.write_error(source))?;
        let _ = fs::remove_file(validator_path(&self.path));
        // The new name is in the folder, which has to reach the disk too; only Unix can open one.
        #[cfg(unix)]
        if let Some(parent) = path.parent() {
            let synced = File::open(parent).and_then(|parent| parent.sync_all());
            synced.map_err(|source| Error::CacheWrite { path: parent.into(), source })?;
        }
        Ok(())
    }

    /// Removes the part and its validator.
    pub fn discard(self) {
        let Self { path, file, .. } = self;
        drop(file); // Windows cannot remove an open file.
        let _ = fs::remove_file(&path);
        let _ = fs::remove_file(validator_path(&path));
    }

    fn write_error(&self, source: io::Error) -> Error {
        Error::CacheWrite { path: self.path.clone(), source }
    }
}

fn read_validator(path: &Path) -> Option<String> {
    let mut validator = String::new();
    File::open(path).ok()?.take(MAX_VALIDATOR as u64).read_to_string(&mut validator).ok()?;
    // It is sent as a header, so a control character must not get in.
    (!validator.is_empty() && validator.chars().all(|c| c == ' ' || c.is_ascii_graphic())).then_some(validator)
}

fn remove_if_exists(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_continues_after_the_program_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.pth");
        let mut part = Part::open(&path, 100).unwrap();
        part.restart(Some("\"v1\"")).unwrap();
        part.write(b"hello ").unwrap();
        drop(part);
        let mut part = Part::open(&path, 100).unwrap();
        assert_eq!((part.len(), part.validator(), part.is_resumed()), (6, Some("\"v1\""), true));
        part.write(b"world").unwrap();
        let digest = part.digest();
        part.finish(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"hello world");
        assert_eq!(digest, regraft_io::sha256(b"hello world"));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn open_empties_a_part_that_cannot_be_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.pth");
        for (bytes, validator) in
            [("longer than ten", "\"v1\""), ("short", ""), ("short", "v1\r\nHost: x"), ("", "\"v1\"")]
        {
            fs::write(part_path(&path), bytes).unwrap();
            fs::write(validator_path(&part_path(&path)), validator).unwrap();
            let part = Part::open(&path, 10).unwrap();
            assert_eq!((part.len(), part.validator(), part.is_resumed()), (0, None, false), "{bytes} {validator:?}");
            assert_eq!(fs::read(part_path(&path)).unwrap(), b"");
            assert!(!validator_path(&part_path(&path)).exists());
        }
    }
}

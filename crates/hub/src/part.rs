//! A file that is still arriving: `NAME.part`, beside it what tells the server which file it is a part of.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// The place of a file that is still arriving.
pub(crate) fn partial(path: &Path) -> PathBuf {
    with_ending(path, ".part")
}

/// The longest `ETag` or date that is kept.
const LONGEST_TAG: usize = 1024;

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

/// The bytes of a file that have arrived. They are in the file as soon as they are [written](Part::write), so that
/// whatever ends the program, the next download goes on from there.
pub(crate) struct Part {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    len: u64,
    tag: Option<String>,
    /// Whether some of the bytes came with another answer than the last.
    resumed: bool,
}

impl Part {
    /// Opens the part of the file at `path` that an earlier download left, or makes an empty one. A part that is longer
    /// than `most` bytes, or of which nobody knows what it is a part of, is emptied.
    ///
    /// # Errors
    /// [`Error::Cache`] naming the file.
    pub fn open(path: &Path, most: u64) -> Result<Self> {
        let path = partial(path);
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(|source| Error::Cache { what: "write", path: path.clone(), source })?;
        let failed = |source| Error::Cache { what: "read", path: path.clone(), source };
        let len = file.metadata().map_err(failed)?.len();
        let tag = if (1..=most).contains(&len) { read_tag(&tag_path(&path)) } else { None };
        let hasher = if tag.is_some() { hash(&mut file).map_err(failed)? } else { Sha256::new() };
        let mut part = Self { path, file, hasher, len, resumed: tag.is_some(), tag };
        if part.tag.is_none() {
            part.restart(None)?;
        }
        Ok(part)
    }

    /// How many bytes have arrived.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// What the server called the file: an `ETag` or a date, for `If-Range`.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Whether some of the bytes came with another answer than the last, so that they may be of another file.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// Says that more bytes will come with a new answer.
    pub fn resume(&mut self) {
        self.resumed = true;
    }

    /// Forgets what has arrived; what comes now is of the file that the server calls `tag`.
    ///
    /// # Errors
    /// [`Error::Cache`] naming the file.
    pub fn restart(&mut self, tag: Option<&str>) -> Result<()> {
        // Emptied first: whatever ends the program in between, no bytes stand beside another file's tag.
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|source| self.failed(source))?;
        (self.hasher, self.len, self.resumed) = (Sha256::new(), 0, false);
        self.tag = tag.filter(|tag| tag.len() <= LONGEST_TAG).map(Into::into);
        let path = tag_path(&self.path);
        let written = match &self.tag {
            Some(tag) => fs::write(&path, tag),
            None => absent_is_fine(fs::remove_file(&path)),
        };
        written.map_err(|source| Error::Cache { what: "write", path, source })
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// [`Error::Cache`] naming the file.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|source| self.failed(source))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// SHA-256 of what has arrived, as 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        hex(&self.hasher.clone().finalize())
    }

    /// Moves what has arrived to its place, where it is whole or absent at every instant.
    ///
    /// # Errors
    /// [`Error::Cache`] naming the file.
    pub fn finish(self, path: &Path) -> Result<()> {
        let moved = self.file.sync_all().and_then(|()| fs::rename(&self.path, path));
        moved.map_err(|source| self.failed(source))?;
        let _ = fs::remove_file(tag_path(&self.path));
        // The new name is in the directory, which has to reach the disk too; only Unix lets one open it.
        #[cfg(unix)]
        if let Some(parent) = path.parent() {
            let synced = File::open(parent).and_then(|parent| parent.sync_all());
            synced.map_err(|source| Error::Cache { what: "write", path: parent.into(), source })?;
        }
        Ok(())
    }

    /// Removes what has arrived.
    pub fn discard(self) {
        let Self { path, file, .. } = self;
        drop(file); // Windows removes no open file
        let _ = fs::remove_file(&path);
        let _ = fs::remove_file(tag_path(&path));
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Cache { what: "write", path: self.path.clone(), source }
    }
}

fn tag_path(part: &Path) -> PathBuf {
    with_ending(part, ".etag")
}

fn read_tag(path: &Path) -> Option<String> {
    let mut tag = String::new();
    File::open(path).ok()?.take(LONGEST_TAG as u64).read_to_string(&mut tag).ok()?;
    // It goes into a header.
    (!tag.is_empty() && tag.chars().all(|c| c == ' ' || c.is_ascii_graphic())).then_some(tag)
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// Hashes a file from where it stands to its end.
pub(crate) fn hash(file: &mut File) -> io::Result<Sha256> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(hasher),
            Ok(n) => hasher.update(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_what_ends_the_program() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.pth");
        let mut part = Part::open(&path, 100).unwrap();
        part.restart(Some("\"v1\"")).unwrap();
        part.write(b"hello ").unwrap();
        drop(part);
        let mut part = Part::open(&path, 100).unwrap();
        assert_eq!((part.len(), part.tag(), part.is_resumed()), (6, Some("\"v1\""), true));
        part.write(b"world").unwrap();
        let digest = part.digest();
        part.finish(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"hello world");
        assert_eq!(digest, hex(&Sha256::digest(b"hello world")));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else stays");
    }

    #[test]
    fn what_cannot_be_gone_on_with_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.pth");
        for (bytes, tag) in [("longer than ten", "\"v1\""), ("short", ""), ("short", "v1\r\nHost: x"), ("", "\"v1\"")] {
            fs::write(partial(&path), bytes).unwrap();
            fs::write(tag_path(&partial(&path)), tag).unwrap();
            let part = Part::open(&path, 10).unwrap();
            assert_eq!((part.len(), part.tag(), part.is_resumed()), (0, None, false), "{bytes} {tag:?}");
            assert_eq!(fs::read(partial(&path)).unwrap(), b"");
            assert!(!tag_path(&partial(&path)).exists());
        }
    }
}

//! SHA-256 and hexadecimal.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::Digest;

use crate::Error;

/// A running SHA-256.
#[derive(Clone, Default)]
pub struct Sha256(sha2::Sha256);

impl Sha256 {
    /// The hash of no bytes yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds all bytes of a reader from where it stands.
    ///
    /// # Errors
    /// The reader's.
    pub fn update_from(&mut self, mut reader: impl Read) -> io::Result<()> {
        let mut chunk = vec![0; 1 << 16];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(n) => self.update(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The digest.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    /// The digest as 64 lower-case hexadecimal digits.
    pub fn finish_hex(self) -> String {
        hex(&self.finish())
    }
}

/// The SHA-256 of bytes as 64 lower-case hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(bytes);
    hash.finish_hex()
}

/// The SHA-256 of the file at `path` as 64 lower-case hexadecimal digits.
///
/// # Errors
/// [`Error::Read`].
pub fn sha256_file(path: &Path) -> Result<String, Error> {
    let mut hash = Sha256::new();
    File::open(path)
        .and_then(|file| hash.update_from(file))
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(hash.finish_hex())
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_is_the_standards() {
        // FIPS 180-4, the example of one block.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), expected);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(sha256_file(&path).unwrap(), expected);
        let message = sha256_file(&dir.path().join("absent")).unwrap_err().to_string();
        assert!(message.contains("cannot read") && message.contains("absent"), "{message}");
    }
}

//! SHA-256 hashes as hexadecimal digits.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::Digest;

use crate::Error;

/// An incremental SHA-256 hash.
#[derive(Clone, Default)]
pub struct Sha256(sha2::Sha256);

impl Sha256 {
    /// Starts a hash.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds the remaining bytes of `reader`.
    ///
    /// # Errors
    /// Errors of `reader`.
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

    /// Returns the digest.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    /// Returns the digest as 64 lower-case hexadecimal digits.
    pub fn finish_hex(self) -> String {
        hex(&self.finish())
    }
}

/// Hashes `bytes`; the result is 64 lower-case hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(bytes);
    hash.finish_hex()
}

/// Hashes the file at `path` in constant memory; the result is 64 lower-case hexadecimal digits.
///
/// # Errors
/// [`Error::Read`] if the file cannot be read.
pub fn sha256_file(path: &Path) -> Result<String, Error> {
    let mut hash = Sha256::new();
    File::open(path)
        .and_then(|file| hash.update_from(file))
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(hash.finish_hex())
}

/// Formats bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_matches_fips_180_4() {
        // The one-block example of FIPS 180-4.
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

//! The fingerprint of a file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Problem};

/// The SHA-256 of the file at `path` as 64 lower-case hexadecimal digits.
///
/// # Errors
/// [`Error::Read`] if the file cannot be read.
pub fn sha256(path: &Path) -> Result<String, Error> {
    let digest = || -> std::io::Result<_> {
        let mut file = File::open(path)?;
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; 1 << 16];
        loop {
            match file.read(&mut chunk) {
                Ok(0) => return Ok(hasher.finalize()),
                Ok(n) => hasher.update(&chunk[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    };
    Ok(hexadecimal(&digest().map_err(|e| Problem::Io(e).at(path))?))
}

/// The SHA-256 of bytes, in the same form.
pub fn sha256_of(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

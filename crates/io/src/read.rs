//! Reading files of bounded size.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::Error;

/// Reads the file at `path`, which may have at most `max_bytes` bytes.
///
/// # Errors
/// [`Error::Read`] if the file cannot be read, [`Error::TooLarge`] if it is larger.
pub fn read_bounded(path: &Path, max_bytes: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    // Reading one byte more than allowed shows whether the file is too large.
    File::open(path)
        .and_then(|file| file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > max_bytes {
        return Err(Error::TooLarge { path: path.to_owned(), max_bytes });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_bounded_refuses_larger_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read_bounded(&path, 10).unwrap(), [7; 10]);
        let message = read_bounded(&path, 9).unwrap_err().to_string();
        assert!(message.contains("file is larger than the 9 bytes"), "{message}");
    }
}

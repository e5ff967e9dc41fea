//! The content of a dataset as one hash, for a model's provenance.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use regraft_progress::Cancel;
use sha2::{Digest, Sha256};

use crate::{Dataset, Error, Result, Sample, verify::check};

/// What a dataset contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// SHA-256 over the classes and, for each sample, its part, target, path and content; in hexadecimal.
    pub sha256: String,
    /// Validation photos whose bytes are also in the training part: the accuracy measured on them says
    /// nothing.
    pub duplicates: Vec<Duplicate>,
}

/// The same bytes in both parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duplicate {
    /// The training photo, the first if there are several.
    pub train: PathBuf,
    /// The validation photo.
    pub val: PathBuf,
}

/// Reads every file and hashes the dataset. Moving its folder elsewhere changes nothing; adding, removing,
/// renaming or changing a photo, or moving it to the other part, does. `cancel`, set to true, ends the work after the
/// file at hand.
///
/// # Errors
/// [`Error::NotFound`] or [`Error::Read`] naming the file, [`Error::Cancelled`] if `cancel` said so.
pub fn fingerprint(dataset: &Dataset, cancel: &Cancel) -> Result<Fingerprint> {
    let mut whole = Sha256::new();
    let mut text = |bytes: &[u8]| {
        // The length first, so that no two lists of texts give the same stream.
        whole.update((bytes.len() as u64).to_le_bytes());
        whole.update(bytes);
    };
    text(&(dataset.classes.len() as u64).to_le_bytes());
    dataset.classes.iter().for_each(|class| text(class.as_bytes()));
    let mut train_by_content: HashMap<[u8; 32], &Path> = HashMap::new();
    let mut duplicates = Vec::new();
    for (part, samples) in [("train", &dataset.train), ("val", &dataset.val)] {
        for Sample { path, target } in samples {
            check(cancel)?;
            let content = hash_file(path)?;
            let relative = path.strip_prefix(&dataset.root).unwrap_or(path);
            text(part.as_bytes());
            text(&target.bytes());
            // Components, because systems differ in what separates them.
            text(&(relative.components().count() as u64).to_le_bytes());
            relative.components().for_each(|name| text(name.as_os_str().as_encoded_bytes()));
            text(&content);
            if part == "train" {
                train_by_content.entry(content).or_insert(path);
            } else if let Some(&train) = train_by_content.get(&content) {
                duplicates.push(Duplicate { train: train.to_owned(), val: path.clone() });
            }
        }
    }
    let sha256 = whole.finalize().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}"); // writing to a string cannot fail
        hex
    });
    Ok(Fingerprint { sha256, duplicates })
}

fn hash_file(path: &Path) -> Result<[u8; 32]> {
    let failed = |source| Error::read(path, source);
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hash.finalize().into()),
            n => hash.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SplitOptions;
    use std::fs;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (i, class) in ["train/a", "train/b", "val/a", "val/b"].into_iter().enumerate() {
            fs::create_dir_all(dir.path().join(class)).unwrap();
            fs::write(dir.path().join(class).join("1.pgm"), format!("P5 1 1 255\n{i}")).unwrap();
        }
        dir
    }

    fn open(root: &Path) -> Dataset {
        Dataset::open(root, &SplitOptions::default()).unwrap().0
    }

    fn of(root: &Path) -> Fingerprint {
        fingerprint(&open(root), &Cancel::new()).unwrap()
    }

    #[test]
    fn it_tells_what_changed_from_where_it_lies() {
        let (dir, twin) = (folder(), folder());
        let original = of(dir.path());
        assert_eq!(original, of(twin.path()));
        assert_eq!((original.sha256.len(), original.duplicates.len()), (64, 0));

        let changed = |change: &dyn Fn(&Path)| {
            let dir = folder();
            change(dir.path());
            of(dir.path()).sha256
        };
        let hashes = [
            original.sha256,
            changed(&|root| fs::write(root.join("train/a/1.pgm"), "P5 1 1 255\nx").unwrap()),
            changed(&|root| fs::rename(root.join("train/a/1.pgm"), root.join("train/a/2.pgm")).unwrap()),
            changed(&|root| fs::write(root.join("train/a/2.pgm"), "P5 1 1 255\nx").unwrap()),
            changed(&|root| {
                fs::rename(root.join("train/b"), root.join("train/c")).unwrap();
                fs::rename(root.join("val/b"), root.join("val/c")).unwrap();
            }),
        ];
        for (i, hash) in hashes.iter().enumerate() {
            assert!(!hashes[..i].contains(hash), "change {i} went unnoticed");
        }
    }

    #[test]
    fn it_can_be_cancelled() {
        let dir = folder();
        let cancelled = Cancel::new();
        cancelled.cancel();
        let result = fingerprint(&open(dir.path()), &cancelled);
        assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    }

    #[test]
    fn photos_in_both_parts_are_found() {
        let dir = folder();
        fs::copy(dir.path().join("train/b/1.pgm"), dir.path().join("val/a/copy.pgm")).unwrap();
        let expected = Duplicate { train: dir.path().join("train/b/1.pgm"), val: dir.path().join("val/a/copy.pgm") };
        assert_eq!(of(dir.path()).duplicates, [expected]);
    }
}

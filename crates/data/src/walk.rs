//! The photos that a person names on a command line.

use std::path::{Path, PathBuf};

use crate::dataset::collect_photos;
use crate::{Findings, Result};

/// The files that `paths` name, for prediction: a file stands for itself, whatever it is (so that a wrong
/// one is answered with an error of its own), and so does a path where nothing lies; a folder stands for
/// the photos in it and in the folders inside, sorted by path.
///
/// # Errors
/// [`crate::Error::Read`] if a folder cannot be listed.
pub fn image_paths(paths: &[impl AsRef<Path>]) -> Result<(Vec<PathBuf>, Findings)> {
    let (mut photos, mut findings) = (Vec::new(), Findings::default());
    for path in paths.iter().map(AsRef::as_ref) {
        if path.is_dir() {
            photos.extend(collect_photos(path, &mut findings)?);
        } else {
            photos.push(path.to_owned());
        }
    }
    Ok((photos, findings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn folders_are_walked_in_order_and_files_taken_as_given() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("b/inner")).unwrap();
        for name in ["b/2.pgm", "b/inner/1.pgm", "b/10.pgm", "b/.hidden.pgm", "z.pgm"] {
            fs::write(root.join(name), "P5 1 1 255\n.").unwrap();
        }
        fs::write(root.join("b/notes.txt"), "text").unwrap();
        let (paths, findings) = image_paths(&[root.join("z.pgm"), root.join("missing.jpg"), root.join("b")]).unwrap();
        let expected = ["z.pgm", "missing.jpg", "b/10.pgm", "b/2.pgm", "b/inner/1.pgm"];
        assert_eq!(paths, expected.map(|name| root.join(name)));
        assert_eq!(findings.items.len(), 2, "{findings:?}");
    }
}

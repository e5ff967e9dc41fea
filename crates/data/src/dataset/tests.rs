//! Folders as people have them.

use super::*;
use std::fs;
use tempfile::TempDir;

/// A folder with these files; `.pgm` files are one-pixel photos, all others hold text.
fn folder(files: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if file.ends_with('/') {
            fs::create_dir_all(&path).unwrap();
        } else {
            fs::write(&path, if file.ends_with(".pgm") { "P5 1 1 255\n." } else { "some text" }).unwrap();
        }
    }
    dir
}

fn open(dir: &TempDir) -> Result<(Dataset, Findings)> {
    Dataset::open(dir.path(), &SplitOptions::default())
}

fn open_error(files: &[&str]) -> String {
    let dir = folder(files);
    let message = open(&dir).unwrap_err().to_string();
    message.replace(&dir.path().display().to_string(), "DATA")
}

fn names(dir: &TempDir, samples: &[Sample]) -> Vec<(String, usize)> {
    let relative = |path: &Path| path.strip_prefix(dir.path()).unwrap().display().to_string();
    samples.iter().map(|sample| (relative(&sample.path), sample.target.indices()[0])).collect()
}

#[test]
fn train_and_val_folders_give_the_parts() {
    let dir = folder(&[
        "train/b/1.pgm",
        "train/B/2.pgm",
        "train/a/in/side/3.pgm",
        "val/a/4.pgm",
        "val/b/5.pgm",
        "val/B/6.pgm",
    ]);
    let (dataset, findings) = open(&dir).unwrap();
    assert_eq!(dataset.classes, ["B", "a", "b"], "byte order");
    assert_eq!(
        names(&dir, &dataset.train),
        [("train/B/2.pgm".into(), 0), ("train/a/in/side/3.pgm".into(), 1), ("train/b/1.pgm".into(), 2)]
    );
    assert_eq!(
        names(&dir, &dataset.val),
        [("val/B/6.pgm".into(), 0), ("val/a/4.pgm".into(), 1), ("val/b/5.pgm".into(), 2)]
    );
    assert_eq!(findings, Findings::default());
}

#[test]
fn test_serves_as_validation_with_a_note() {
    let dir = folder(&["Train/a/1.pgm", "Train/b/2.pgm", "test/a/3.pgm", "test/b/4.pgm", "readme.txt"]);
    let (dataset, findings) = open(&dir).unwrap();
    assert_eq!(dataset.val.len(), 2);
    let notes: Vec<_> =
        findings.items.iter().map(|f| (f.path.file_name().unwrap().to_str().unwrap(), f.kind)).collect();
    assert_eq!(notes, [("readme.txt", FindingKind::Layout), ("test", FindingKind::Layout)]);
}

#[test]
fn val_is_preferred_to_test() {
    let dir = folder(&["train/a/1.pgm", "train/b/2.pgm", "test/a/3.pgm", "val/a/4.pgm", "val/b/5.pgm"]);
    let (dataset, findings) = open(&dir).unwrap();
    assert_eq!(names(&dir, &dataset.val), [("val/a/4.pgm".into(), 0), ("val/b/5.pgm".into(), 1)]);
    assert_eq!(findings.items.len(), 1, "test/ is named: {findings:?}");
}

#[test]
fn train_alone_is_divided() {
    let dir = folder(&["train/a/1.pgm", "train/a/2.pgm", "train/b/3.pgm", "train/b/4.pgm"]);
    let (dataset, findings) = open(&dir).unwrap();
    assert_eq!((dataset.train.len(), dataset.val.len(), findings.items.len()), (2, 2, 1));
}

#[test]
fn a_class_may_be_called_train() {
    let dir = folder(&["train/1.pgm", "train/2.pgm", "bus/3.pgm", "bus/4.pgm"]);
    assert_eq!(open(&dir).unwrap().0.classes, ["bus", "train"]);
}

#[test]
fn one_folder_is_divided_by_class_and_seed() {
    let files: Vec<String> = (0..10).flat_map(|i| [format!("a/{i}.pgm"), format!("b/{i}.pgm")]).collect();
    let mut files: Vec<&str> = files.iter().map(String::as_str).collect();
    files.push("c/only.pgm");
    let dir = folder(&files);
    let (dataset, findings) = open(&dir).unwrap();
    let per_class =
        |samples: &[Sample]| [0, 1, 2].map(|class| samples.iter().filter(|s| s.target == Target::Class(class)).count());
    assert_eq!((per_class(&dataset.train), per_class(&dataset.val)), ([8, 8, 1], [2, 2, 0]));
    assert!(dataset.train.is_sorted_by_key(|s| &s.path) && dataset.val.is_sorted_by_key(|s| &s.path));
    assert_eq!(findings.count(FindingKind::Layout), 1, "the class with one photo is named");
    assert!(dataset.train.iter().all(|s| !dataset.val.contains(s)));

    let other = Dataset::open(dir.path(), &SplitOptions { seed: 1, ..Default::default() }).unwrap().0;
    assert_ne!(other.val, dataset.val);
    // A further class leaves the draw of the others alone.
    fs::create_dir(dir.path().join("aa")).unwrap();
    fs::copy(dir.path().join("a/0.pgm"), dir.path().join("aa/0.pgm")).unwrap();
    let wider = open(&dir).unwrap().0;
    assert_eq!(
        wider.val.iter().map(|s| &s.path).collect::<Vec<_>>(),
        dataset.val.iter().map(|s| &s.path).collect::<Vec<_>>()
    );
}

#[test]
fn what_is_no_photo_is_passed_over_and_named() {
    let dir = folder(&[
        "a/1.pgm",
        "a/2.pgm",
        "a/.DS_Store",
        "a/Thumbs.db",
        "a/notes.txt",
        "b/3.pgm",
        "b/4.pgm",
        "b/.ipynb_checkpoints/3.pgm",
        ".ipynb_checkpoints/",
        "__MACOSX/a/1.pgm",
        "empty/",
        "loose.pgm",
    ]);
    fs::write(dir.path().join("b/photo.jpg"), b"\0\0\0\x18ftypheic\0\0\0\0").unwrap();
    let (dataset, findings) = open(&dir).unwrap();
    assert_eq!(dataset.classes, ["a", "b"]);
    assert_eq!(dataset.train.len() + dataset.val.len(), 4);
    let count = |kind| findings.count(kind);
    assert_eq!(
        [
            count(FindingKind::Hidden),
            count(FindingKind::NotAnImage),
            count(FindingKind::EmptyFolder),
            count(FindingKind::Layout)
        ],
        [5, 2, 1, 1],
        "{findings:#?}"
    );
    let heic = findings.items.iter().find(|f| f.path.ends_with("b/photo.jpg")).unwrap().to_string();
    assert!(heic.contains("a HEIC picture"), "{heic}");
}

#[test]
fn unusable_folders_say_what_to_do() {
    assert_eq!(
        open_error(&["1.pgm", "2.pgm", "notes.txt"]),
        "DATA has no class folders, but 2 photos lie directly in it; put the photos of each class into a folder named after the class"
    );
    assert_eq!(
        open_error(&["a/1.pgm", "b/"]),
        "DATA has only one class with photos, `a`; add a second class folder beside it, or, if the class folders lie inside `a`, give that folder"
    );
    assert!(open_error(&["a/", "b/notes.txt"]).starts_with("DATA holds no photos"));
    assert!(open_error(&[]).starts_with("DATA holds no photos"));
    assert_eq!(
        open_error(&["train/a/1.pgm", "train/b/2.pgm", "train/c/3.pgm", "val/a/4.pgm", "val/b/"]),
        "DATA/val has no photos of `b`, `c`, which the training folder has; add some, or remove the class from the training folder"
    );
    assert_eq!(
        open_error(&["train/a/1.pgm", "train/b/2.pgm", "val/a/4.pgm", "val/b/3.pgm", "val/c/3.pgm"]),
        "DATA/val has `c`, which the training folder does not have; its classes are `a`, `b`"
    );

    let dir = folder(&["file.txt"]);
    let options = SplitOptions::default();
    assert!(matches!(Dataset::open(&dir.path().join("nowhere"), &options), Err(Error::NotFound { .. })));
    assert!(matches!(Dataset::open(&dir.path().join("file.txt"), &options), Err(Error::NotAFolder { .. })));
    for val_fraction in [0.0, 1.0, -0.5, f64::NAN] {
        let result = Dataset::open(dir.path(), &SplitOptions { val_fraction, seed: 0 });
        assert!(matches!(result, Err(Error::Setting { what: "val_fraction", .. })));
    }
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_not_in_circles() {
    let dir = folder(&["a/1.pgm", "a/2.pgm", "elsewhere/3.pgm", "elsewhere/4.pgm"]);
    std::os::unix::fs::symlink(dir.path().join("elsewhere"), dir.path().join("b")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("a"), dir.path().join("a/again")).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("a/dangling.pgm")).unwrap();
    let (dataset, findings) = open(&dir).unwrap();
    assert_eq!(dataset.classes, ["a", "b", "elsewhere"]);
    assert_eq!(dataset.train.len() + dataset.val.len(), 6);
    assert_eq!(findings.count(FindingKind::Layout), 1);
    assert_eq!(findings.count(FindingKind::Unreadable), 1, "{findings:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_class_name_must_be_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let dir = folder(&["a/1.pgm"]);
    let bad = dir.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    fs::create_dir(&bad).unwrap();
    fs::copy(dir.path().join("a/1.pgm"), bad.join("1.pgm")).unwrap();
    assert!(matches!(open(&dir), Err(Error::ClassName { .. })));
}

#[test]
fn evaluation_matches_classes_by_name() {
    let classes = ["a", "b", "c"].map(String::from);
    let dir = folder(&["c/1.pgm", "b/2.pgm"]);
    let (samples, findings) = open_eval(dir.path(), Task::Classes, &classes).unwrap();
    assert_eq!(names(&dir, &samples), [("b/2.pgm".into(), 1), ("c/1.pgm".into(), 2)]);
    assert_eq!(findings.count(FindingKind::Layout), 1, "class a has no photos");

    let dir = folder(&["train/a/0.pgm", "train/x/9.pgm", "val/a/1.pgm", "val/b/2.pgm", "val/c/3.pgm"]);
    let (samples, _) = open_eval(dir.path(), Task::Classes, &classes).unwrap();
    assert_eq!(samples.len(), 3, "the validation part is used");

    let dir = folder(&["a/1.pgm", "d/2.pgm"]);
    let error = open_eval(dir.path(), Task::Classes, &classes).unwrap_err().to_string();
    assert!(error.ends_with("has `d`, which the model does not have; its classes are `a`, `b`, `c`"), "{error}");
    assert!(matches!(open_eval(folder(&["a/"]).path(), Task::Classes, &classes), Err(Error::NoPhotos { .. })));
    assert!(matches!(open_eval(folder(&["1.pgm"]).path(), Task::Classes, &classes), Err(Error::NoClasses { .. })));
}

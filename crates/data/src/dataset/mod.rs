//! A folder of photos, or a list of them, as samples with their answers.

mod manifest;
mod scan;
mod split;
mod target;

use std::path::{Path, PathBuf};

use crate::{Error, FindingKind, Findings, Result};
use manifest::Manifest;
pub(crate) use scan::collect_photos;
use scan::{ClassFolder, subfolder};
pub use target::{Target, Task};

/// One photo and the right answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The file.
    pub path: PathBuf,
    /// The answer.
    pub target: Target,
}

/// The photos of a folder, in a training and a validation part.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// The folder that was opened, or that of the manifest.
    pub root: PathBuf,
    /// What is asked about the photos.
    pub task: Task,
    /// Names of the classes (at least two) or labels in byte order, of which a target holds indices; what the number is
    /// called, if it is one.
    pub classes: Vec<String>,
    /// The training samples, sorted by path.
    pub train: Vec<Sample>,
    /// The validation samples, sorted by path.
    pub val: Vec<Sample>,
}

/// How to divide a folder that has no validation part of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SplitOptions {
    /// Fraction of each class's photos set aside for validation, between 0 and 1. Default: 0.2.
    pub val_fraction: f64,
    /// Seed of the draw. Default: 0.
    pub seed: u64,
}

impl Default for SplitOptions {
    fn default() -> Self {
        Self { val_fraction: 0.2, seed: 0 }
    }
}

/// Names a validation part may have, as a folder and in a manifest's column `split`; the preferred first.
const VAL_NAMES: [&str; 4] = ["val", "valid", "validation", "test"];

impl Dataset {
    /// Looks at every folder and file beneath `root` and gathers the samples. No photo is decoded yet:
    /// that is [`Dataset::verify`].
    ///
    /// `root` holds either `train/` and `val/` (or `valid/`, `validation/`, `test/`), each with one folder
    /// per class, or the class folders themselves, which are then divided: in each class `val_fraction` of
    /// the photos, rounded, go to validation, but at least one to either part if the class has two. The
    /// draw is keyed by seed and class name, so other classes don't change it. Photos in folders inside a
    /// class folder belong to the class. Symbolic links are followed. A file is a photo by its content.
    ///
    /// `root` may also be a CSV file that names photos and what is on them: a column `path`, one of `label`, `labels` (with
    /// `|` between them), `value` or one of 0 and 1 for each label, and perhaps `split` (`train` or `val`).
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotAFolder`], [`Error::Manifest`], [`Error::Read`], [`Error::ClassName`]; [`Error::NoClasses`],
    /// [`Error::NoPhotos`] or [`Error::OneClass`] if there is nothing to classify; [`Error::MissingClasses`] or
    /// [`Error::UnknownClasses`] if the two parts don't have the same classes; [`Error::Setting`] for a
    /// fraction outside 0..1.
    pub fn open(root: &Path, options: &SplitOptions) -> Result<(Self, Findings)> {
        if !(options.val_fraction > 0.0 && options.val_fraction < 1.0) {
            return Err(Error::Setting {
                what: "val_fraction",
                value: options.val_fraction.to_string(),
                expected: "between 0 and 1",
            });
        }
        let mut findings = Findings::default();
        if is_manifest(root) {
            let dataset = Manifest::read(root, &mut findings)?.divide(root, options, &mut findings)?;
            return Ok((dataset, findings));
        }
        let entries = scan::list(root)?;
        let train_root = subfolder(root, &entries, "train").filter(|path| scan::has_subfolders(path));
        let Some(train_root) = train_root else {
            let folders = scan::class_folders(root, &mut findings)?;
            let dataset = Self::divided(root, root, folders, options, &mut findings)?;
            return Ok((dataset, findings));
        };
        let val_root = val_folder(root, &entries);
        for entry in &entries {
            let used = entry.path == train_root || Some(&entry.path) == val_root.as_ref();
            if !used && !scan::note_if_hidden(entry, &mut findings) {
                findings.add(FindingKind::Layout, &entry.path, "lies beside the training folder; not used");
            }
        }
        let train = scan::class_folders(&train_root, &mut findings)?;
        let dataset = match val_root {
            Some(val_root) => {
                if !val_root.ends_with("val") {
                    findings.add(FindingKind::Layout, &val_root, "used as the validation part");
                }
                let val = scan::class_folders(&val_root, &mut findings)?;
                Self::paired(root, (&train_root, train), (&val_root, val))?
            }
            None => {
                let message = format!(
                    "there is no validation folder beside it; {} of each class's photos are set aside for validation",
                    options.val_fraction
                );
                findings.add(FindingKind::Layout, &train_root, message);
                Self::divided(root, &train_root, train, options, &mut findings)?
            }
        };
        Ok((dataset, findings))
    }

    /// A dataset whose parts come from two folders with the same classes.
    fn paired(
        root: &Path,
        (train_root, train): (&Path, Vec<ClassFolder>),
        (val_root, val): (&Path, Vec<ClassFolder>),
    ) -> Result<Self> {
        let classes = class_names(train_root, &train)?;
        let missing: Vec<String> =
            classes.iter().filter(|class| val.iter().all(|folder| &folder.name != *class)).cloned().collect();
        let val = samples_of(val_root, val, &classes, "the training folder")?;
        if !missing.is_empty() {
            return Err(Error::MissingClasses { path: val_root.to_owned(), classes: missing });
        }
        let train = samples_of(train_root, train, &classes, "the training folder")?;
        Ok(Self { root: root.to_owned(), task: Task::Classes, classes, train, val })
    }

    /// A dataset whose parts are drawn from one folder.
    fn divided(
        root: &Path,
        class_root: &Path,
        folders: Vec<ClassFolder>,
        options: &SplitOptions,
        findings: &mut Findings,
    ) -> Result<Self> {
        let classes = class_names(class_root, &folders)?;
        let (mut train, mut val) = (Vec::new(), Vec::new());
        for (class, folder) in folders.into_iter().enumerate() {
            if folder.photos.len() == 1 {
                let message = "the class has a single photo; it is used for training, none is left for validation";
                findings.add(FindingKind::Layout, &class_root.join(&folder.name), message);
            }
            let is_val = split::validation_mask(&folder.name, folder.photos.len(), options);
            for (path, is_val) in folder.photos.into_iter().zip(is_val) {
                if is_val { &mut val } else { &mut train }.push(Sample { path, target: Target::Class(class) });
            }
        }
        Ok(Self { root: root.to_owned(), task: Task::Classes, classes, train, val })
    }
}

/// Whether a path is that of a manifest rather than of a folder.
fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv")) && !path.is_dir()
}

/// Gathers the photos of a folder or a manifest for the evaluation of a model that answers `task` and knows `classes`.
///
/// `root` holds class folders, or a `val/` (or `valid/`, `validation/`, `test/`) folder that does, which is
/// then used. Classes are matched by name; the samples' class is the index into `classes`, and a class of
/// the model without photos here is only noted. Of a manifest, the validation part is used, or all without one.
///
/// # Errors
/// [`Error::OtherTask`] if these photos have answers to another question; [`Error::UnknownClasses`] if a folder is named after no class of the model, and those of
/// [`Dataset::open`] about folders without photos.
pub fn open_eval(root: &Path, task: Task, classes: &[String]) -> Result<(Vec<Sample>, Findings)> {
    let mut findings = Findings::default();
    let other_task = |found| Error::OtherTask { path: root.to_owned(), found, expected: task };
    if is_manifest(root) {
        let manifest = Manifest::read(root, &mut findings)?;
        if manifest.task != task {
            return Err(other_task(manifest.task));
        }
        return Ok((manifest.evaluation(root, classes)?, findings));
    }
    if task != Task::Classes {
        return Err(other_task(Task::Classes));
    }
    let val_root = val_folder(root, &scan::list(root)?)
        .filter(|path| !classes.iter().any(|class| path.file_name().is_some_and(|name| name == class.as_str())));
    if let Some(val_root) = &val_root {
        findings.add(FindingKind::Layout, val_root, "used as the folder to evaluate");
    }
    let root = val_root.as_deref().unwrap_or(root);
    let folders = scan::class_folders(root, &mut findings)?;
    if folders.is_empty() {
        return Err(Error::NoPhotos { path: root.to_owned() });
    }
    for class in classes.iter().filter(|class| folders.iter().all(|folder| &folder.name != *class)) {
        findings.add(FindingKind::Layout, root, format!("has no photos of class `{class}`"));
    }
    Ok((samples_of(root, folders, classes, "the model")?, findings))
}

/// The folder inside `root` to validate on, if there is one with class folders inside.
fn val_folder(root: &Path, entries: &[scan::Entry]) -> Option<PathBuf> {
    VAL_NAMES.iter().find_map(|name| subfolder(root, entries, name).filter(|path| scan::has_subfolders(path)))
}

/// The names of the folders, which must be at least two.
fn class_names(root: &Path, folders: &[ClassFolder]) -> Result<Vec<String>> {
    match folders {
        [] => Err(Error::NoPhotos { path: root.to_owned() }),
        [only] => Err(Error::OneClass { path: root.to_owned(), class: only.name.clone() }),
        _ => Ok(folders.iter().map(|folder| folder.name.clone()).collect()),
    }
}

/// The photos of `folders` as samples of the given classes.
fn samples_of(
    root: &Path,
    folders: Vec<ClassFolder>,
    classes: &[String],
    known_by: &'static str,
) -> Result<Vec<Sample>> {
    let (mut samples, mut unknown) = (Vec::new(), Vec::new());
    for folder in folders {
        match classes.iter().position(|class| *class == folder.name) {
            Some(class) => {
                samples.extend(folder.photos.into_iter().map(|path| Sample { path, target: Target::Class(class) }))
            }
            None => unknown.push(folder.name),
        }
    }
    if !unknown.is_empty() {
        let (path, known) = (root.to_owned(), classes.to_vec());
        return Err(Error::UnknownClasses { path, classes: unknown, known_by, known });
    }
    Ok(samples)
}

#[cfg(test)]
mod tests;

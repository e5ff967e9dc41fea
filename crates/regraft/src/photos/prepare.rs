//! Loading the images of a run, before the first epoch.

use std::path::Path;
use std::sync::Arc;

use regraft_data::{
    Dataset, Finding, FindingKind, Findings, ImageStore, Sample, SplitOptions, Task, default_cache_bytes, fingerprint,
};
use regraft_learn::linear::HeadKind;

use crate::photos::targets::{SampleTargets, TargetScale, head_kind};
use crate::{Context, Error, Pretrained, Progress, Result, Settings};

/// The images of a run, decoded once, with what cannot be used left out.
pub(crate) struct Photos {
    pub dataset: Dataset,
    pub store: Arc<ImageStore>,
    /// Hash over classes, split and content.
    pub sha256: String,
    /// The scale in which a number is learned.
    pub scale: Option<TargetScale>,
}

impl Photos {
    /// The targets of some of them, numbers in the scale in which they are learned.
    pub fn targets(&self, samples: &[Sample]) -> SampleTargets {
        SampleTargets::new(samples, self.dataset.task, self.dataset.classes.len(), self.scale)
    }

    /// What the outputs of a network for them mean.
    pub fn head_kind(&self, settings: &Settings) -> HeadKind {
        head_kind(self.dataset.task, &settings.head)
    }
}

/// Loads the network first, which is quick, then the images.
///
/// # Errors
/// Errors of both.
pub(crate) fn load(settings: &Settings, opened: Opened, context: &Context) -> Result<(Photos, Pretrained)> {
    context.engine.supports(settings.precision)?;
    let crop = settings.preprocessing.crop;
    let mut pretrained = Pretrained::load(&settings.backbone, &settings.weights, crop, settings.seed)?;
    pretrained.notes.iter().for_each(|note| context.progress.note(note));
    settings.report_batch_norms(&pretrained, context.progress);
    let photos = photos(settings, opened, context)?;
    settings.validate_for(&photos.dataset)?;
    if settings.mode.probes() {
        pretrained.calibrate(&photos.dataset.train, &photos.store, &settings.preprocessing, context)?;
    }
    Ok((photos, pretrained))
}

/// A folder of images, listed but not decoded.
#[derive(Debug)]
pub(crate) struct Opened {
    pub dataset: Dataset,
    findings: Findings,
}

/// How many findings of one kind are printed before they are only counted.
const SHOWN: usize = 5;

/// Lists the images without decoding them.
///
/// # Errors
/// Errors of [`Dataset::open`]; with `strict`, that of [`refuse_false_photos`].
pub(crate) fn open(settings: &Settings) -> Result<Opened> {
    let split = SplitOptions { val_fraction: settings.val_fraction, seed: settings.seed };
    let (dataset, findings) = Dataset::open(&settings.data, &split)?;
    if settings.strict {
        refuse_false_photos(&findings)?;
    }
    Ok(Opened { dataset, findings })
}

/// Decodes every image and reports the findings.
///
/// # Errors
/// Errors of [`Dataset::verify`] and [`fingerprint`], cancelling among them.
pub(crate) fn photos(settings: &Settings, opened: Opened, context: &Context) -> Result<Photos> {
    let Opened { mut dataset, mut findings } = opened;
    let store = Arc::new(ImageStore::new(
        settings.preprocessing.decode_options(),
        settings.cache_bytes().unwrap_or_else(default_cache_bytes),
    ));
    let total = dataset.train.len() + dataset.val.len();
    let Context { progress, cancel, threads, .. } = *context;
    progress.begin("reading photos", "photos", total as u64);
    let verified = dataset.verify(&store, threads, settings.strict, cancel, |done| progress.advance(done as u64, ""));
    progress.end();
    findings.extend(verified?);
    report(&findings, progress);
    if dataset.train.is_empty() || dataset.val.is_empty() {
        let part = if dataset.train.is_empty() { "training" } else { "validation" };
        return Err(Error::File { path: settings.data.clone(), reason: format!("has no readable {part} photos") });
    }
    let print = fingerprint(&dataset, cancel)?;
    if let Some(duplicate) = print.duplicates.first() {
        progress.warn(&format!(
            "{} validation photo(s) are also in the training part, so the accuracy will be flattering; the first: {} is {}",
            print.duplicates.len(),
            duplicate.val.display(),
            duplicate.train.display()
        ));
    }
    let (train, val) = (dataset.train.len(), dataset.val.len());
    let asked = match (dataset.task, dataset.classes.len()) {
        (Task::Classes, classes) => format!("{classes} classes"),
        (Task::Labels, labels) => format!("{labels} labels"),
        (Task::Value, _) => "a number for each photo".into(),
    };
    progress.note(&format!("{asked}, {train} photos to train on, {val} to validate on"));
    if dataset.task == Task::Labels {
        require_both_sides(&dataset, &settings.data)?;
    }
    let scale = TargetScale::of(&dataset);
    Ok(Photos { dataset, store, sha256: print.sha256, scale })
}

/// What all photos have, or none, cannot be learned.
///
/// # Errors
/// [`Error::File`] naming the label.
fn require_both_sides(dataset: &Dataset, manifest: &Path) -> Result<()> {
    let mut counts = vec![0usize; dataset.classes.len()];
    dataset.train.iter().flat_map(|sample| sample.target.indices()).for_each(|&label| counts[label] += 1);
    let fault = counts.iter().zip(&dataset.classes).find(|(count, _)| **count == 0 || **count == dataset.train.len());
    match fault {
        Some((count, label)) => {
            let have = if *count == 0 { "none" } else { "all" };
            let reason = format!(
                "{have} of the training photos have the label {label:?}, so it cannot be learned; add photos of the other \
                 kind, or leave the label out"
            );
            Err(Error::File { path: manifest.to_owned(), reason })
        }
        None => Ok(()),
    }
}

/// Endings of file names that promise a photo.
const PHOTO_ENDINGS: [&str; 13] =
    ["jpg", "jpeg", "jpe", "png", "webp", "gif", "bmp", "tif", "tiff", "pnm", "pbm", "pgm", "ppm"];

/// A file that is called a photo but is none is passed over like any other file; strictly, it is an error.
///
/// # Errors
/// [`Error::File`] with the first such file.
pub(crate) fn refuse_false_photos(findings: &Findings) -> Result<()> {
    let promises = |path: &Path| {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        ending.is_some_and(|ending| PHOTO_ENDINGS.contains(&ending.as_str()))
    };
    let of_kind = findings.items.iter().filter(|finding| finding.kind == FindingKind::NotAnImage);
    match of_kind.into_iter().find(|finding| promises(&finding.path)) {
        Some(Finding { path, message, .. }) => Err(Error::File {
            path: path.clone(),
            reason: format!("{message}; remove or replace it, or leave out `strict`"),
        }),
        None => Ok(()),
    }
}

/// Reports the findings: troubles as warnings, choices as notes, a few of each kind and then their number. Classes and
/// columns are in double quotes, since backquotes are for settings.
pub(crate) fn report(findings: &Findings, progress: &dyn Progress) {
    for kind in [
        FindingKind::Layout,
        FindingKind::EmptyFolder,
        FindingKind::NotAnImage,
        FindingKind::Unreadable,
        FindingKind::Hidden,
    ] {
        let of_kind = findings.items.iter().filter(|finding| finding.kind == kind);
        let tell = |text: String| match kind {
            FindingKind::Layout | FindingKind::Hidden => progress.note(&text),
            _ => progress.warn(&text),
        };
        of_kind.take(SHOWN).for_each(|finding| tell(finding.to_string().replace('`', "\"")));
        let more = findings.count(kind).saturating_sub(SHOWN);
        if more > 0 {
            tell(format!("... and {more} more like that"));
        }
    }
}

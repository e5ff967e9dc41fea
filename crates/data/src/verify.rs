//! Decoding every photo once, before the first epoch.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use regraft_progress::Cancel;

use crate::{Dataset, Error, FindingKind, Findings, ImageStore, Result, Sample};

/// Decodes the photos of `samples` on `threads` threads and removes those that cannot be read, each with a
/// finding; with `strict`, one such photo is an error. The store keeps what it has room for, so the first
/// epoch need not decode it again. `progress` is called after each photo, from any of the threads, with the
/// number done so far. `cancel` ends the work after the photos at hand.
///
/// # Errors
/// [`Error::Unreadable`] with the first such photo if `strict`, [`Error::Cancelled`] if `cancel` said so; the samples
/// are then what they were.
pub fn verify(
    samples: &mut Vec<Sample>,
    store: &ImageStore,
    threads: usize,
    strict: bool,
    cancel: &Cancel,
    progress: impl Fn(usize) + Sync,
) -> Result<Findings> {
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..threads.clamp(1, samples.len().max(1)) {
            scope.spawn(|| {
                while let Some(sample) = samples.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if cancel.is_cancelled() {
                        return;
                    }
                    if let Err(error) = store.get(&sample.path) {
                        failures.lock().unwrap_or_else(PoisonError::into_inner).push((sample.path.clone(), error));
                    }
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1);
                }
            });
        }
    });
    check(cancel)?;
    let mut failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    failures.sort_by(|(a, _), (b, _)| a.cmp(b));
    if let (true, Some((_, first))) = (strict, failures.first()) {
        return Err(Error::Unreadable { count: failures.len(), first: first.to_string() });
    }
    samples.retain(|sample| failures.binary_search_by(|(path, _)| path.cmp(&sample.path)).is_err());
    let mut findings = Findings::default();
    for (path, error) in failures {
        let reason = match error {
            Error::InFile { source, .. } => source.to_string(),
            other => other.to_string(),
        };
        findings.add(FindingKind::Unreadable, &path, format!("{reason}; left out"));
    }
    Ok(findings)
}

/// Fails if the work is cancelled.
///
/// # Errors
/// [`Error::Cancelled`].
pub(crate) fn check(cancel: &Cancel) -> Result<()> {
    cancel.check().map_err(|_| Error::Cancelled)
}

impl Dataset {
    /// [`verify`] for both parts: every photo is decoded once, and those that cannot be are left out.
    /// `progress` counts the photos of both parts.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if `strict`, [`Error::ClassUnreadable`] if a class loses all its photos of a part,
    /// [`Error::Cancelled`] if `cancel` said so.
    pub fn verify(
        &mut self,
        store: &ImageStore,
        threads: usize,
        strict: bool,
        cancel: &Cancel,
        progress: impl Fn(usize) + Sync,
    ) -> Result<Findings> {
        let classes_of = |samples: &[Sample]| {
            let mut present = vec![false; self.classes.len()];
            samples.iter().flat_map(|sample| sample.target.indices()).for_each(|&class| present[class] = true);
            present
        };
        let before = [classes_of(&self.train), classes_of(&self.val)];
        let n_train = self.train.len();
        let mut findings = verify(&mut self.train, store, threads, strict, cancel, &progress)?;
        findings.extend(verify(&mut self.val, store, threads, strict, cancel, |done| progress(n_train + done))?);
        let after = [classes_of(&self.train), classes_of(&self.val)];
        for (part, (before, after)) in ["training", "validation"].into_iter().zip(before.iter().zip(&after)) {
            if let Some(class) = (0..self.classes.len()).find(|&class| before[class] && !after[class]) {
                return Err(Error::ClassUnreadable { class: self.classes[class].clone(), part });
            }
        }
        Ok(findings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DecodeOptions, SplitOptions};
    use std::fs;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for class in ["train/a", "train/b", "val/a", "val/b"] {
            fs::create_dir_all(dir.path().join(class)).unwrap();
            for i in 0..3 {
                fs::write(dir.path().join(class).join(format!("{i}.pgm")), "P5 1 1 255\n.").unwrap();
            }
        }
        dir
    }

    fn open(dir: &tempfile::TempDir) -> Dataset {
        Dataset::open(dir.path(), &SplitOptions::default()).unwrap().0
    }

    #[test]
    fn unreadable_photos_are_left_out_and_named() {
        let dir = folder();
        fs::write(dir.path().join("train/b/1.pgm"), "P5 9 9 255\n.").unwrap();
        for threads in [1, 3, 100] {
            let store = ImageStore::new(DecodeOptions::default(), 1000);
            let mut dataset = open(&dir);
            let calls = AtomicUsize::new(0);
            let progress = |done: usize| {
                assert!((1..=12).contains(&done));
                calls.fetch_add(1, Ordering::Relaxed);
            };
            let findings = dataset.verify(&store, threads, false, &Cancel::new(), progress).unwrap();
            assert_eq!((dataset.train.len(), dataset.val.len(), calls.into_inner()), (5, 6, 12));
            assert!(
                findings.items[0]
                    .to_string()
                    .ends_with("train/b/1.pgm: the PNM file is cut short; copy or download it again; left out"),
                "{findings:?}"
            );
            assert_eq!(store.kept_bytes(), 11 * 3, "the readable ones are kept");

            let error = open(&dir).verify(&store, threads, true, &Cancel::new(), |_| ()).unwrap_err().to_string();
            assert!(error.starts_with("1 photo cannot be read: ") && error.contains("train/b/1.pgm: "), "{error}");
            assert!(error.ends_with("; remove or replace it, or leave out --strict"), "{error}");
        }
        fs::write(dir.path().join("train/b/2.pgm"), "P5 9 9 255\n.").unwrap();
        let store = ImageStore::new(DecodeOptions::default(), 0);
        let error = open(&dir).verify(&store, 1, true, &Cancel::new(), |_| ()).unwrap_err().to_string();
        assert!(
            error.starts_with("2 photos cannot be read, the first of them: ") && error.contains("1.pgm"),
            "{error}"
        );
        assert!(error.ends_with("; remove or replace them, or leave out --strict"), "{error}");
    }

    #[test]
    fn cancelling_does_not_wait_for_the_other_photos() {
        let dir = folder();
        for threads in [1, 2] {
            let (store, cancel) = (ImageStore::new(DecodeOptions::default(), 0), Cancel::new());
            let (mut dataset, calls) = (open(&dir), AtomicUsize::new(0));
            let progress = |_| {
                calls.fetch_add(1, Ordering::Relaxed);
                cancel.cancel();
            };
            let before = dataset.clone();
            let result = dataset.verify(&store, threads, false, &cancel, progress);
            assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
            // The photo that was the occasion, and one that each other thread was at.
            assert!(calls.into_inner() <= threads);
            assert_eq!(dataset, before);
        }
    }

    #[test]
    fn a_class_without_a_readable_photo_is_an_error() {
        let dir = folder();
        for i in 0..3 {
            fs::write(dir.path().join(format!("val/b/{i}.pgm")), "P5 9 9 255\n.").unwrap();
        }
        let store = ImageStore::new(DecodeOptions::default(), 0);
        let error = open(&dir).verify(&store, 2, false, &Cancel::new(), |_| ()).unwrap_err();
        assert!(matches!(error, Error::ClassUnreadable { class, part: "validation" } if class == "b"));
    }
}

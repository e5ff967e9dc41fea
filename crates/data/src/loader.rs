//! Batches, prepared ahead on other threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use regraft_random::{Purpose, keyed, shuffle};

use crate::decode::panic_message;
use crate::{Augmentation, Error, ImageStore, Preprocessing, Result, Sample, Scratch};

/// The network's input for some samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// `[n, crop, crop, 3]`, normalised.
    pub images: Vec<f32>,
    /// The index of each picture among the loader's samples: where its target is, and what to key its random decisions by.
    pub sample_keys: Vec<u64>,
    /// How many pictures: the batch size, or less in the last batch.
    pub n: usize,
}

/// How to make batches.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// Pictures a batch, at least 1. Default: 4, the tutorial's.
    pub batch_size: usize,
    /// Draw a new order for every epoch; otherwise the samples come in theirs. Default: false.
    pub shuffle: bool,
    /// Random variation of the pictures; with `None` they are only preprocessed. Default: `None`.
    pub augmentation: Option<Augmentation>,
    /// After how many epochs the variations come again: epoch `e` has those of epoch `e % views`. Never with `None`,
    /// the default.
    pub views: Option<usize>,
    /// The run's seed. Default: 0.
    pub seed: u64,
    /// How many threads prepare pictures, at least 1. Default: 1. As many as compute are right: while computing is
    /// what takes the time, they mostly wait; where decoding is, it gets every core.
    pub workers: usize,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self { batch_size: 4, shuffle: false, augmentation: None, views: None, seed: 0, workers: 1 }
    }
}

/// Makes an epoch's batches from samples.
///
/// Order and variations are keyed by (seed, epoch) and (seed, epoch, sample), so the batches are the same
/// for any number of workers and whatever the store has kept, and an epoch can be entered at any batch.
pub struct Loader {
    recipe: Arc<Recipe>,
    workers: usize,
}

/// What the workers share.
struct Recipe {
    samples: Vec<Sample>,
    store: Arc<ImageStore>,
    preprocessing: Preprocessing,
    options: LoaderOptions,
}

impl Loader {
    /// A loader of `samples`, which the store decodes.
    ///
    /// # Errors
    /// [`Error::Setting`] for a batch size or number of workers or views of 0, or from
    /// [`Preprocessing::validate`] or [`Augmentation::validate`].
    pub fn new(
        samples: Vec<Sample>,
        store: Arc<ImageStore>,
        preprocessing: Preprocessing,
        options: LoaderOptions,
    ) -> Result<Self> {
        let views = options.views.unwrap_or(1);
        for (what, value) in [("batch_size", options.batch_size), ("workers", options.workers), ("views", views)] {
            if value == 0 {
                return Err(Error::Setting { what, value: "0".into(), expected: "at least 1" });
            }
        }
        preprocessing.validate()?;
        options.augmentation.as_ref().map_or(Ok(()), Augmentation::validate)?;
        let workers = options.workers;
        Ok(Self { recipe: Arc::new(Recipe { samples, store, preprocessing, options }), workers })
    }

    /// How many batches an epoch has; the last one may be smaller than the others.
    pub fn num_batches(&self) -> usize {
        self.recipe.samples.len().div_ceil(self.recipe.options.batch_size)
    }

    /// How many samples an epoch has.
    pub fn num_samples(&self) -> usize {
        self.recipe.samples.len()
    }

    /// The indices of the samples in the order of an epoch.
    pub fn order(&self, epoch: u64) -> Vec<usize> {
        self.recipe.order(epoch)
    }

    /// The batches of an epoch in order, from `first_batch` on.
    ///
    /// Work starts at once and runs a few batches ahead: one waits to be taken, and those are prepared next that
    /// give every worker two pictures, or one batch. An error ends the epoch: a photo that cannot be read now was
    /// readable when the folder was verified, so the data changed under the run, and going on without it would
    /// silently make the run irreproducible.
    pub fn epoch(&self, epoch: u64, first_batch: usize) -> Batches {
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = sync_channel(1);
        let (recipe, workers, stopped) = (self.recipe.clone(), self.workers, stop.clone());
        let thread = thread::spawn(move || recipe.work(epoch, first_batch, workers, &stopped, &sender));
        let left = self.num_batches().saturating_sub(first_batch);
        Batches { receiver: Some(receiver), thread: Some(thread), stop, left }
    }
}

/// An epoch's batches, in order. Dropping it stops the workers and waits for the pictures they are at.
pub struct Batches {
    receiver: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    left: usize,
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        // A worker catches panics and sends what it has to say; a closed channel cannot happen before the end.
        let batch = self.receiver.as_ref().and_then(|receiver| receiver.recv().ok()).unwrap_or_else(|| {
            Err(Error::Worker { path: Default::default(), reason: "a worker thread vanished".into() })
        });
        self.left = if batch.is_ok() { self.left - 1 } else { 0 };
        Some(batch)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Without a receiver, sending a batch fails instead of waiting.
        self.receiver = None;
        // A worker's panic has been reported through the channel.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Recipe {
    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.samples.len()).collect();
        if self.options.shuffle {
            shuffle(&mut order, &mut keyed(self.options.seed, Purpose::Shuffle, epoch, 0));
        }
        order
    }

    /// Sends the batches of an epoch one after the other, until they end, one fails or nobody wants them.
    fn work(
        &self,
        epoch: u64,
        first_batch: usize,
        workers: usize,
        stop: &AtomicBool,
        sender: &SyncSender<Result<Batch>>,
    ) {
        let order = self.order(epoch);
        let batches: Vec<&[usize]> = order.chunks(self.options.batch_size).skip(first_batch).collect();
        let mut scratches: Vec<Scratch> = (0..workers).map(|_| Scratch::default()).collect();
        for some in batches.chunks((2 * workers).div_ceil(self.options.batch_size)) {
            let (batches, failure) = self.batches(epoch, some, stop, &mut scratches);
            for batch in batches.into_iter().map(Ok).chain(failure.map(Err)) {
                let failed = batch.is_err();
                if stop.load(Ordering::Relaxed) || sender.send(batch).is_err() || failed {
                    return;
                }
            }
        }
    }

    /// The batches of these samples, prepared by a worker for each scratch: whoever is free takes the next picture.
    /// If one fails, the batches before it and its error. They are not complete if `stop` is set on the way.
    fn batches(
        &self,
        epoch: u64,
        batches: &[&[usize]],
        stop: &AtomicBool,
        scratches: &mut [Scratch],
    ) -> (Vec<Batch>, Option<Error>) {
        let values = self.preprocessing.values();
        let empty = |indices: &&[usize]| Batch {
            images: vec![0.0; indices.len() * values],
            sample_keys: indices.iter().map(|&index| index as u64).collect(),
            n: indices.len(),
        };
        let mut prepared: Vec<Batch> = batches.iter().map(empty).collect();
        let targets = prepared.iter_mut().flat_map(|batch| batch.images.chunks_exact_mut(values));
        let pictures = Mutex::new(batches.iter().copied().flatten().zip(targets).enumerate());
        let failure: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        thread::scope(|scope| {
            for scratch in scratches {
                let (pictures, failure) = (&pictures, &failure);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let next = pictures.lock().unwrap_or_else(PoisonError::into_inner).next();
                        let Some((place, (&index, target))) = next else { return };
                        if let Err(error) = self.prepare(epoch, index, scratch, target) {
                            let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                            if failure.as_ref().is_none_or(|(first, _)| place < *first) {
                                *failure = Some((place, error));
                            }
                        }
                    }
                });
            }
        });
        let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        let error = failure.map(|(place, error)| {
            prepared.truncate(place / self.options.batch_size);
            error
        });
        (prepared, error)
    }

    /// One sample's values; a panic on the way is an error that names the file.
    fn prepare(&self, epoch: u64, index: usize, scratch: &mut Scratch, target: &mut [f32]) -> Result<()> {
        let prepared = catch_unwind(AssertUnwindSafe(|| self.values(epoch, index, scratch, target)));
        prepared.unwrap_or_else(|panic| {
            let path = self.samples[index].path.clone();
            Err(Error::Worker { path, reason: panic_message(&*panic) })
        })
    }

    /// One sample's values, from file or cache.
    fn values(&self, epoch: u64, index: usize, scratch: &mut Scratch, target: &mut [f32]) -> Result<()> {
        let image = self.store.get(&self.samples[index].path)?;
        let mut erased = None;
        let square = match &self.options.augmentation {
            Some(augmentation) => {
                let (size, side) = ((image.width(), image.height()), self.preprocessing.crop);
                let view = self.options.views.map_or(epoch, |views| epoch % views as u64);
                let drawn = augmentation.draw(size, side, self.options.seed, view, index as u64);
                let square = Augmentation::apply(&image, &drawn, &self.preprocessing, scratch);
                erased = drawn.erased;
                square
            }
            None => self.preprocessing.resize_and_crop(&image, scratch),
        };
        self.preprocessing.normalize_into(&square, target);
        if let Some(erased) = erased {
            erased.apply(target, self.preprocessing.crop);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DecodeOptions;
    use crate::Target;
    use std::path::PathBuf;

    /// `n` small photos of different content, and samples that name them.
    fn photos(n: usize) -> (tempfile::TempDir, Vec<Sample>) {
        let dir = tempfile::tempdir().unwrap();
        let samples = (0..n).map(|i| {
            let path = dir.path().join(format!("{i:03}.pgm"));
            let pixels: Vec<u8> = (0..12 * 10).map(|p| (p * (i + 3) % 251) as u8).collect();
            std::fs::write(&path, [b"P5 12 10 255\n".as_slice(), &pixels].concat()).unwrap();
            Sample { path, target: Target::Class(i % 3) }
        });
        let samples = samples.collect();
        (dir, samples)
    }

    fn store(bytes: usize) -> Arc<ImageStore> {
        Arc::new(ImageStore::new(DecodeOptions::default(), bytes))
    }

    fn small() -> Preprocessing {
        Preprocessing { resize: 9, crop: 8, ..Default::default() }
    }

    fn train(workers: usize) -> LoaderOptions {
        LoaderOptions {
            shuffle: true,
            augmentation: Some(Augmentation::default()),
            seed: 3,
            workers,
            ..Default::default()
        }
    }

    fn batches(loader: &Loader, epoch: u64, first: usize) -> Vec<Batch> {
        loader.epoch(epoch, first).collect::<Result<_>>().unwrap()
    }

    #[test]
    fn evaluation_keeps_order_and_every_sample() {
        let (_dir, samples) = photos(10);
        let loader =
            Loader::new(samples.clone(), store(0), small(), LoaderOptions { workers: 3, ..Default::default() });
        let loader = loader.unwrap();
        let all = batches(&loader, 0, 0);
        assert_eq!(all.iter().map(|batch| batch.n).collect::<Vec<_>>(), [4, 4, 2]);
        assert_eq!((loader.num_batches(), loader.num_samples()), (3, 10));
        let keys: Vec<u64> = all.iter().flat_map(|batch| batch.sample_keys.clone()).collect();
        assert_eq!(keys, (0..10).collect::<Vec<_>>());
        for (i, batch) in all.iter().enumerate() {
            for k in 0..batch.n {
                let sample = &samples[i * 4 + k];
                let image = crate::decode_file(&sample.path, &DecodeOptions::default()).unwrap();
                assert_eq!(batch.images[k * 192..][..192], small().apply(&image));
            }
        }
    }

    #[test]
    fn batches_depend_on_neither_workers_nor_cache_nor_where_one_starts() {
        let (_dir, samples) = photos(11);
        let loader = |workers, bytes| Loader::new(samples.clone(), store(bytes), small(), train(workers)).unwrap();
        let expected = batches(&loader(1, 0), 2, 0);
        for (workers, bytes) in [(1, 1 << 20), (2, 1000), (3, 0), (16, 1 << 20)] {
            let loader = loader(workers, bytes);
            for pass in 0..2 {
                assert!(batches(&loader, 2, 0) == expected, "{workers} workers, {bytes} bytes, pass {pass}");
            }
            assert!(batches(&loader, 2, 1) == expected[1..], "{workers} workers, resumed");
            assert!(batches(&loader, 2, 3).is_empty());
        }
    }

    #[test]
    fn epochs_differ_in_order_and_variation_but_not_in_samples() {
        let (_dir, samples) = photos(11);
        let loader = Loader::new(samples, store(0), small(), train(2)).unwrap();
        let keys = |epoch| batches(&loader, epoch, 0).iter().flat_map(|b| b.sample_keys.clone()).collect::<Vec<_>>();
        let (first, second) = (keys(0), keys(1));
        assert_ne!(first, second);
        let sorted = |mut keys: Vec<u64>| {
            keys.sort();
            keys
        };
        assert_eq!(sorted(first), (0..11).collect::<Vec<_>>());
        assert_eq!(sorted(second), (0..11).collect::<Vec<_>>());
    }

    #[test]
    fn views_come_again_in_another_order() {
        let (_dir, samples) = photos(7);
        let options = LoaderOptions { views: Some(2), batch_size: 7, ..train(2) };
        let repeating = Loader::new(samples.clone(), store(0), small(), options).unwrap();
        let fresh = Loader::new(samples, store(0), small(), LoaderOptions { batch_size: 7, ..train(2) }).unwrap();
        let epoch = |loader: &Loader, epoch| batches(loader, epoch, 0).remove(0);
        let by_sample = |batch: &Batch| {
            let mut pictures: Vec<_> = batch.sample_keys.iter().zip(batch.images.chunks_exact(192)).collect();
            pictures.sort_by_key(|(sample, _)| **sample);
            pictures.into_iter().flat_map(|(_, picture)| picture.to_vec()).collect::<Vec<_>>()
        };
        for e in 0..5 {
            let (found, view) = (epoch(&repeating, e), epoch(&fresh, e % 2));
            assert!(by_sample(&found) == by_sample(&view), "epoch {e}");
            assert_eq!(found.sample_keys, epoch(&fresh, e).sample_keys, "epoch {e}");
        }
        assert!(by_sample(&epoch(&repeating, 0)) != by_sample(&epoch(&repeating, 1)));
    }

    #[test]
    fn a_lost_file_ends_the_epoch_with_its_name() {
        let (_dir, samples) = photos(12);
        std::fs::remove_file(&samples[5].path).unwrap();
        for workers in [1, 3] {
            let options = LoaderOptions { workers, ..Default::default() };
            let loader = Loader::new(samples.clone(), store(0), small(), options).unwrap();
            let results: Vec<_> = loader.epoch(0, 0).collect();
            assert_eq!(results.len(), 2, "the batch before, then the error");
            let error = results[1].as_ref().unwrap_err().to_string();
            assert!(error.contains("005.pgm does not exist"), "{error}");
        }
    }

    #[test]
    fn an_epoch_may_be_dropped_at_any_point() {
        let (_dir, samples) = photos(40);
        let loader = Loader::new(samples, store(0), small(), train(3)).unwrap();
        for taken in 0..5 {
            let mut epoch = loader.epoch(0, 0);
            for _ in 0..taken {
                epoch.next().unwrap().unwrap();
            }
            drop(epoch);
            assert_eq!(Arc::strong_count(&loader.recipe), 1, "the workers are gone");
        }
    }

    #[test]
    fn workers_run_a_bounded_number_of_batches_ahead() {
        let (dir, samples) = photos(40);
        let store = store(usize::MAX);
        let options = LoaderOptions { batch_size: 3, workers: 2, ..Default::default() };
        let loader = Loader::new(samples, store.clone(), small(), options).unwrap();
        let mut epoch = loader.epoch(0, 0);
        epoch.next().unwrap().unwrap();
        // One taken, the other one that was prepared with it in the channel, and the next two.
        let bound = (2 + 2) * 3 * 12 * 10 * 3;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while store.kept_bytes() < bound && std::time::Instant::now() < deadline {
            thread::yield_now();
        }
        thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(store.kept_bytes(), bound);
        drop((epoch, dir));
    }

    #[test]
    fn a_loader_without_samples_or_with_bad_settings() {
        let loader = |options| Loader::new(Vec::new(), store(0), small(), options);
        assert_eq!(loader(train(2)).unwrap().epoch(0, 0).count(), 0);
        let no_views = LoaderOptions { views: Some(0), ..train(1) };
        for options in [LoaderOptions { batch_size: 0, ..train(1) }, no_views, train(0)] {
            assert!(matches!(loader(options), Err(Error::Setting { .. })));
        }
        let samples = vec![Sample { path: PathBuf::from("x"), target: Target::Class(0) }];
        let bad = Preprocessing { crop: 0, ..small() };
        assert!(Loader::new(samples, store(0), bad, train(1)).is_err());
    }
}

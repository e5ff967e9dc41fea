//! Batches, prepared ahead on other threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use regraft_random::{Purpose, keyed, shuffle};

use crate::decode::panic_message;
use crate::{Augmentation, Error, ImageStore, Preprocessing, Result, Sample, Scratch};

/// The network's input for some samples.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// `[n, crop, crop, 3]`, normalised.
    pub images: Vec<f32>,
    /// The class of each picture.
    pub labels: Vec<usize>,
    /// The index of each picture among the loader's samples: what to key a picture's random decisions by.
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
    /// The run's seed. Default: 0.
    pub seed: u64,
    /// How many threads prepare batches, at least 1. Default: 1. See [`LoaderOptions::workers_for`].
    pub workers: usize,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self { batch_size: 4, shuffle: false, augmentation: None, seed: 0, workers: 1 }
    }
}

impl LoaderOptions {
    /// Workers for a run that computes on `threads` threads: half as many, at least 1 and at most 8. One
    /// worker prepares several hundred pictures a second from the cache, more than as many threads train on;
    /// more of them only hurry the first epoch.
    pub fn workers_for(threads: usize) -> usize {
        (threads / 2).clamp(1, 8)
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
    /// [`Error::Setting`] for a batch size or number of workers of 0, or from
    /// [`Preprocessing::validate`] or [`Augmentation::validate`].
    pub fn new(
        samples: Vec<Sample>,
        store: Arc<ImageStore>,
        preprocessing: Preprocessing,
        options: LoaderOptions,
    ) -> Result<Self> {
        for (what, value) in [("batch_size", options.batch_size), ("workers", options.workers)] {
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
    /// Work starts at once and runs at most two batches a worker ahead. An error ends the epoch: a photo that
    /// cannot be read now was readable when the folder was verified, so the data changed under the run, and
    /// going on without it would silently make the run irreproducible.
    pub fn epoch(&self, epoch: u64, first_batch: usize) -> Batches {
        let order = Arc::new(self.recipe.order(epoch));
        let last = self.num_batches();
        let stop = Arc::new(AtomicBool::new(false));
        let n_workers = self.workers.min(last.saturating_sub(first_batch));
        let mut workers = Vec::with_capacity(n_workers);
        for worker in 0..n_workers {
            // Each worker takes every n-th batch and has a channel of its own, which the receiver visits in
            // turn: that keeps the order without any sorting.
            let (sender, receiver) = sync_channel(1);
            let (recipe, order, stop) = (self.recipe.clone(), order.clone(), stop.clone());
            let batches = (first_batch + worker..last).step_by(n_workers);
            let handle = thread::spawn(move || recipe.work(epoch, &order, batches, &stop, &sender));
            workers.push((receiver, handle));
        }
        Batches { workers, stop, turn: 0, left: last.saturating_sub(first_batch) }
    }
}

/// An epoch's batches, in order. Dropping it stops the workers and waits for the pictures they are at.
pub struct Batches {
    workers: Vec<(Receiver<Result<Batch>>, JoinHandle<()>)>,
    stop: Arc<AtomicBool>,
    turn: usize,
    left: usize,
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let (receiver, _) = &self.workers[self.turn];
        // A worker catches panics and sends what it has to say; a closed channel cannot happen before the end.
        let batch = receiver.recv().unwrap_or_else(|_| {
            Err(Error::Worker { path: Default::default(), reason: "a worker thread vanished".into() })
        });
        self.turn = (self.turn + 1) % self.workers.len();
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
        for (receiver, handle) in self.workers.drain(..) {
            // Without its receiver a worker that waits to send a batch gives up.
            drop(receiver);
            // A worker's panic has been reported through its channel.
            let _ = handle.join();
        }
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

    /// A worker's life: makes its batches one after the other until they end, one fails or nobody wants them.
    fn work(
        &self,
        epoch: u64,
        order: &[usize],
        batches: impl Iterator<Item = usize>,
        stop: &AtomicBool,
        sender: &SyncSender<Result<Batch>>,
    ) {
        let mut scratch = Scratch::default();
        for index in batches {
            let start = index * self.options.batch_size;
            let end = (start + self.options.batch_size).min(order.len());
            let Some(batch) = self.batch(epoch, &order[start..end], stop, &mut scratch).transpose() else { return };
            let failed = batch.is_err();
            if sender.send(batch).is_err() || failed {
                return;
            }
        }
    }

    /// The batch of these samples; `None` if it is no longer wanted.
    fn batch(&self, epoch: u64, indices: &[usize], stop: &AtomicBool, scratch: &mut Scratch) -> Result<Option<Batch>> {
        let values = self.preprocessing.values();
        let mut images = vec![0.0; indices.len() * values];
        for (&index, target) in indices.iter().zip(images.chunks_exact_mut(values)) {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let path = &self.samples[index].path;
            catch_unwind(AssertUnwindSafe(|| self.prepare(epoch, index, scratch, target)))
                .unwrap_or_else(|panic| Err(Error::Worker { path: path.clone(), reason: panic_message(&*panic) }))?;
        }
        Ok(Some(Batch {
            images,
            labels: indices.iter().map(|&index| self.samples[index].class).collect(),
            sample_keys: indices.iter().map(|&index| index as u64).collect(),
            n: indices.len(),
        }))
    }

    /// One sample's values, from file or cache.
    fn prepare(&self, epoch: u64, index: usize, scratch: &mut Scratch, target: &mut [f32]) -> Result<()> {
        let image = self.store.get(&self.samples[index].path)?;
        let square = match &self.options.augmentation {
            Some(augmentation) => {
                let drawn = augmentation.draw(image.width(), image.height(), self.options.seed, epoch, index as u64);
                Augmentation::apply(&image, &drawn, &self.preprocessing, scratch)
            }
            None => self.preprocessing.resize_and_crop(&image, scratch),
        };
        self.preprocessing.normalize_into(&square, target);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DecodeOptions;
    use std::path::PathBuf;

    /// `n` small photos of different content, and samples that name them.
    fn photos(n: usize) -> (tempfile::TempDir, Vec<Sample>) {
        let dir = tempfile::tempdir().unwrap();
        let samples = (0..n).map(|i| {
            let path = dir.path().join(format!("{i:03}.pgm"));
            let pixels: Vec<u8> = (0..12 * 10).map(|p| (p * (i + 3) % 251) as u8).collect();
            std::fs::write(&path, [b"P5 12 10 255\n".as_slice(), &pixels].concat()).unwrap();
            Sample { path, class: i % 3 }
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
                assert_eq!(batch.labels[k], sample.class);
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
        let options = LoaderOptions { batch_size: 1, workers: 2, ..Default::default() };
        let loader = Loader::new(samples, store.clone(), small(), options).unwrap();
        let mut epoch = loader.epoch(0, 0);
        epoch.next().unwrap().unwrap();
        // One taken; for each worker one in its channel and one waiting to be sent.
        let bound = (1 + 2 * 2) * 12 * 10 * 3;
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
        for options in [LoaderOptions { batch_size: 0, ..train(1) }, train(0)] {
            assert!(matches!(loader(options), Err(Error::Setting { .. })));
        }
        let samples = vec![Sample { path: PathBuf::from("x"), class: 0 }];
        let bad = Preprocessing { crop: 0, ..small() };
        assert!(Loader::new(samples, store(0), bad, train(1)).is_err());
    }
}

//! What the layers that learn see of a run's photos, step by step.

use std::vec::IntoIter;

use regraft_data::{Batch, Batches, Loader, LoaderOptions, Mix, Mixed, Sample};
use regraft_engine::Labels;

use crate::network::divided::{Body, Network};
use crate::photos::features::{BATCH, for_each_batch};
use crate::photos::prepare::Photos;
use crate::photos::targets::Answers;
use crate::{Config, Context, Result};

/// Most bytes of values kept for the photos of one part.
const MAX_KEPT_BYTES: usize = 512 << 20;

/// The training or the validation photos as the layers that learn see them: the network's values at the boundary
/// below them or, where all of it learns, the photos themselves. Values of photos that are the same in every epoch, or
/// in every few epochs, are computed once, if there is room to keep them.
///
/// An epoch's steps are the same bits for any number of threads and wherever it is entered: which photos pass
/// through the frozen layers together depends on neither. Whether values are kept makes no difference either, as far
/// as the engine computes a sample in the same way whatever is beside it: the CPU engine's convolutions and poolings
/// do, its fully connected layers (of VGG's classifier) round otherwise.
pub(crate) struct Inputs {
    /// Which part of the photos it is.
    part: &'static str,
    /// Photos of a few steps at a time.
    loader: Loader,
    /// Photos a step.
    step_size: usize,
    /// Steps that a batch of the loader holds.
    steps_together: usize,
    /// A place for the values of each view of the photos, filled when an epoch first needs it; none if they are not
    /// kept. Epoch `e` sees view `e` modulo their number.
    kept: Vec<Option<Kept>>,
    mixing: Option<Mixing>,
    /// The right answer for each photo.
    answers: Answers,
}

/// How the photos of a step are mixed.
#[derive(Clone, Copy)]
struct Mixing {
    mix: Mix,
    seed: u64,
    /// Side of the photos in pixels.
    side: u32,
}

impl Inputs {
    /// The training photos: in another order every epoch and, with augmentation, varied.
    ///
    /// # Errors
    /// Those of [`Loader::new`].
    pub fn training(config: &Config, photos: &Photos, network: &mut Network, context: &Context) -> Result<Self> {
        let options = LoaderOptions {
            batch_size: config.batch_size,
            shuffle: true,
            augmentation: config.augmentation.clone(),
            // More views than epochs are never seen.
            views: config.views.map(|views| views.min(config.epochs)),
            seed: config.seed,
            ..LoaderOptions::default()
        };
        Self::new("training", &photos.dataset.train, options, config, photos, network.body(), context)
    }

    /// The validation photos, as they are and in their order.
    ///
    /// # Errors
    /// Those of [`Loader::new`].
    pub fn validation(config: &Config, photos: &Photos, network: &mut Network, context: &Context) -> Result<Self> {
        let options = LoaderOptions { batch_size: BATCH, ..LoaderOptions::default() };
        Self::new("validation", &photos.dataset.val, options, config, photos, network.body(), context)
    }

    fn new(
        part: &'static str,
        samples: &[Sample],
        options: LoaderOptions,
        config: &Config,
        photos: &Photos,
        body: Option<&mut Body>,
        context: &Context,
    ) -> Result<Self> {
        let step_size = options.batch_size;
        let (mut steps_together, mut kept) = (1, Vec::new());
        if let Some(body) = body {
            // Many photos at once are faster, and what the steps change does not reach down here.
            steps_together = (BATCH / step_size).max(1);
            let views = if options.augmentation.is_none() { 1 } else { options.views.unwrap_or(0) };
            let bytes = body.values.saturating_mul(views).saturating_mul(samples.len() * size_of::<f32>());
            if bytes <= MAX_KEPT_BYTES {
                kept.resize_with(views, || None);
            } else {
                let in_views = if views > 1 { format!(" in {views} views") } else { String::new() };
                context.progress.note(&format!(
                    "the {part} photos' values at {}{in_views} take {} MiB, more than the {} that are kept: every epoch \
                     computes them anew",
                    body.layer,
                    bytes >> 20,
                    MAX_KEPT_BYTES >> 20
                ));
            }
        }
        let mix = options.augmentation.as_ref().and_then(|augmentation| augmentation.mix);
        let mixing = mix.map(|mix| Mixing { mix, seed: config.seed, side: config.preprocessing.crop });
        let answers = photos.answers(samples);
        let options = LoaderOptions { batch_size: step_size * steps_together, workers: context.threads, ..options };
        let loader = Loader::new(samples.to_vec(), photos.store.clone(), config.preprocessing.clone(), options)?;
        Ok(Self { part, loader, step_size, steps_together, kept, mixing, answers })
    }

    /// How many steps an epoch has; the last one may be smaller than the others.
    pub fn num_steps(&self) -> usize {
        self.num_photos().div_ceil(self.step_size)
    }

    /// How many photos an epoch has.
    pub fn num_photos(&self) -> usize {
        self.loader.num_samples()
    }

    /// The steps of an epoch in order, from `first` on. What is kept is computed before the first of them.
    ///
    /// # Errors
    /// Those of loading and inferring, [`crate::Error::Interrupted`].
    pub fn epoch(&mut self, epoch: u64, first: usize, network: &mut Network, context: &Context) -> Result<Steps<'_>> {
        let views = self.kept.len() as u64;
        let view = epoch.checked_rem(views).unwrap_or(0);
        if let (Some(kept @ None), Some(body)) = (self.kept.get_mut(view as usize), network.body()) {
            let of_views = if views > 1 { format!(", view {}/{views}", view + 1) } else { String::new() };
            let what = format!("{} features{of_views}", self.part);
            *kept = Some(Kept::compute(&what, &self.loader, view, body, context)?);
        }
        let (source, skipped) = match self.kept.get(view as usize).and_then(Option::as_ref) {
            Some(kept) => {
                let mut order = self.loader.order(epoch);
                order.drain(..order.len().min(first * self.step_size));
                (Origin::Kept(kept, order.into_iter()), 0)
            }
            None => {
                let batches = self.loader.epoch(epoch, first / self.steps_together);
                (Origin::Photos(batches), first % self.steps_together)
            }
        };
        Ok(Steps {
            source,
            step_size: self.step_size,
            batch: Batch::default(),
            at: 0,
            skipped: skipped * self.step_size,
            mixing: self.mixing,
            all: &self.answers,
            answers: self.answers.of(&[]),
            epoch,
            next: (first - skipped) as u64,
        })
    }
}

/// Values at the boundary, in the order of the samples.
struct Kept {
    values: Vec<f32>,
    /// Those of one photo.
    len: usize,
}

impl Kept {
    fn compute(what: &str, loader: &Loader, view: u64, body: &mut Body, context: &Context) -> Result<Self> {
        let (n, len) = (loader.num_samples(), body.values);
        let mut kept = Self { values: vec![0.0; n * len], len };
        let infer = |images: &[f32]| Ok(body.session.infer(images)?);
        for_each_batch(what, loader, view, infer, context, |values, batch| {
            let samples = batch.sample_keys.iter().map(|&sample| sample as usize);
            for (sample, values) in samples.zip(values.chunks_exact(len)) {
                kept.values[sample * len..][..len].copy_from_slice(values);
            }
            Ok(())
        })?;
        Ok(kept)
    }

    fn batch(&self, samples: impl Iterator<Item = usize>) -> Batch {
        let len = self.len;
        let mut batch = Batch::default();
        for sample in samples {
            batch.images.extend_from_slice(&self.values[sample * len..][..len]);
            batch.sample_keys.push(sample as u64);
            batch.n += 1;
        }
        batch
    }
}

/// An epoch's steps.
pub(crate) struct Steps<'a> {
    source: Origin<'a>,
    step_size: usize,
    /// The steps at hand; its images are what the layers that learn see.
    batch: Batch,
    /// Where the next step begins in it.
    at: usize,
    /// Where the next step begins in the first batch.
    skipped: usize,
    mixing: Option<Mixing>,
    /// The right answer for each photo of the part, and those for the photos of the batch.
    all: &'a Answers,
    answers: Answers,
    epoch: u64,
    /// The first step of the next batch of photos.
    next: u64,
}

/// Where steps come from.
enum Origin<'a> {
    /// Photos, and the frozen layers.
    Photos(Batches),
    /// What is kept, and the samples that are still to come.
    Kept(&'a Kept, IntoIter<usize>),
}

/// What one step sees.
pub(crate) struct Step<'a> {
    /// `[n, ...]`, row-major: the input of the layers that learn.
    pub values: &'a [f32],
    /// What the network should say of each photo.
    pub labels: Labels<'a>,
    /// The index of each photo among the samples.
    pub samples: &'a [u64],
}

impl Step<'_> {
    /// What keys each photo's randomness in the layers that learn: dropout drops anew in every epoch.
    pub fn keys(&self, epoch: u64) -> Vec<u64> {
        self.samples.iter().map(|&sample| (epoch << 32) | sample).collect()
    }
}

impl Mixing {
    /// Mixes the photos of each step with one another, and tells how. Keyed by the number of the step, of which the batch
    /// holds some from `first` on.
    fn apply(&self, batch: &mut Batch, step_size: usize, epoch: u64, first: u64) -> Vec<Mixed> {
        let len = batch.images.len() / batch.n.max(1);
        let steps = batch.images.chunks_mut(step_size * len).zip(first..);
        let mixed = steps.map(|(images, step)| {
            let mixed = self.mix.draw(self.side, self.seed, epoch, step);
            mixed.apply(images, self.side);
            mixed
        });
        mixed.collect()
    }
}

impl Steps<'_> {
    /// The next step; `None` at the end.
    ///
    /// # Errors
    /// Those of loading and inferring.
    pub fn next(&mut self, network: &mut Network) -> Result<Option<Step<'_>>> {
        while self.at >= self.batch.n {
            let mut mixed = None;
            self.batch = match &mut self.source {
                Origin::Photos(batches) => match batches.next() {
                    None => return Ok(None),
                    Some(batch) => {
                        let mut batch = batch?;
                        let mix = |mixing: &Mixing| mixing.apply(&mut batch, self.step_size, self.epoch, self.next);
                        mixed = self.mixing.as_ref().map(mix);
                        self.next += batch.n.div_ceil(self.step_size) as u64;
                        network.below(batch)?
                    }
                },
                Origin::Kept(_, order) if order.len() == 0 => return Ok(None),
                Origin::Kept(kept, order) => kept.batch(order.by_ref().take(self.step_size)),
            };
            let answers = self.all.of(&self.batch.sample_keys);
            self.answers = match mixed {
                Some(mixed) => answers.mixed(self.step_size, &mixed),
                None => answers,
            };
            self.at = std::mem::take(&mut self.skipped);
        }
        let (start, end) = (self.at, self.batch.n.min(self.at + self.step_size));
        self.at = end;
        let len = self.batch.images.len() / self.batch.n;
        Ok(Some(Step {
            values: &self.batch.images[start * len..end * len],
            labels: self.answers.labels(start..end),
            samples: &self.batch.sample_keys[start..end],
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;
    use std::sync::Mutex;

    use crate::photos::prepare;
    use crate::{Cancel, Error, Mode, Pretrained, Progress};
    use regraft_data::{Augmentation, Preprocessing};
    use regraft_engine::{BatchNormMode, Precision, SessionOptions};
    use regraft_engine_cpu::CpuEngine;
    use regraft_graph::{Grafted, Trainable};

    /// Keeps what it is told, and asks to stop at a piece of work.
    #[derive(Default)]
    struct Listener {
        told: Mutex<Vec<String>>,
        stop_at: &'static str,
        stop: Cancel,
    }

    impl Progress for Listener {
        fn note(&self, text: &str) {
            self.told.lock().unwrap().push(text.into());
        }
        fn begin(&self, what: &str, _: &str, _: u64) {
            self.note(what);
            if what == self.stop_at {
                self.stop.cancel();
            }
        }
    }

    /// Settings for a folder of 11 photos to train on, in steps of 3.
    fn config(dir: &Path, side: u32) -> Config {
        for (part, class, photos) in [("train", "a", 6), ("train", "b", 5), ("val", "a", 1), ("val", "b", 1)] {
            let folder = dir.join(part).join(class);
            fs::create_dir_all(&folder).unwrap();
            for i in 0..photos {
                let pixels: Vec<u8> = (0..40 * 40).map(|p| (p * (i + 3) % 251) as u8).collect();
                fs::write(folder.join(format!("{i}.pgm")), [&b"P5 40 40 255\n"[..], &pixels].concat()).unwrap();
            }
        }
        Config {
            mode: Mode::Frozen,
            batch_size: 3,
            preprocessing: Preprocessing { resize: side, crop: side, ..Preprocessing::default() },
            ..Config::tutorial(dir.to_owned(), "resnet18".into())
        }
    }

    /// A network whose layers from `layer` on learn, its photos, and what it takes to use them.
    struct Setup {
        _dir: tempfile::TempDir,
        config: Config,
        engine: CpuEngine,
        network: Network,
    }

    impl Setup {
        fn new(layer: &str, side: u32) -> Self {
            let (dir, engine) = (tempfile::tempdir().unwrap(), CpuEngine::new(1).unwrap());
            let config = config(dir.path(), side);
            let backbone = Pretrained::load(&"resnet18".into(), &crate::Source::Random, side, 0).unwrap();
            let (Grafted { graph, .. }, state) = config.graft(&backbone, 2).unwrap();
            let trainable = Trainable::from_layer(&graph, layer).unwrap();
            let (batch_norm, update) = (BatchNormMode::Train, config.optimizer);
            let options = SessionOptions {
                trainable,
                batch_norm,
                update,
                seed: 0,
                precision: Precision::F32,
                infer_precision: Precision::F32,
            };
            let network = Network::new(&engine, &graph, &state, options).unwrap();
            Self { _dir: dir, config, engine, network }
        }
    }

    /// Everything that the steps of an epoch hold, one entry a step.
    fn steps(inputs: &mut Inputs, epoch: u64, first: usize, network: &mut Network, context: &Context) -> Vec<String> {
        let mut steps = inputs.epoch(epoch, first, network, context).unwrap();
        let mut all = Vec::new();
        while let Some(step) = steps.next(network).unwrap() {
            let bits: Vec<u32> = step.values.iter().map(|value| value.to_bits()).collect();
            all.push(format!("{:?} {:?} {bits:?}", step.samples, step.labels));
        }
        all
    }

    #[test]
    fn an_epoch_is_the_same_kept_or_computed_anew_and_may_be_entered_at_any_step() {
        let fixed = |config: &mut Config| config.augmentation = None;
        let views = |config: &mut Config| config.views = Some(2);
        let mixed = |config: &mut Config| {
            let mix = Some(Mix { mixup_alpha: 0.5, cutmix_alpha: 1.0 });
            config.augmentation = Some(Augmentation { mix, ..Augmentation::default() });
        };
        /// The layer that learns first, what is other than the tutorial's, how many views are kept.
        type Case = (&'static str, fn(&mut Config), usize);
        let cases: [Case; 8] = [
            ("fc", |_| (), 0),
            ("conv1", |_| (), 0),
            ("fc", fixed, 1),
            ("layer4", fixed, 1),
            ("fc", views, 2),
            ("conv1", views, 0),
            ("fc", mixed, 0),
            ("conv1", mixed, 0),
        ];
        for (case, (layer, vary, kept)) in cases.into_iter().enumerate() {
            let mut setup = Setup::new(layer, 32);
            vary(&mut setup.config);
            let (config, network) = (&setup.config, &mut setup.network);
            let listener = Listener::default();
            let context = Context { engine: &setup.engine, progress: &listener, cancel: &listener.stop, threads: 2 };
            let photos = prepare::photos(config, &context).unwrap();
            let mut inputs = Inputs::training(config, &photos, network, &context).unwrap();
            assert_eq!((inputs.num_steps(), inputs.num_photos()), (4, 11));
            assert_eq!(inputs.kept.len(), kept, "case {case}");
            for epoch in [0, 3, 4] {
                let expected = steps(&mut inputs, epoch, 0, network, &context);
                assert_eq!(expected.len(), 4);
                let mut anew = Inputs::training(config, &photos, network, &context).unwrap();
                anew.kept.clear();
                for first in 0..=4 {
                    for inputs in [&mut inputs, &mut anew] {
                        let found = steps(inputs, epoch, first, network, &context);
                        assert!(found == expected[first..], "case {case}, epoch {epoch} from step {first}");
                    }
                }
            }
            let told = listener.told.lock().unwrap();
            let computed = told.iter().filter(|told| told.starts_with("training features")).count();
            assert_eq!(computed, kept, "case {case}: values that are kept are computed once");
        }
    }

    #[test]
    fn the_photos_of_a_step_are_mixed_as_its_number_says() {
        let mut setup = Setup::new("conv1", 32);
        let mix = Mix { mixup_alpha: 0.5, cutmix_alpha: 1.0 };
        let listener = Listener::default();
        let context = Context { engine: &setup.engine, progress: &listener, cancel: &listener.stop, threads: 1 };
        let photos = prepare::photos(&setup.config, &context).unwrap();
        let mut plain = Inputs::training(&setup.config, &photos, &mut setup.network, &context).unwrap();
        setup.config.augmentation = Some(Augmentation { mix: Some(mix), ..Augmentation::default() });
        let mut mixed = Inputs::training(&setup.config, &photos, &mut setup.network, &context).unwrap();
        let network = &mut setup.network;
        let mut before = Vec::new();
        let mut steps = plain.epoch(2, 0, network, &context).unwrap();
        while let Some(step) = steps.next(network).unwrap() {
            let Labels::Classes(classes) = step.labels else { panic!("photos have a class each") };
            let mut shares = vec![0.0; 2 * classes.len()];
            shares.chunks_exact_mut(2).zip(classes).for_each(|(row, &class)| row[class] = 1.0);
            before.push((step.values.to_vec(), shares));
        }
        let mut steps = mixed.epoch(2, 0, network, &context).unwrap();
        for (number, (mut values, mut shares)) in before.into_iter().enumerate() {
            let step = steps.next(network).unwrap().unwrap();
            let drawn = mix.draw(32, 0, 2, number as u64);
            drawn.apply(&mut values, 32);
            drawn.mix_targets(&mut shares, 2);
            assert!(step.values == values, "step {number}");
            assert_eq!(step.labels, Labels::Probabilities(&shares), "step {number}");
        }
        assert!(steps.next(network).unwrap().is_none());
    }

    #[test]
    fn stopping_while_values_are_computed_keeps_none_of_them() {
        let mut setup = Setup::new("fc", 32);
        setup.config.augmentation = None;
        let listener = Listener { stop_at: "training features", ..Listener::default() };
        let context = Context { engine: &setup.engine, progress: &listener, cancel: &listener.stop, threads: 1 };
        let photos = prepare::photos(&setup.config, &context).unwrap();
        let mut inputs = Inputs::training(&setup.config, &photos, &mut setup.network, &context).unwrap();
        let error = inputs.epoch(0, 0, &mut setup.network, &context).err().unwrap();
        assert!(matches!(error, Error::Interrupted), "{error:?}");
        assert!(matches!(inputs.kept[..], [None]));
    }

    #[test]
    fn values_that_take_too_much_memory_are_not_kept() {
        // 64 channels of 512x512 pixels for each of 11 photos.
        let mut setup = Setup::new("bn1", 1024);
        setup.config.augmentation = None;
        let listener = Listener::default();
        let context = Context { engine: &setup.engine, progress: &listener, cancel: &listener.stop, threads: 1 };
        let photos = prepare::photos(&setup.config, &context).unwrap();
        let inputs = Inputs::training(&setup.config, &photos, &mut setup.network, &context).unwrap();
        assert!(inputs.kept.is_empty());
        let views = Config { views: Some(9), augmentation: Some(Augmentation::default()), ..setup.config.clone() };
        assert!(Inputs::training(&views, &photos, &mut setup.network, &context).unwrap().kept.is_empty());
        let told = listener.told.lock().unwrap();
        assert!(told.last().unwrap().contains("at conv1 in 9 views take 6336 MiB"), "{told:?}");
        let note = "the training photos' values at conv1 take 704 MiB, more than the 512 that are kept";
        assert!(told[told.len() - 2].contains(note), "{told:?}");
    }
}

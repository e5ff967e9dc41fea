//! An epoch's batches as the layers that learn see them.

use std::vec::IntoIter;

use regraft_data::{Batch, Batches, Loader, LoaderOptions, Mix, Mixed, Sample};
use regraft_engine::{Input, Labels, Session, Trunk};

use crate::photos::features::{BATCH, images};
use crate::photos::prepare::Photos;
use crate::photos::targets::SampleTargets;
use crate::{Context, Result, Settings};

/// Most bytes of features cached for the images of one part.
const MAX_CACHED_BYTES: usize = 512 << 20;

/// A part of a run's images.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Part {
    Training,
    Validation,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Training => "training",
            Part::Validation => "validation",
        }
    }

    /// The key of an image's features in the session's cache. A view has fewer than 2^32 images, a run fewer than 2^30
    /// views.
    fn key(self, view: u64, sample: u64) -> u64 {
        let part = match self {
            Part::Training => 0,
            Part::Validation => 1,
        };
        part << 62 | view << 32 | sample
    }
}

/// The key of features that are needed for a few steps alone, by their place in the loader's batch.
fn transient_key(place: usize) -> u64 {
    2 << 62 | place as u64
}

/// The training or the validation images, batch by batch. Where a trunk is frozen, its features are computed by the
/// session: once for images that are the same in every epoch, or in every few epochs, if there is room to cache them; else
/// for the images of a few steps at a time.
///
/// An epoch's steps are the same bits for any number of threads and wherever it is entered: which images pass through the
/// trunk together depends on neither. Caching makes no difference either, as far as the engine computes a sample in the
/// same way whatever is beside it: the CPU engine's convolutions and poolings do, its fully connected layers (of VGG's
/// classifier) round otherwise.
pub(crate) struct Inputs {
    part: Part,
    /// Loads the images of a few steps at a time.
    loader: Loader,
    /// Images a step.
    step_size: usize,
    /// Steps that a batch of the loader holds.
    steps_together: usize,
    has_trunk: bool,
    /// For each view of the images, whether its features are cached; empty if they never are. Epoch `e` sees view `e`
    /// modulo their number.
    cached: Vec<bool>,
    mixing: Option<Mixing>,
    targets: SampleTargets,
}

/// How the images of a step are mixed.
#[derive(Clone, Copy)]
struct Mixing {
    mix: Mix,
    seed: u64,
    /// Side of the images in pixels.
    side: u32,
}

impl Inputs {
    /// The training images: in another order every epoch and, with augmentation, varied.
    ///
    /// # Errors
    /// Errors of [`Loader::new`].
    pub fn training(settings: &Settings, photos: &Photos, trunk: Option<Trunk>, context: &Context) -> Result<Self> {
        let options = LoaderOptions {
            batch_size: settings.batch_size,
            shuffle: true,
            augmentation: settings.augmentation(),
            // More views than epochs are never seen.
            views: settings.views.map(|views| views.min(settings.epochs)),
            seed: settings.seed,
            ..LoaderOptions::default()
        };
        let samples = &photos.dataset.train;
        Self::new(Part::Training, samples, photos.targets(samples), options, settings, photos, trunk, context)
    }

    /// The validation images, as they are and in their order.
    ///
    /// # Errors
    /// Errors of [`Loader::new`].
    pub fn validation(settings: &Settings, photos: &Photos, trunk: Option<Trunk>, context: &Context) -> Result<Self> {
        let options = LoaderOptions { batch_size: BATCH, ..LoaderOptions::default() };
        let samples = &photos.dataset.val;
        Self::new(Part::Validation, samples, photos.targets(samples), options, settings, photos, trunk, context)
    }

    #[allow(clippy::too_many_arguments)] // one call for each part
    fn new(
        part: Part,
        samples: &[Sample],
        targets: SampleTargets,
        options: LoaderOptions,
        settings: &Settings,
        photos: &Photos,
        trunk: Option<Trunk>,
        context: &Context,
    ) -> Result<Self> {
        let step_size = options.batch_size;
        let (mut steps_together, mut cached) = (1, Vec::new());
        if let Some(trunk) = trunk {
            // Many images at once are faster, and what the steps change does not reach down here.
            steps_together = (BATCH / step_size).max(1);
            let views = if options.augmentation.is_none() { 1 } else { options.views.unwrap_or(0) };
            let bytes = trunk.len.saturating_mul(views).saturating_mul(samples.len() * size_of::<f32>());
            if bytes <= MAX_CACHED_BYTES {
                cached.resize(views, false);
            } else {
                let in_views = if views > 1 { format!(" in {views} views") } else { String::new() };
                context.progress.note(&format!(
                    "The frozen layers' features of the {} photos{in_views} take {} MiB, more than the {} that are cached: \
                     every epoch computes them again.",
                    part.name(),
                    bytes >> 20,
                    MAX_CACHED_BYTES >> 20
                ));
            }
        }
        let mix = options.augmentation.as_ref().and_then(|augmentation| augmentation.mix);
        let mixing = mix.map(|mix| Mixing { mix, seed: settings.seed, side: settings.preprocessing.crop });
        let options = LoaderOptions { batch_size: step_size * steps_together, workers: context.threads, ..options };
        let loader = Loader::new(samples.to_vec(), photos.store.clone(), settings.preprocessing.clone(), options)?;
        Ok(Self { part, loader, step_size, steps_together, has_trunk: trunk.is_some(), cached, mixing, targets })
    }

    /// The images of `loader` in its order, without a frozen trunk. Their targets are then to be
    /// [set](Self::set_targets).
    pub fn of_loader(loader: Loader, step_size: usize, targets: SampleTargets) -> Self {
        Self {
            part: Part::Training,
            loader,
            step_size,
            steps_together: 1,
            has_trunk: false,
            cached: Vec::new(),
            mixing: None,
            targets,
        }
    }

    /// Gives the images other targets, from the next epoch on.
    pub fn set_targets(&mut self, targets: SampleTargets) {
        self.targets = targets;
    }

    /// Steps of an epoch; the last one may be smaller than the others.
    pub fn num_steps(&self) -> usize {
        self.num_samples().div_ceil(self.step_size)
    }

    /// Images of an epoch.
    pub fn num_samples(&self) -> usize {
        self.loader.num_samples()
    }

    /// The steps of an epoch in order, from `first` on. Features that are to be cached are computed before the first of
    /// them.
    ///
    /// # Errors
    /// Errors of loading and of the session, [`crate::Error::Interrupted`].
    pub fn epoch(
        &mut self,
        epoch: u64,
        first: usize,
        session: &mut dyn Session,
        context: &Context,
    ) -> Result<Steps<'_>> {
        let views = self.cached.len() as u64;
        let view = epoch.checked_rem(views).unwrap_or(0);
        if self.cached.get(view as usize) == Some(&false) {
            let of_views = if views > 1 { format!(", view {}/{views}", view + 1) } else { String::new() };
            self.cache(&format!("{} features{of_views}", self.part.name()), view, session, context)?;
            self.cached[view as usize] = true;
        }
        let (source, skipped) = if self.cached.is_empty() {
            let batches = self.loader.epoch(epoch, first / self.steps_together);
            (Source::Loader(batches), first % self.steps_together)
        } else {
            let mut order = self.loader.order(epoch);
            order.drain(..order.len().min(first * self.step_size));
            (Source::Cache { part: self.part, view, order: order.into_iter() }, 0)
        };
        Ok(Steps {
            source,
            step_size: self.step_size,
            has_trunk: self.has_trunk,
            batch: Batch::default(),
            keys: Vec::new(),
            at: 0,
            skipped: skipped * self.step_size,
            mixing: self.mixing,
            targets: &self.targets,
            batch_targets: self.targets.select(&[]),
            epoch,
            next: (first - skipped) as u64,
        })
    }

    /// Computes the features of a view, and lets the session keep them.
    fn cache(&self, stage: &str, view: u64, session: &mut dyn Session, context: &Context) -> Result<()> {
        context.progress.begin(stage, "img", self.num_samples() as u64);
        let mut done = 0;
        for batch in self.loader.epoch(view, 0) {
            let batch = batch?;
            let keys: Vec<u64> = batch.sample_keys.iter().map(|&sample| self.part.key(view, sample)).collect();
            session.cache_features(images(&batch, 0..batch.n), &keys)?;
            done += batch.n;
            context.progress.advance(done as u64, "");
            context.check_cancelled()?;
        }
        context.progress.end();
        Ok(())
    }
}

/// An epoch's steps.
pub(crate) struct Steps<'a> {
    source: Source,
    step_size: usize,
    has_trunk: bool,
    /// The images of the current steps; without pixels where their features are cached.
    batch: Batch,
    /// Keys of their features in the session's cache.
    keys: Vec<u64>,
    /// Where the next step begins in the batch.
    at: usize,
    /// Where the next step begins in the first batch.
    skipped: usize,
    mixing: Option<Mixing>,
    /// The targets of all images of the part, and those of the batch.
    targets: &'a SampleTargets,
    batch_targets: SampleTargets,
    epoch: u64,
    /// The first step of the next batch.
    next: u64,
}

/// Where steps come from.
enum Source {
    /// Images, which pass through the trunk if there is one.
    Loader(Batches),
    /// Cached features of these samples.
    Cache { part: Part, view: u64, order: IntoIter<usize> },
}

/// A batch to train on, or to measure.
pub(crate) struct Step<'a> {
    /// Images, or cached features.
    pub input: Input<'a>,
    pub labels: Labels<'a>,
    /// The index of each image among the samples.
    pub samples: &'a [u64],
}

impl Step<'_> {
    /// What keys each image's random masks: dropout drops anew in every epoch.
    pub fn keys(&self, epoch: u64) -> Vec<u64> {
        self.samples.iter().map(|&sample| (epoch << 32) | sample).collect()
    }
}

impl Mixing {
    /// Mixes the images of each step with one another, and returns how. Keyed by the number of the step, of which the
    /// batch holds some from `first` on.
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
    /// Errors of loading and of the session.
    pub fn next(&mut self, session: &mut dyn Session) -> Result<Option<Step<'_>>> {
        while self.at >= self.batch.n {
            let mut mixed = None;
            match &mut self.source {
                Source::Loader(batches) => {
                    let Some(batch) = batches.next() else { return Ok(None) };
                    self.batch = batch?;
                    let mix = |mixing: &Mixing| mixing.apply(&mut self.batch, self.step_size, self.epoch, self.next);
                    mixed = self.mixing.as_ref().map(mix);
                    self.next += self.batch.n.div_ceil(self.step_size) as u64;
                    if self.has_trunk {
                        self.keys = (0..self.batch.n).map(transient_key).collect();
                        session.cache_features(images(&self.batch, 0..self.batch.n), &self.keys)?;
                    }
                }
                Source::Cache { order, .. } if order.len() == 0 => return Ok(None),
                Source::Cache { part, view, order } => {
                    let samples: Vec<u64> = order.by_ref().take(self.step_size).map(|sample| sample as u64).collect();
                    self.keys = samples.iter().map(|&sample| part.key(*view, sample)).collect();
                    self.batch = Batch { n: samples.len(), sample_keys: samples, ..Batch::default() };
                }
            }
            let targets = self.targets.select(&self.batch.sample_keys);
            self.batch_targets = match mixed {
                Some(mixed) => targets.mixed(self.step_size, &mixed),
                None => targets,
            };
            self.at = std::mem::take(&mut self.skipped);
        }
        let range = self.at..self.batch.n.min(self.at + self.step_size);
        self.at = range.end;
        let input = match self.has_trunk {
            true => Input::Cached(&self.keys[range.clone()]),
            false => images(&self.batch, range.clone()).into(),
        };
        Ok(Some(Step {
            input,
            labels: self.batch_targets.labels(range.clone()),
            samples: &self.batch.sample_keys[range],
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;
    use std::sync::Mutex;

    use crate::network::session::infer;
    use crate::photos::prepare;
    use crate::{Cancel, Error, Mode, Pretrained, Progress};
    use regraft_data::Preprocessing;
    use regraft_engine::{Engine, Images, SessionOptions};
    use regraft_engine_cpu::CpuEngine;
    use regraft_graph::{Grafted, NodeId, Trainable};

    /// Records reports, and cancels when a given stage begins.
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
    fn settings(dir: &Path, side: u32) -> Settings {
        for (part, class, photos) in [("train", "a", 6), ("train", "b", 5), ("val", "a", 1), ("val", "b", 1)] {
            let folder = dir.join(part).join(class);
            fs::create_dir_all(&folder).unwrap();
            for i in 0..photos {
                let pixels: Vec<u8> = (0..40 * 40).map(|p| (p * (i + 3) % 251) as u8).collect();
                fs::write(folder.join(format!("{i}.pgm")), [&b"P5 40 40 255\n"[..], &pixels].concat()).unwrap();
            }
        }
        Settings {
            mode: Mode::Frozen,
            batch_size: 3,
            preprocessing: Preprocessing { resize: side, crop: side, ..Preprocessing::default() },
            ..Settings::tutorial(dir.to_owned(), "resnet18".into())
        }
    }

    /// A network whose layers from `layer` on learn, with its images, engine and session.
    struct Setup {
        _dir: tempfile::TempDir,
        settings: Settings,
        engine: CpuEngine,
        session: Box<dyn Session>,
        output: NodeId,
    }

    impl Setup {
        fn new(layer: &str, side: u32) -> Self {
            let (dir, engine) = (tempfile::tempdir().unwrap(), CpuEngine::new(1).unwrap());
            let settings = settings(dir.path(), side);
            let pretrained = Pretrained::load(&"resnet18".into(), &crate::Source::Random, side, 0).unwrap();
            let (Grafted { graph, .. }, state) = settings.graft(&pretrained, 2).unwrap();
            let trainable = Trainable::from_layer(&graph, layer).unwrap();
            let options = SessionOptions { trainable, ..SessionOptions::inference(&graph) };
            let session = engine.compile(&graph, &state, options).unwrap();
            Self { _dir: dir, settings, engine, session, output: graph.output() }
        }
    }

    /// Everything that the steps of an epoch hold, one entry a step: the network's outputs tell the inputs apart.
    fn steps(
        inputs: &mut Inputs,
        epoch: u64,
        first: usize,
        session: &mut dyn Session,
        output: NodeId,
        context: &Context,
    ) -> Vec<String> {
        let mut steps = inputs.epoch(epoch, first, session, context).unwrap();
        let mut all = Vec::new();
        while let Some(step) = steps.next(session).unwrap() {
            let outputs = infer(session, step.input, output).unwrap();
            let bits: Vec<u32> = outputs.iter().map(|value| value.to_bits()).collect();
            all.push(format!("{:?} {:?} {bits:?}", step.samples, step.labels));
        }
        all
    }

    fn floats(step: &Step) -> Vec<f32> {
        match step.input {
            Input::Images(Images::Floats(values)) => values.to_vec(),
            _ => panic!("values of images"),
        }
    }

    #[test]
    fn epoch_is_the_same_cached_or_not_and_from_any_step() {
        let fixed = |settings: &mut Settings| settings.no_augment = true;
        let views = |settings: &mut Settings| settings.views = Some(2);
        let mixed = |settings: &mut Settings| (settings.mixup_alpha, settings.cutmix_alpha) = (0.5, 1.0);
        /// The first layer that learns, changes to the tutorial's settings, the number of cached views.
        type Case = (&'static str, fn(&mut Settings), usize);
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
        for (case, (layer, vary, cached)) in cases.into_iter().enumerate() {
            let mut setup = Setup::new(layer, 32);
            vary(&mut setup.settings);
            let (settings, session, output) = (&setup.settings, setup.session.as_mut(), setup.output);
            let trunk = session.trunk();
            let listener = Listener::default();
            let context = Context { engine: &setup.engine, progress: &listener, cancel: &listener.stop, threads: 2 };
            let photos = prepare::photos(settings, prepare::open(settings).unwrap(), &context).unwrap();
            let mut inputs = Inputs::training(settings, &photos, trunk, &context).unwrap();
            assert_eq!((inputs.num_steps(), inputs.num_samples()), (4, 11));
            assert_eq!(inputs.cached.len(), cached, "case {case}");
            for epoch in [0, 3, 4] {
                let expected = steps(&mut inputs, epoch, 0, session, output, &context);
                assert_eq!(expected.len(), 4);
                let mut anew = Inputs::training(settings, &photos, trunk, &context).unwrap();
                anew.cached.clear();
                for first in 0..=4 {
                    for inputs in [&mut inputs, &mut anew] {
                        let found = steps(inputs, epoch, first, session, output, &context);
                        assert!(found == expected[first..], "case {case}, epoch {epoch} from step {first}");
                    }
                }
            }
            let told = listener.told.lock().unwrap();
            let computed = told.iter().filter(|told| told.starts_with("training features")).count();
            assert_eq!(computed, cached, "case {case}: cached features are computed once");
        }
    }

    #[test]
    fn steps_are_mixed_by_their_number() {
        let mut setup = Setup::new("conv1", 32);
        let mix = Mix { mixup_alpha: 0.5, cutmix_alpha: 1.0 };
        let listener = Listener::default();
        let context = Context { engine: &setup.engine, progress: &listener, cancel: &listener.stop, threads: 1 };
        let photos = prepare::photos(&setup.settings, prepare::open(&setup.settings).unwrap(), &context).unwrap();
        let mut plain = Inputs::training(&setup.settings, &photos, None, &context).unwrap();
        (setup.settings.mixup_alpha, setup.settings.cutmix_alpha) = (mix.mixup_alpha, mix.cutmix_alpha);
        let mut mixed = Inputs::training(&setup.settings, &photos, None, &context).unwrap();
        let session = setup.session.as_mut();
        let mut before = Vec::new();
        let mut steps = plain.epoch(2, 0, session, &context).unwrap();
        while let Some(step) = steps.next(session).unwrap() {
            let Labels::Classes(classes) = step.labels else { panic!("photos have a class each") };
            let mut shares = vec![0.0; 2 * classes.len()];
            shares.chunks_exact_mut(2).zip(classes).for_each(|(row, &class)| row[class] = 1.0);
            before.push((floats(&step), shares));
        }
        let mut steps = mixed.epoch(2, 0, session, &context).unwrap();
        for (number, (mut values, mut shares)) in before.into_iter().enumerate() {
            let step = steps.next(session).unwrap().unwrap();
            let drawn = mix.draw(32, 0, 2, number as u64);
            drawn.apply(&mut values, 32);
            drawn.mix_targets(&mut shares, 2);
            assert!(floats(&step) == values, "step {number}");
            assert_eq!(step.labels, Labels::Probabilities(&shares), "step {number}");
        }
        assert!(steps.next(session).unwrap().is_none());
    }

    #[test]
    fn cancelling_while_features_are_cached_forgets_them() {
        let mut setup = Setup::new("fc", 32);
        setup.settings.no_augment = true;
        let listener = Listener { stop_at: "training features", ..Listener::default() };
        let context = Context { engine: &setup.engine, progress: &listener, cancel: &listener.stop, threads: 1 };
        let photos = prepare::photos(&setup.settings, prepare::open(&setup.settings).unwrap(), &context).unwrap();
        let mut inputs = Inputs::training(&setup.settings, &photos, setup.session.trunk(), &context).unwrap();
        let error = inputs.epoch(0, 0, setup.session.as_mut(), &context).err().unwrap();
        assert!(matches!(error, Error::Interrupted), "{error:?}");
        assert_eq!(inputs.cached, [false]);
    }

    #[test]
    fn features_that_take_too_much_memory_are_not_cached() {
        // 64 channels of 512x512 pixels for each of 11 photos.
        let mut setup = Setup::new("bn1", 1024);
        setup.settings.no_augment = true;
        let listener = Listener::default();
        let context = Context { engine: &setup.engine, progress: &listener, cancel: &listener.stop, threads: 1 };
        let photos = prepare::photos(&setup.settings, prepare::open(&setup.settings).unwrap(), &context).unwrap();
        let inputs = Inputs::training(&setup.settings, &photos, setup.session.trunk(), &context).unwrap();
        assert!(inputs.cached.is_empty());
        let views = Settings { views: Some(9), no_augment: false, ..setup.settings.clone() };
        assert!(Inputs::training(&views, &photos, setup.session.trunk(), &context).unwrap().cached.is_empty());
        let told = listener.told.lock().unwrap();
        assert!(told.last().unwrap().contains("photos in 9 views take 6336 MiB"), "{told:?}");
        let note = "features of the training photos take 704 MiB, more than the 512 that are cached";
        assert!(told[told.len() - 2].contains(note), "{told:?}");
    }
}

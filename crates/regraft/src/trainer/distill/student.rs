//! The student's training.

use regraft_data::{Loader, LoaderOptions};
use regraft_engine::{BatchNormMode, Outputs, Precision, SessionOptions};
use regraft_graph::{Graph, Shape, Trainable, zoo};
use regraft_learn::linear::HeadKind;

use super::product::Product;
use super::start::Start;
use super::targets::{TeacherOutputs, View};
use super::{DistillSettings, Unlabelled};
use crate::photos::features::{for_each_batch, loader};
use crate::photos::targets::SampleTargets;
use crate::run::checkpoint::{Checkpoint, Position};
use crate::run::outcome::{Distilled, Interrupted};
use crate::trainer::epochs::{Measured, Objective, Run};
use crate::trainer::inputs::Inputs;
use crate::trainer::learner::Learner;
use crate::trainer::loss::Loss;
use crate::trainer::recipe::Recipe;
use crate::{Context, Outcome, Result, RunFolder};

/// Steps between two checkpoints within an epoch.
const SAVE_EVERY: usize = 500;

/// Largest norm of a step's gradients.
const MAX_GRAD_NORM: f64 = 5.0;

/// Trains the student, or goes on doing so.
///
/// # Errors
/// Any of [`crate::Error`]; files saved before stay.
pub(super) fn run(
    settings: &DistillSettings,
    images: &Unlabelled,
    folder: &RunFolder,
    checkpoint: Option<Checkpoint>,
    context: &Context,
) -> Result<Outcome> {
    let mut targets = TeacherOutputs::open(settings, images, folder, checkpoint.is_some(), context)?;
    let shape = Shape::rgb(settings.preprocessing.crop as usize);
    let graph = zoo::build(&settings.student, targets.len())?.with_input_shape(shape)?;
    folder.require_room(targets.missing_bytes()?.saturating_add(bytes_beside_answers(settings, &graph)))?;
    let start = targets.begin(context).and_then(|()| match &checkpoint {
        Some(checkpoint) => Ok(Start::resumed(settings, &graph, &checkpoint.position)),
        None => Start::new(settings, &graph, images, context),
    });
    let start = match start {
        // The teachers' outputs so far are kept, as is the checkpoint.
        Err(error) if error.is_interruption() => {
            let (epoch, step) = checkpoint.map_or((0, 0), |it| (it.position.epoch, it.position.step));
            return Ok(Outcome::Interrupted(Interrupted { folder: folder.clone(), epoch, step }));
        }
        result => result?,
    };
    let options = SessionOptions {
        trainable: Trainable::all(&graph),
        batch_norm: BatchNormMode::Train,
        update: settings.optimizer(),
        seed: settings.seed,
        precision: Precision::F32,
        infer_precision: Precision::F32,
        outputs: Outputs::Final,
    };
    let recipe = settings.recipe();
    let learner = Learner::new(context.engine, graph, start.state, options, recipe.clone(), Loss::default())?;
    let train = inputs(settings, images, context)?;
    let position = Position::start(images.sha256.clone(), start.weights_sha256);
    let student = Student { settings, images, folder, context, targets };
    let mut run = Run::new(context, folder, recipe, learner, train, student, position);
    if let Some(checkpoint) = checkpoint {
        run.restore(checkpoint)?;
    }
    run.train()
}

impl DistillSettings {
    fn recipe(&self) -> Recipe {
        Recipe {
            epochs: self.epochs,
            patience: None,
            lr: self.lr,
            schedule: self.schedule(),
            accumulate: 1,
            max_grad_norm: Some(MAX_GRAD_NORM),
            ema: None,
            save_every: Some(SAVE_EVERY),
        }
    }
}

/// The training images, varied as the teachers see them. Their targets come with each epoch.
fn inputs(settings: &DistillSettings, images: &Unlabelled, context: &Context) -> Result<Inputs> {
    let options = LoaderOptions {
        batch_size: settings.batch_size,
        shuffle: true,
        augmentation: Some(settings.augmentation()),
        views: Some(settings.views),
        seed: settings.seed,
        workers: context.threads,
    };
    let (samples, store) = (images.train.clone(), images.store.clone());
    let loader = Loader::new(samples, store, settings.preprocessing.clone(), options)?;
    Ok(Inputs::of_loader(loader, settings.batch_size, SampleTargets::values(Vec::new(), 1)))
}

/// The most bytes that a run writes but for the teachers' answers: its checkpoint (the weights and the optimiser's tensors)
/// beside its predecessor, the student's weights and the model.
fn bytes_beside_answers(settings: &DistillSettings, graph: &Graph) -> u64 {
    let parameters: u64 = graph.parameters().iter().map(|spec| spec.len() as u64).sum();
    let checkpoint = 1 + settings.optimizer().slots().len() as u64;
    4 * parameters * (2 * checkpoint + 2) + (1 << 20)
}

/// The objective of a distillation: the teachers' outputs.
struct Student<'a> {
    settings: &'a DistillSettings,
    images: &'a Unlabelled,
    folder: &'a RunFolder,
    context: &'a Context<'a>,
    targets: TeacherOutputs<'a>,
}

impl Objective for Student<'_> {
    fn kind(&self) -> HeadKind {
        HeadKind::Value
    }

    fn outputs(&self) -> usize {
        self.targets.len()
    }

    fn begin_epoch(&mut self, epoch: usize, train: &mut Inputs) -> Result<()> {
        let rows = self.targets.of(View::Train(epoch % self.settings.views), self.context)?;
        train.set_targets(SampleTargets::values(rows, self.targets.len()));
        Ok(())
    }

    /// The mean squared error on the held-out images, standardised as in training.
    fn measure(&mut self, learner: &mut Learner, _: &Position) -> Result<Measured> {
        let (rows, len) = (self.targets.of(View::Val, self.context)?, self.targets.len());
        let loader = loader(&self.images.val, &self.images.store, &self.settings.preprocessing, self.context)?;
        let mut sum = 0.0f64;
        let infer = |images: regraft_engine::Images| learner.infer(images.into());
        for_each_batch("validating", &loader, 0, infer, self.context, |outputs, batch| {
            for (&sample, row) in batch.sample_keys.iter().zip(outputs.chunks_exact(len)) {
                let wanted = &rows[sample as usize * len..][..len];
                sum += row.iter().zip(wanted).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / len as f64;
            }
            Ok(())
        })?;
        let loss = sum / self.images.val.len() as f64;
        Ok(Measured { loss, score: 1.0 - loss, model: None, best: false })
    }

    /// Writes what comes out. It may be that all epochs were done in an earlier sitting, and this alone was not.
    fn finish(&mut self, learner: &mut Learner, position: &Position) -> Result<Outcome> {
        let Self { settings, images, folder, context, ref targets } = *self;
        let val_r2 = position.rows.last().map_or(0.0, |row| row.val_score);
        let weights_sha256 = position.weights_sha256.clone();
        let product = Product { settings, graph: &learner.graph, targets, images, weights_sha256, val_r2 };
        let (weights, model) = product.save(learner.weights()?, folder, context)?;
        Ok(Outcome::Distilled(Distilled {
            student: settings.student.clone(),
            weights,
            model,
            val_r2,
            seen: (images.train.len() * settings.epochs) as u64,
            seconds: position.seconds,
        }))
    }
}

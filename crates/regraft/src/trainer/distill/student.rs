//! The student's training.

use std::time::Instant;

use regraft_data::{Loader, LoaderOptions};
use regraft_engine::{BatchNormMode, Labels, Precision, Session, SessionOptions, Targets as LossTargets};
use regraft_graph::{Graph, Shape, Trainable, zoo};
use regraft_learn::history::Row;
use regraft_learn::linear::HeadKind;

use super::start::Start;
use super::targets::{Targets, View};
use super::{DistillConfig, Distilled, Pile, product::Product};
use crate::photos::features::{for_each_batch, loader};
use crate::run::checkpoint::{self, Changing, Loaded, Position};
use crate::run::report;
use crate::trainer::gradients::Accumulation;
use crate::trainer::inputs::Step;
use crate::{Context, Error, Result, RunFolder};

/// Steps between two checkpoints within an epoch.
const SAVE_EVERY: usize = 500;

/// Most of the gradient's norm that a step takes.
const MAX_NORM: f64 = 5.0;

/// Teaches the student, or goes on doing so.
///
/// # Errors
/// Any of [`Error`]; what was saved before stays.
pub(super) fn run(
    config: &DistillConfig,
    pile: &Pile,
    folder: &RunFolder,
    checkpoint: Option<Loaded>,
    context: &Context,
) -> Result<Distilled> {
    let mut targets = Targets::open(config, pile, folder, checkpoint.is_some(), context)?;
    let shape = Shape::rgb(config.preprocessing.crop as usize);
    let graph = zoo::build(&config.student, targets.len())?.with_input_shape(shape)?;
    folder.require_room(targets.missing_bytes()?.saturating_add(bytes_beside_answers(config, &graph)))?;
    let start = targets.begin(context).and_then(|()| match &checkpoint {
        Some(loaded) => Ok(Start::resumed(config, &graph, &loaded.position)),
        None => Start::new(config, &graph, pile, context),
    });
    let start = match start {
        // What the teachers have said so far is kept, as is the checkpoint.
        Err(error) if error.is_interruption() => {
            let (epoch, step) = checkpoint.map_or((0, 0), |loaded| (loaded.position.epoch, loaded.position.step));
            return Ok(Distilled::Interrupted { folder: folder.clone(), epoch, step });
        }
        result => result?,
    };
    let options = SessionOptions {
        trainable: Trainable::all(&graph),
        batch_norm: BatchNormMode::Train,
        update: config.optimizer(),
        seed: config.seed,
        precision: Precision::F32,
        infer_precision: Precision::F32,
    };
    let session = context.engine.compile(&graph, &start.state, options)?;
    let mut student = Student {
        config,
        pile,
        folder,
        context,
        session,
        accumulation: Accumulation::new(1).clipping(Some(MAX_NORM)),
        position: Position::start(pile.sha256.clone(), start.weights_sha256.clone()),
        began: Instant::now(),
    };
    if let Some(loaded) = checkpoint {
        student.position = loaded.restore(student.changing(), &folder.checkpoint_path())?;
    }
    match student.epochs(&mut targets) {
        Err(error) if error.is_interruption() => {
            student.position.epoch_seconds += student.began.elapsed().as_secs_f64();
            student.save()?;
            let Position { epoch, step, .. } = student.position;
            Ok(Distilled::Interrupted { folder: folder.clone(), epoch, step })
        }
        Err(error) => {
            // Neither does an error on the way cost the steps before it, unless these have led nowhere.
            if !matches!(error, Error::Diverged { .. }) {
                student.try_to_save("");
            }
            Err(error)
        }
        Ok(()) => student.finish(&graph, &targets),
    }
}

/// The most bytes that a run writes but for the teachers' answers: its checkpoint (the weights and the optimiser's tensors)
/// beside its predecessor, the student's weights and the model.
fn bytes_beside_answers(config: &DistillConfig, graph: &Graph) -> u64 {
    let parameters: u64 = graph.parameters().iter().map(|spec| spec.len() as u64).sum();
    let checkpoint = 1 + config.optimizer().slots().len() as u64;
    4 * parameters * (2 * checkpoint + 2) + (1 << 20)
}

struct Student<'a> {
    config: &'a DistillConfig,
    pile: &'a Pile,
    folder: &'a RunFolder,
    context: &'a Context<'a>,
    session: Box<dyn Session>,
    accumulation: Accumulation,
    position: Position,
    /// Since when this sitting works on the epoch at hand.
    began: Instant,
}

impl Student<'_> {
    /// All epochs that are left.
    fn epochs(&mut self, targets: &mut Targets) -> Result<()> {
        let DistillConfig { epochs, batch_size, views, seed, lr, .. } = *self.config;
        let schedule = self.config.schedule();
        let options = LoaderOptions {
            batch_size,
            shuffle: true,
            augmentation: Some(self.config.augmentation()),
            views: Some(views),
            seed,
            workers: self.context.threads,
        };
        let (samples, store) = (self.pile.train.clone(), self.pile.store.clone());
        let loader = Loader::new(samples, store, self.config.preprocessing.clone(), options)?;
        let (num_steps, len) = (loader.num_batches(), targets.len());
        while self.position.epoch < epochs {
            self.began = Instant::now();
            let epoch = self.position.epoch;
            let said = targets.of(View::Train(epoch % views), self.context)?;
            // All steps of the epoch may be done.
            let mut rate = schedule.rate(lr, epoch, self.position.step.saturating_sub(1), num_steps, epochs);
            let what = format!("epoch {}/{epochs}", epoch + 1);
            self.context.progress.begin(&what, "img", loader.num_samples() as u64);
            for batch in loader.epoch(epoch as u64, self.position.step) {
                let batch = batch?;
                rate = schedule.rate(lr, epoch, self.position.step, num_steps, epochs);
                let rows = batch.sample_keys.iter().flat_map(|&photo| &said[photo as usize * len..][..len]);
                let rows: Vec<f32> = rows.copied().collect();
                let labels = Labels::Values(&rows);
                let step = Step { values: &batch.images, labels, samples: &batch.sample_keys };
                let wanted = LossTargets { labels, label_smoothing: 0.0, class_weights: None };
                let session = self.session.as_mut();
                let (losses, due) = self.accumulation.take(session, &step, epoch, wanted, true)?;
                if due {
                    session.update(rate);
                }
                let sums = &mut self.position.sums;
                sums.loss += losses.sum;
                sums.weight += losses.weight;
                sums.seen += batch.n as u64;
                self.position.step += 1;
                require_finite("the loss", sums.loss, epoch, rate)?;
                let detail = format!("loss {:.4}", sums.loss / sums.weight);
                self.context.progress.advance(self.position.sums.seen, &detail);
                self.context.check_cancelled()?;
                if self.position.step.is_multiple_of(SAVE_EVERY) {
                    self.position.epoch_seconds += self.began.elapsed().as_secs_f64();
                    self.began = Instant::now();
                    self.try_to_save("; training goes on and tries again later");
                }
            }
            self.context.progress.end();
            let train_loss = self.position.sums.loss / self.position.sums.weight;
            let val_loss = self.validate(targets)?;
            // Before it is saved: what has diverged is of no use to go on from.
            require_finite("the loss on the photos kept apart", val_loss, epoch, rate)?;
            let row = Row {
                epoch: epoch + 1,
                train_loss,
                train_score: 1.0 - train_loss,
                val_loss,
                val_score: 1.0 - val_loss,
                lr: rate,
                seconds: self.position.epoch_seconds + self.began.elapsed().as_secs_f64(),
            };
            self.position.end_epoch(row);
            let more = if epoch + 1 < epochs { "; training goes on and tries again later" } else { "" };
            self.try_to_save(more);
            self.context.progress.epoch(&report::epoch(&row, epochs, false, HeadKind::Value));
        }
        Ok(())
    }

    /// Writes what comes out. It may be that all epochs were done in an earlier sitting, and this alone was not.
    fn finish(mut self, graph: &Graph, targets: &Targets) -> Result<Distilled> {
        let Self { config, pile, folder, context, .. } = self;
        folder.write_results(&self.position.rows, HeadKind::Value)?;
        let val_r2 = self.position.rows.last().map_or(0.0, |row| row.val_score);
        let weights_sha256 = self.position.weights_sha256.clone();
        let product = Product { config, graph, targets, pile, weights_sha256, val_r2 };
        let (weights, model) = product.save(self.session.as_mut(), folder, context)?;
        let (student, seen) = (config.student.clone(), (pile.train.len() * config.epochs) as u64);
        Ok(Distilled::Finished { student, weights, model, val_r2, seen, seconds: self.position.seconds })
    }

    /// The mean loss on the photos kept apart.
    fn validate(&mut self, targets: &mut Targets) -> Result<f64> {
        let (said, len) = (targets.of(View::Val, self.context)?, targets.len());
        let loader = loader(&self.pile.val, &self.pile.store, &self.config.preprocessing, self.context)?;
        let (mut sum, session) = (0.0f64, self.session.as_mut());
        let infer = |images: &[f32]| Ok(session.infer(images)?);
        for_each_batch("validating", &loader, 0, infer, self.context, |outputs, batch| {
            for (&photo, row) in batch.sample_keys.iter().zip(outputs.chunks_exact(len)) {
                let wanted = &said[photo as usize * len..][..len];
                sum += row.iter().zip(wanted).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / len as f64;
            }
            Ok(())
        })?;
        Ok(sum / self.pile.val.len() as f64)
    }

    fn changing(&mut self) -> Changing<'_> {
        let Self { session, accumulation, .. } = self;
        Changing { session: session.as_mut(), accumulation, average: None }
    }

    /// Saves the run's state and results. A full disk is no reason to throw the work away: it is told, with the `plan`.
    fn try_to_save(&mut self, plan: &str) {
        let results = self.folder.write_results(&self.position.rows, HeadKind::Value);
        if let Err(error) = results.and_then(|()| self.save()) {
            self.context.progress.warn(&format!("{error}{plan}"));
        }
    }

    fn save(&mut self) -> Result<()> {
        let (path, progress) = (self.folder.checkpoint_path(), self.position.clone());
        checkpoint::save(&path, self.changing(), &progress)
    }
}

/// Fails if a loss of an epoch (from 0) is not finite.
///
/// # Errors
/// [`Error::Diverged`].
fn require_finite(what: &'static str, value: f64, epoch: usize, lr: f64) -> Result<()> {
    match value.is_finite() {
        true => Ok(()),
        false => Err(Error::Diverged { what, value, epoch: epoch + 1, lr, best_epoch: None }),
    }
}

//! The student's training.

use std::time::Instant;

use regraft_data::{Loader, LoaderOptions};
use regraft_engine::{BatchNormMode, Labels, Precision, Session, SessionOptions, Targets as LossTargets};
use regraft_graph::{Shape, Trainable, zoo};
use regraft_learn::history::Row;
use regraft_learn::linear::HeadKind;

use super::start::Start;
use super::targets::{Targets, View};
use super::{DistillConfig, Distilled, Pile, product::Product};
use crate::checkpoint::{self, Changing, Loaded, Progress};
use crate::features::{for_each_batch, loader};
use crate::gradients::Accumulation;
use crate::inputs::Step;
use crate::{Context, EpochEnd, Error, Result, RunFolder};

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
    let none_yet = || Distilled::Interrupted { folder: folder.clone(), epoch: 0, step: 0 };
    let mut targets = match Targets::new(config, pile, folder, context) {
        // What they have said so far is kept.
        Err(error) if error.is_interruption() => return Ok(none_yet()),
        result => result?,
    };
    let shape = Shape::rgb(config.preprocessing.crop as usize);
    let graph = zoo::build(&config.student, targets.len())?.with_input_shape(shape)?;
    let start = match Start::new(config, &graph, pile, checkpoint.is_some(), context) {
        Err(error) if error.is_interruption() => return Ok(none_yet()),
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
        progress: Progress::start(pile.sha256.clone(), start.weights_sha256.clone()),
        began: Instant::now(),
    };
    if let Some(loaded) = checkpoint {
        student.progress = loaded.restore(student.changing(), &folder.checkpoint_path())?;
    }
    match student.epochs(&mut targets) {
        Err(error) if error.is_interruption() => {
            student.progress.epoch_seconds += student.began.elapsed().as_secs_f64();
            student.save()?;
            let Progress { epoch, step, .. } = student.progress;
            Ok(Distilled::Interrupted { folder: folder.clone(), epoch, step })
        }
        Err(error) => Err(error),
        Ok(val_r2) => {
            let session = student.session.as_mut();
            let product = Product { config, graph: &graph, targets: &targets, pile, start: &start, val_r2 };
            let (weights, model) = product.save(session, folder, context)?;
            let seen = (pile.train.len() * config.epochs) as u64;
            Ok(Distilled::Finished { weights, model, val_r2, seen, seconds: student.progress.seconds })
        }
    }
}

struct Student<'a> {
    config: &'a DistillConfig,
    pile: &'a Pile,
    folder: &'a RunFolder,
    context: &'a Context<'a>,
    session: Box<dyn Session>,
    accumulation: Accumulation,
    progress: Progress,
    /// Since when this sitting works on the epoch at hand.
    began: Instant,
}

impl Student<'_> {
    /// All epochs that are left. Returns the last validation score.
    fn epochs(&mut self, targets: &mut Targets) -> Result<f64> {
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
        while self.progress.epoch < epochs {
            self.began = Instant::now();
            let epoch = self.progress.epoch;
            let said = targets.of(View::Train(epoch % views), self.context)?;
            let mut rate = 0.0;
            let what = format!("epoch {}/{epochs}", epoch + 1);
            self.context.reporter.begin(&what, "img", loader.num_samples() as u64);
            for batch in loader.epoch(epoch as u64, self.progress.step) {
                let batch = batch?;
                rate = schedule.rate(lr, epoch, self.progress.step, num_steps, epochs);
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
                let sums = &mut self.progress.sums;
                sums.loss += losses.sum;
                sums.weight += losses.weight;
                sums.seen += batch.n as u64;
                self.progress.step += 1;
                if !sums.loss.is_finite() {
                    let (what, value) = ("the loss", sums.loss);
                    return Err(Error::Diverged { what, value, epoch: epoch + 1, lr: rate, best_epoch: None });
                }
                let detail = format!("loss {:.4}", sums.loss / sums.weight);
                self.context.reporter.advance(self.progress.sums.seen, &detail);
                self.context.go_on()?;
                if self.progress.step.is_multiple_of(SAVE_EVERY) {
                    self.progress.epoch_seconds += self.began.elapsed().as_secs_f64();
                    self.began = Instant::now();
                    self.save()?;
                }
            }
            self.context.reporter.end();
            let train_loss = self.progress.sums.loss / self.progress.sums.weight;
            let val_loss = self.validate(targets)?;
            let row = Row {
                epoch: epoch + 1,
                train_loss,
                train_score: 1.0 - train_loss,
                val_loss,
                val_score: 1.0 - val_loss,
                lr: rate,
                seconds: self.progress.epoch_seconds + self.began.elapsed().as_secs_f64(),
            };
            self.progress.end_epoch(row);
            self.save()?;
            self.folder.write_results(&self.progress.rows, HeadKind::Value)?;
            self.context.reporter.epoch(EpochEnd { row: &row, epochs, best: false, kind: HeadKind::Value });
        }
        Ok(self.progress.rows.last().map_or(0.0, |row| row.val_score))
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

    fn save(&mut self) -> Result<()> {
        let (path, progress) = (self.folder.checkpoint_path(), self.progress.clone());
        checkpoint::save(&path, self.changing(), &progress)
    }
}

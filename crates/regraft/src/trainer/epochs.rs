//! Training by gradient descent: all layers, those from a layer up, or the new head alone.

use std::path::PathBuf;
use std::time::Instant;

use regraft_engine::{BatchNormMode, Labels, Losses, Targets};
use regraft_graph::{Grafted, StateDict, Trainable};
use regraft_learn::history::Row;
use regraft_learn::linear::HeadKind;
use regraft_learn::metrics::{Tally, argmax};

use crate::model::sealed::Golden;
use crate::network::divided::{self, Network, take_over};
use crate::photos::prepare::Photos;
use crate::run::checkpoint::{self, Best, Changing, Loaded, Position, Sums};
use crate::run::report;
use crate::trainer::average::Average;
use crate::trainer::gradients::Accumulation;
use crate::trainer::inputs::{Inputs, Step};
use crate::trainer::loss::Loss;
use crate::trainer::validation::validate;
use crate::{Config, Context, Error, Finished, Keep, Model, Outcome, Pretrained, Provenance, Result, RunFolder};

/// A run by gradient descent: its network, its photos and where it is.
struct Run<'a> {
    config: &'a Config,
    context: &'a Context<'a>,
    folder: &'a RunFolder,
    photos: &'a Photos,
    /// What the network's outputs mean.
    kind: HeadKind,
    grafted: Grafted,
    batch_norm: BatchNormMode,
    network: Network,
    trainable: Trainable,
    /// The tensors that training does not change.
    frozen: StateDict,
    accumulation: Accumulation,
    /// The moving average of the weights, if it is asked for.
    average: Option<Average>,
    provenance: Provenance,
    position: Position,
    /// Since when this sitting works on the epoch at hand.
    epoch_began: Instant,
    /// The best model, while it could not be written to the run's folder.
    unsaved_best: Option<Model>,
}

/// Trains, or goes on from a checkpoint, until the last epoch or an interruption. `head` is what the head starts from, if
/// a probe has found it already.
///
/// # Errors
/// Any of [`Error`]; what was saved before stays.
pub(crate) fn run(
    config: &Config,
    backbone: &Pretrained,
    head: Option<&StateDict>,
    photos: &Photos,
    folder: &RunFolder,
    checkpoint: Option<Loaded>,
    context: &Context,
) -> Result<Outcome> {
    let (grafted, mut state) = config.graft(backbone, photos.dataset.classes.len())?;
    if checkpoint.is_none() {
        divided::initialise(config, &grafted, &mut state, head, photos, context)?;
    }
    let epoch = checkpoint.as_ref().map_or(0, |loaded| loaded.position.epoch);
    let mut run = Run::new(config, backbone, grafted, state, epoch, photos, folder, context)?;
    match checkpoint {
        Some(loaded) => {
            run.position = loaded.restore(run.changing(), &folder.checkpoint_path())?;
        }
        None => run.save_checkpoint()?,
    }
    run.train()
}

impl<'a> Run<'a> {
    #[allow(clippy::too_many_arguments)] // one call: what a run is about
    fn new(
        config: &'a Config,
        backbone: &Pretrained,
        grafted: Grafted,
        state: StateDict,
        epoch: usize,
        photos: &'a Photos,
        folder: &'a RunFolder,
        context: &'a Context<'a>,
    ) -> Result<Self> {
        let parameters: u64 = grafted.graph.parameters().iter().map(|spec| spec.len() as u64).sum();
        // The model and the checkpoint (weights, the optimiser's tensors, the average), each beside its predecessor.
        let slots = 1 + config.optimizer.slots().len() as u64 + u64::from(config.ema.is_some());
        let last = config.trainable(&grafted, config.epochs)?;
        let learning = grafted.graph.parameters().into_iter().filter(|spec| last.contains(spec.node));
        let learning: usize = learning.map(|spec| spec.len()).sum();
        folder.require_room(4 * 2 * (parameters + slots * learning as u64) + (1 << 20))?;
        let batch_norm = config.batch_norm_mode(backbone);
        let trainable = config.trainable(&grafted, epoch)?;
        let (network, frozen) = divided::compile(config, batch_norm, &grafted.graph, &trainable, state, context)?;
        Ok(Self {
            config,
            context,
            folder,
            photos,
            kind: photos.head_kind(config),
            grafted,
            batch_norm,
            network,
            trainable,
            frozen,
            accumulation: Accumulation::new(config.accumulate).clipping(config.clip_grad_norm),
            average: config.ema.map(Average::new),
            provenance: Provenance::of(config, backbone, photos),
            position: Position::start(photos.sha256.clone(), backbone.weights_sha256.clone()),
            epoch_began: Instant::now(),
            unsaved_best: None,
        })
    }

    /// Trains; neither an interruption nor an error on the way costs the steps before it.
    fn train(mut self) -> Result<Outcome> {
        let result = match self.epochs() {
            Err(Error::Interrupted) => return self.interrupt(),
            result => result,
        };
        if let Err(error) = &result
            && !matches!(error, Error::Rescued { .. } | Error::Io(_))
        {
            let diverged = matches!(error, Error::Diverged { .. });
            let saved = self.save_best().and_then(|()| if diverged { Ok(()) } else { self.save_checkpoint() });
            if let Err(unsaved) = self.or_rescue(saved) {
                self.context.progress.warn(&unsaved.to_string());
            }
        }
        result
    }

    /// The training loop.
    fn epochs(&mut self) -> Result<Outcome> {
        let Config { epochs, keep, .. } = *self.config;
        let photos: &'a Photos = self.photos;
        let dataset = &photos.dataset;
        let loss = Loss::new(self.config, dataset);
        let mut train = Inputs::training(self.config, photos, &mut self.network, self.context)?;
        let mut val = Inputs::validation(self.config, photos, &mut self.network, self.context)?;
        while !self.position.is_complete(self.config) {
            self.epoch_began = Instant::now();
            self.context.check_cancelled()?;
            let epoch = self.position.epoch;
            let (num_steps, num_photos) = (train.num_steps(), train.num_photos());
            let mut lr = self.rate(self.position.step.saturating_sub(1), num_steps);
            let mut steps = train.epoch(epoch as u64, self.position.step, &mut self.network, self.context)?;
            self.context.progress.begin(&format!("epoch {}/{epochs}", epoch + 1), "img", num_photos as u64);
            while let Some(step) = steps.next(&mut self.network)? {
                lr = self.rate(self.position.step, num_steps);
                let targets = loss.targets(&step);
                let losses = self.step(&step, targets, lr, num_steps)?;
                self.position.sums.add(&losses, targets.labels, dataset.classes.len());
                self.position.step += 1;
                let sums = self.position.sums;
                if !sums.loss.is_finite() {
                    return Err(self.diverged("the loss", sums.loss, lr));
                }
                self.context.progress.advance(sums.seen, &format!("loss {:.4}", sums.mean_loss()));
                self.context.check_cancelled()?;
            }
            self.context.progress.end();
            let sums = self.position.sums;
            let (tally, better) = self.measure(&mut val, lr)?;
            let unfroze = epoch + 1 < epochs && self.unfreeze(epoch + 1)?;
            let seconds = self.position.epoch_seconds + self.epoch_began.elapsed().as_secs_f64();
            let row = Row {
                epoch: epoch + 1,
                train_loss: sums.mean_loss(),
                train_score: sums.score(self.kind, dataset.classes.len()),
                val_loss: tally.loss(),
                val_score: tally.score(),
                lr,
                seconds,
            };
            let best = keep == Keep::Best && better.is_some();
            if let Some(model) = better {
                self.position.best = Some(Best { epoch: row.epoch, val_score: row.val_score });
                self.unsaved_best = Some(model);
            }
            self.position.end_epoch(row);
            self.save_epoch();
            self.context.progress.epoch(&report::epoch(&row, epochs, best, self.kind));
            if unfroze && !self.position.is_complete(self.config) {
                train = Inputs::training(self.config, photos, &mut self.network, self.context)?;
                val = Inputs::validation(self.config, photos, &mut self.network, self.context)?;
            }
        }
        self.finish()
    }

    /// One batch: its gradients, and with the last of those that make a step, the optimiser's step.
    fn step(&mut self, step: &Step, targets: Targets, lr: f64, num_steps: usize) -> Result<Losses> {
        let (top, progress) = (self.network.top.as_mut(), &self.position);
        let last = progress.step + 1 == num_steps;
        let (losses, due) = self.accumulation.take(top, step, progress.epoch, targets, last)?;
        if due {
            top.update(lr);
            if let Some(average) = &mut self.average {
                let warms_up = self.config.schedule.warmup.is_some_and(|it| self.position.epoch < it.total_iters);
                average.update(top, warms_up);
            }
        }
        Ok(losses)
    }

    /// The learning rate of the step that a batch belongs to.
    fn rate(&self, batch: usize, batches: usize) -> f64 {
        let Config { lr, epochs, schedule, accumulate, .. } = self.config;
        schedule.rate(*lr, self.position.epoch, batch / accumulate, batches.div_ceil(*accumulate), *epochs)
    }

    /// What the network, or its average, makes of the validation photos; and the model, if it is the best so far.
    fn measure(&mut self, val: &mut Inputs, lr: f64) -> Result<(Tally, Option<Model>)> {
        self.swap_average();
        let measured = validate(val, &mut self.network, self.kind, self.photos.dataset.classes.len(), self.context);
        let measured = measured.and_then(|tally| {
            let last = self.config.keep == Keep::Last;
            let best = last || self.position.best.is_none_or(|best| tally.score() > best.val_score);
            let best = best.then(|| self.model(self.position.epoch + 1, tally.score())).transpose()?;
            Ok((tally, best))
        });
        self.swap_average();
        measured.map_err(|error| match error {
            Error::Learn(regraft_learn::Error::Diverged { value, .. }) => {
                self.diverged("the network's answer to a validation photo", value.into(), lr)
            }
            Error::NotFinite { value } => self.diverged("the network's answer to a test input", value.into(), lr),
            other => other,
        })
    }

    fn swap_average(&mut self) {
        if let Some(average) = &mut self.average {
            average.swap(self.network.top.as_mut());
        }
    }

    /// Makes the network that of a later epoch, if other layers learn there. Those that begin to learn start as they are,
    /// without a past in the optimiser. Returns whether it is another network.
    fn unfreeze(&mut self, epoch: usize) -> Result<bool> {
        let trainable = self.config.trainable(&self.grafted, epoch)?;
        if trainable == self.trainable {
            return Ok(false);
        }
        let mut state = self.frozen.clone();
        state.extend(self.network.top.trained_state());
        let Self { config, batch_norm, context, .. } = *self;
        let (mut network, frozen) =
            divided::compile(config, batch_norm, &self.grafted.graph, &trainable, state, context)?;
        take_over(network.top.as_mut(), self.network.top.as_ref())?;
        if let Some(average) = &mut self.average {
            average.take_in(network.top.as_mut());
        }
        (self.network, self.frozen, self.trainable) = (network, frozen, trainable);
        Ok(true)
    }

    /// The error that `what` has become `value` in the epoch at hand.
    fn diverged(&self, what: &'static str, value: f64, lr: f64) -> Error {
        let best_epoch = self.position.best.map(|best| best.epoch);
        Error::Diverged { what, value, epoch: self.position.epoch + 1, lr, best_epoch }
    }

    /// The network as it is now, after an epoch (from 1) with this validation score, sealed.
    fn model(&mut self, epoch: usize, val_score: f64) -> Result<Model> {
        let graph = self.grafted.graph.clone();
        let golden = Golden::record(graph.input_shape(), |input| self.network.infer(input))?;
        let mut state = self.frozen.clone();
        state.extend(self.network.top.trained_state());
        Ok(Model {
            graph,
            state,
            classes: self.photos.dataset.classes.clone(),
            preprocessing: self.config.preprocessing.clone(),
            head: self.kind,
            unit: self.photos.unit,
            provenance: Provenance { epoch, val_score: Some(val_score), ..self.provenance.clone() },
            golden,
        })
    }

    /// Saves what an epoch brought. A full disk is no reason to throw the work away: the run goes on, and every
    /// later epoch tries again.
    fn save_epoch(&mut self) {
        let results = self.save_best().and_then(|()| self.folder.write_results(&self.position.rows, self.kind));
        if let Err(error) = results.and_then(|()| self.save_checkpoint()) {
            let more = !self.position.is_complete(self.config);
            let plan = if more { "; training goes on and tries again after the next epoch" } else { "" };
            self.context.progress.warn(&format!("{error}{plan}"));
        }
    }

    fn save_best(&mut self) -> Result<()> {
        if let Some(model) = &self.unsaved_best {
            model.save(&self.folder.best_path())?;
            self.unsaved_best = None;
        }
        Ok(())
    }

    fn save_checkpoint(&mut self) -> Result<()> {
        let (path, progress) = (self.folder.checkpoint_path(), self.position.clone());
        checkpoint::save(&path, self.changing(), &progress)
    }

    fn changing(&mut self) -> Changing<'_> {
        let Self { network, accumulation, average, .. } = self;
        Changing { session: network.top.as_mut(), accumulation, average: average.as_mut() }
    }

    /// Saves the state between two steps.
    fn interrupt(&mut self) -> Result<Outcome> {
        self.position.epoch_seconds += self.epoch_began.elapsed().as_secs_f64();
        let saved = self.save_best().and_then(|()| self.save_checkpoint());
        self.or_rescue(saved)?;
        Ok(Outcome::Interrupted { folder: self.folder.clone(), epoch: self.position.epoch, step: self.position.step })
    }

    /// The last save. What could not be saved after the last epoch is tried once more, or put elsewhere.
    fn finish(&mut self) -> Result<Outcome> {
        let saved = self.save_best().and_then(|()| self.folder.write_results(&self.position.rows, self.kind));
        self.or_rescue(saved)?;
        let best = self.position.best.expect("there was at least one epoch");
        let Config { epochs, patience, .. } = *self.config;
        if let (Some(patience), true) = (patience, self.position.epoch < epochs) {
            let (epoch, best) = (self.position.epoch, best.epoch);
            let text = format!(
                "stopped after epoch {epoch} of {epochs}: none since {best} was better (--patience {patience})"
            );
            self.context.progress.note(&text);
        }
        Ok(Outcome::Finished(Finished {
            folder: self.folder.clone(),
            best_val_score: best.val_score,
            kind: self.kind,
            best_epoch: best.epoch,
            chosen: self.config.keep == Keep::Best && self.position.epoch > 1,
            val_n: self.photos.dataset.val.len(),
            seconds: self.position.seconds,
            ladder: None,
        }))
    }

    /// If the run's folder could not be written, puts the best model where it can be.
    fn or_rescue(&self, saved: Result<()>) -> Result<()> {
        let Some(model) = &self.unsaved_best else { return saved };
        let Err(cause) = saved else { return Ok(()) };
        let rescued: PathBuf = std::env::temp_dir().join(format!("regraft-rescued-{}.safetensors", std::process::id()));
        match model.save(&rescued) {
            Ok(()) => Err(Error::Rescued { cause: Box::new(cause), rescued }),
            Err(_) => Err(cause),
        }
    }
}

impl Sums {
    /// Of a mixed photo, the class that has the largest share counts as the right one, as in torchvision; so does the answer
    /// about a label that has the larger one.
    fn add(&mut self, losses: &Losses, labels: Labels, outputs: usize) {
        self.loss += losses.sum;
        self.weight += losses.weight;
        let largest = |row: &[f32]| argmax(&row.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
        for (i, logits) in losses.logits.chunks_exact(outputs).enumerate() {
            let of_photo = i * outputs..(i + 1) * outputs;
            self.correct += match labels {
                Labels::Classes(labels) => u64::from(largest(logits) == labels[i]),
                Labels::Probabilities(shares) => u64::from(largest(logits) == largest(&shares[of_photo])),
                Labels::Binary(answers) => {
                    let right = |&(z, y): &(&f32, &f32)| (*z > 0.0) == (*y > 0.5);
                    logits.iter().zip(&answers[of_photo]).filter(right).count() as u64
                }
                Labels::Values(_) => 0,
            };
            self.seen += 1;
        }
    }

    /// How well the photos were answered while the network learned: the accuracy, of labels that of all decisions about
    /// them, of numbers R².
    fn score(&self, kind: HeadKind, outputs: usize) -> f64 {
        match kind {
            HeadKind::Softmax | HeadKind::Ovr => self.correct as f64 / self.seen.max(1) as f64,
            HeadKind::Labels => self.correct as f64 / (self.seen.max(1) * outputs as u64) as f64,
            // Numbers are learned in standard deviations from their mean.
            HeadKind::Value => 1.0 - self.mean_loss(),
        }
    }

    fn mean_loss(&self) -> f64 {
        self.loss / self.weight
    }
}

//! Training by gradient descent: all layers, those from a layer up, or the new head alone.

use std::path::PathBuf;
use std::time::Instant;

use regraft_engine::{Batch, BatchNormMode, Labels, Losses, Precision, SessionOptions, Targets};
use regraft_graph::{Graph, StateDict, Trainable};
use regraft_learn::history::Row;
use regraft_learn::linear::HeadKind;
use regraft_learn::metrics::argmax;

use crate::checkpoint::{self, Best, Loaded, Progress, Sums};
use crate::inputs::{Inputs, Step};
use crate::model::Golden;
use crate::network::Network;
use crate::prepare::Photos;
use crate::validation::validate;
use crate::{
    Backbone, BatchNorm, Config, Context, EpochEnd, Error, Finished, Mode, Model, Outcome, Provenance, Result,
    RunFolder,
};

/// A run by gradient descent: its network, its photos and where it is.
struct Run<'a> {
    config: &'a Config,
    context: &'a Context<'a>,
    folder: &'a RunFolder,
    photos: &'a Photos,
    graph: Graph,
    network: Network,
    /// The tensors that training does not change.
    frozen: StateDict,
    provenance: Provenance,
    progress: Progress,
    /// Since when this sitting works on the epoch at hand.
    epoch_began: Instant,
    /// The best model, while it could not be written to the run's folder.
    unsaved_best: Option<Model>,
}

/// Trains, or goes on from a checkpoint, until the last epoch or an interruption.
///
/// # Errors
/// Any of [`Error`]; what was saved before stays.
pub(crate) fn run(
    config: &Config,
    backbone: Backbone,
    photos: &Photos,
    folder: &RunFolder,
    checkpoint: Option<Loaded>,
    context: &Context,
) -> Result<Outcome> {
    let mut run = Run::new(config, backbone, photos, folder, context)?;
    match checkpoint {
        Some(loaded) => {
            loaded.restore(run.network.top.as_mut())?;
            run.progress = loaded.progress;
        }
        None => run.save_checkpoint()?,
    }
    run.train()
}

impl<'a> Run<'a> {
    fn new(
        config: &'a Config,
        backbone: Backbone,
        photos: &'a Photos,
        folder: &'a RunFolder,
        context: &'a Context<'a>,
    ) -> Result<Self> {
        let classes = &photos.dataset.classes;
        let (graph, mut state, head) = backbone.graft(classes.len(), false, config.seed)?;
        let trainable = trainable(config, &graph, head)?;
        let parameters: u64 = graph.parameters().iter().map(|spec| spec.len() as u64).sum();
        // The model and the checkpoint (weights and the optimiser's tensors), each beside its predecessor.
        let slots = 1 + config.optimizer.slots().len() as u64;
        let learning: usize =
            graph.parameters().iter().filter(|spec| trainable.contains(spec.node)).map(|spec| spec.len()).sum();
        folder.require_room(4 * 2 * (parameters + slots * learning as u64) + (1 << 20))?;
        let options = SessionOptions {
            trainable,
            batch_norm: match batch_norm(config, &backbone, context) {
                BatchNorm::Train => BatchNormMode::Train,
                BatchNorm::Frozen => BatchNormMode::Frozen,
            },
            update: config.optimizer,
            seed: config.seed,
            precision: config.precision,
            // What is measured and shipped is the network as others will run it.
            infer_precision: Precision::F32,
        };
        let network = Network::new(context.engine, &graph, &state, options)?;
        let provenance = Provenance::of(config, &backbone, photos);
        for name in network.top.trained_state().keys() {
            state.remove(name);
        }
        let progress = Progress::start(photos.sha256.clone(), backbone.weights_sha256.clone());
        let (frozen, unsaved_best) = (state, None);
        Ok(Self {
            config,
            context,
            folder,
            photos,
            graph,
            network,
            frozen,
            provenance,
            progress,
            epoch_began: Instant::now(),
            unsaved_best,
        })
    }

    /// Trains; neither an interruption nor an error on the way costs the steps before it.
    fn train(mut self) -> Result<Outcome> {
        let result = match self.epochs() {
            Err(Error::Interrupted) => return self.interrupt(),
            result => result,
        };
        if let Err(error) = &result
            && !matches!(error, Error::Rescued { .. } | Error::Weights(_))
        {
            let diverged = matches!(error, Error::Diverged { .. });
            let saved = self.save_best().and_then(|()| if diverged { Ok(()) } else { self.save_checkpoint() });
            if let Err(unsaved) = self.or_rescue(saved) {
                self.context.reporter.warn(&unsaved.to_string());
            }
        }
        result
    }

    /// The training loop.
    fn epochs(&mut self) -> Result<Outcome> {
        let Config { epochs, label_smoothing, .. } = *self.config;
        let photos: &'a Photos = self.photos;
        let dataset = &photos.dataset;
        let labels: Vec<usize> = dataset.train.iter().map(|sample| sample.class).collect();
        let class_weights = self.config.loss_weights(dataset.classes.len(), &labels);
        let mut train = Inputs::training(self.config, photos, &mut self.network, self.context)?;
        let mut val = Inputs::validation(self.config, photos, &mut self.network, self.context)?;
        while self.progress.epoch < epochs {
            self.epoch_began = Instant::now();
            self.context.go_on()?;
            let epoch = self.progress.epoch;
            let (num_steps, num_photos) = (train.num_steps(), train.num_photos());
            let mut lr = self.rate(self.progress.step.saturating_sub(1), num_steps);
            let mut steps = train.epoch(epoch as u64, self.progress.step, &mut self.network, self.context)?;
            self.context.reporter.begin(&format!("epoch {}/{epochs}", epoch + 1), "img", num_photos as u64);
            while let Some(step) = steps.next(&mut self.network)? {
                lr = self.rate(self.progress.step, num_steps);
                let labels = step.targets();
                let targets = Targets { labels, label_smoothing, class_weights: class_weights.as_deref() };
                let losses = self.step(&step, targets, lr)?;
                self.progress.sums.add(&losses, labels, dataset.classes.len());
                self.progress.step += 1;
                let sums = self.progress.sums;
                if !sums.loss.is_finite() {
                    return Err(self.diverged("the loss", sums.loss, lr));
                }
                self.context.reporter.advance(sums.seen, &format!("loss {:.4}", sums.mean_loss()));
                self.context.go_on()?;
            }
            self.context.reporter.end();
            let tally = match validate(&mut val, &mut self.network, dataset.classes.len(), self.context) {
                Err(Error::Learn(regraft_learn::Error::Diverged { value, .. })) => {
                    return Err(self.diverged("the network's answer to a validation photo", value.into(), lr));
                }
                result => result?,
            };
            let sums = std::mem::take(&mut self.progress.sums);
            let seconds = self.progress.epoch_seconds + self.epoch_began.elapsed().as_secs_f64();
            let row = Row {
                epoch: epoch + 1,
                train_loss: sums.mean_loss(),
                train_acc: sums.correct as f64 / sums.seen.max(1) as f64,
                val_loss: tally.loss(),
                val_acc: tally.top1(),
                lr,
                seconds,
            };
            let best = self.progress.best.is_none_or(|best| row.val_acc > best.val_acc);
            if best {
                let best = Best { epoch: row.epoch, val_acc: row.val_acc };
                self.unsaved_best = Some(match self.model(best) {
                    Err(Error::NotFinite { value }) => {
                        return Err(self.diverged("the network's answer to a test input", value.into(), lr));
                    }
                    result => result?,
                });
                self.progress.best = Some(best);
            }
            self.progress.rows.push(row);
            self.progress.epoch += 1;
            self.progress.step = 0;
            self.progress.epoch_seconds = 0.0;
            self.progress.seconds += seconds;
            self.save_epoch();
            self.context.reporter.epoch(EpochEnd { row: &row, epochs, best });
        }
        self.finish()
    }

    /// One step of the optimiser.
    fn step(&mut self, step: &Step, targets: Targets, lr: f64) -> Result<Losses> {
        let epoch = (self.progress.epoch as u64) << 32;
        let keys: Vec<u64> = step.samples.iter().map(|&sample| epoch | sample).collect();
        let losses = self.network.top.gradients(Batch { inputs: step.values, keys: &keys }, targets)?;
        self.network.top.update(lr);
        Ok(losses)
    }

    fn rate(&self, step: usize, steps: usize) -> f64 {
        let Config { lr, epochs, schedule, .. } = self.config;
        schedule.rate(*lr, self.progress.epoch, step, steps, *epochs)
    }

    /// The error that `what` has become `value` in the epoch at hand.
    fn diverged(&self, what: &'static str, value: f64, lr: f64) -> Error {
        let best_epoch = self.progress.best.map(|best| best.epoch);
        Error::Diverged { what, value, epoch: self.progress.epoch + 1, lr, best_epoch }
    }

    /// The network as it is now, which is the best so far, sealed.
    fn model(&mut self, best: Best) -> Result<Model> {
        let golden = Golden::record(self.graph.input_shape(), |input| self.network.infer(input))?;
        let mut state = self.frozen.clone();
        state.extend(self.network.top.trained_state());
        Ok(Model {
            graph: self.graph.clone(),
            state,
            classes: self.photos.dataset.classes.clone(),
            preprocessing: self.config.preprocessing.clone(),
            head: HeadKind::Softmax,
            provenance: Provenance { epoch: best.epoch, val_acc: best.val_acc, ..self.provenance.clone() },
            golden,
        })
    }

    /// Saves what an epoch brought. A full disk is no reason to throw the work away: the run goes on, and every
    /// later epoch tries again.
    fn save_epoch(&mut self) {
        let results = self.save_best().and_then(|()| self.folder.write_results(&self.progress.rows));
        if let Err(error) = results.and_then(|()| self.save_checkpoint()) {
            let more = self.progress.epoch < self.config.epochs;
            let plan = if more { "; training goes on and tries again after the next epoch" } else { "" };
            self.context.reporter.warn(&format!("{error}{plan}"));
        }
    }

    fn save_best(&mut self) -> Result<()> {
        if let Some(model) = &self.unsaved_best {
            model.save(&self.folder.best_path())?;
            self.unsaved_best = None;
        }
        Ok(())
    }

    fn save_checkpoint(&self) -> Result<()> {
        checkpoint::save(&self.folder.checkpoint_path(), self.network.top.as_ref(), &self.progress)
    }

    /// Saves the state between two steps.
    fn interrupt(&mut self) -> Result<Outcome> {
        self.progress.epoch_seconds += self.epoch_began.elapsed().as_secs_f64();
        let saved = self.save_best().and_then(|()| self.save_checkpoint());
        self.or_rescue(saved)?;
        Ok(Outcome::Interrupted { folder: self.folder.clone(), epoch: self.progress.epoch, step: self.progress.step })
    }

    /// The last save. What could not be saved after the last epoch is tried once more, or put elsewhere.
    fn finish(&mut self) -> Result<Outcome> {
        let saved = self.save_best().and_then(|()| self.folder.write_results(&self.progress.rows));
        self.or_rescue(saved)?;
        let best = self.progress.best.expect("there was at least one epoch");
        Ok(Outcome::Finished(Finished {
            folder: self.folder.clone(),
            best_val_acc: best.val_acc,
            best_epoch: best.epoch,
            val_n: self.photos.dataset.val.len(),
            seconds: self.progress.seconds,
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
    /// Of a mixed photo, the class that has the largest share counts as the right one, as in torchvision.
    fn add(&mut self, losses: &Losses, labels: Labels, classes: usize) {
        self.loss += losses.sum;
        self.weight += losses.weight;
        let largest = |row: &[f32]| argmax(&row.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
        for (i, logits) in losses.logits.chunks_exact(classes).enumerate() {
            let label = match labels {
                Labels::Classes(labels) => labels[i],
                Labels::Probabilities(targets) => largest(&targets[i * classes..][..classes]),
            };
            self.correct += u64::from(largest(logits) == label);
            self.seen += 1;
        }
    }

    fn mean_loss(&self) -> f64 {
        self.loss / self.weight
    }
}

/// The layers that learn.
fn trainable(config: &Config, graph: &Graph, head: usize) -> Result<Trainable> {
    Ok(match (config.mode, &config.freeze_until) {
        (Mode::Frozen | Mode::Probe, _) => Trainable::only(graph, head),
        (Mode::Finetune, Some(layer)) => Trainable::from_layer(graph, layer)?,
        (Mode::Finetune, None) => Trainable::all(graph),
    })
}

/// What batch norms do, where nothing was asked for.
fn batch_norm(config: &Config, backbone: &Backbone, context: &Context) -> BatchNorm {
    let folded = backbone.weights_sha256.is_some() && backbone.batch_norms_are_folded();
    let trains_them = config.mode == Mode::Finetune;
    match config.bn {
        None if folded => {
            if trains_them {
                context.reporter.note("the batch norms of these weights are folded into the convolutions: --bn frozen");
            }
            BatchNorm::Frozen
        }
        None => BatchNorm::Train,
        Some(BatchNorm::Train) if folded && trains_them => {
            let text = "the batch norms of these weights are folded; with --bn train they will normalise again, \
                        and the network starts broken: use --bn frozen";
            context.reporter.warn(text);
            BatchNorm::Train
        }
        Some(mode) => mode,
    }
}

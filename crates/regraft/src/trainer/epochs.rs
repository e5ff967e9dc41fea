//! A run by gradient descent: epochs, validation, checkpoints, and how it ends. What it learns from is its objective's
//! business: labels ([`supervised`](super::supervised)) or what teachers say ([`distill`](super::distill)).

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use regraft_learn::history::Row;
use regraft_learn::linear::HeadKind;

use crate::run::checkpoint::{self, Best, Checkpoint, Position};
use crate::run::outcome::Interrupted;
use crate::run::report;
use crate::trainer::inputs::Inputs;
use crate::trainer::learner::{Learner, Pace, Taken};
use crate::trainer::recipe::Recipe;
use crate::{Context, Error, Model, Outcome, Result, RunFolder};

/// What a run learns from, and what comes of it.
pub(crate) trait Objective {
    /// What the network's outputs mean.
    fn kind(&self) -> HeadKind;

    /// Outputs of the network.
    fn outputs(&self) -> usize;

    /// Prepares the inputs of an epoch (from 0), the first one of a sitting included.
    ///
    /// # Errors
    /// Any of [`Error`].
    fn begin_epoch(&mut self, _epoch: usize, _train: &mut Inputs) -> Result<()> {
        Ok(())
    }

    /// Changes the network to that of the next epoch (from 0), if other layers learn there. What is saved after an epoch is
    /// this network.
    ///
    /// # Errors
    /// Any of [`Error`].
    fn prepare_epoch(&mut self, _epoch: usize, _learner: &mut Learner, _train: &mut Inputs) -> Result<()> {
        Ok(())
    }

    /// Measures the network after an epoch.
    ///
    /// # Errors
    /// Any of [`Error`]; the caller finds values that are not finite.
    fn measure(&mut self, learner: &mut Learner, position: &Position) -> Result<Measured>;

    /// What comes of the run.
    ///
    /// # Errors
    /// Any of [`Error`].
    fn finish(&mut self, learner: &mut Learner, position: &Position) -> Result<Outcome>;
}

/// A network measured after an epoch.
pub(crate) struct Measured {
    pub loss: f64,
    pub score: f64,
    /// The network as a model, if it is the best so far.
    pub model: Option<Model>,
    /// Whether it was chosen for its score, which is then worth telling.
    pub best: bool,
}

/// A run by gradient descent.
pub(crate) struct Run<'a, O> {
    pub context: &'a Context<'a>,
    pub folder: &'a RunFolder,
    pub recipe: Recipe,
    pub learner: Learner,
    pub train: Inputs,
    pub objective: O,
    pub position: Position,
    /// Since when this sitting works on the current epoch.
    epoch_began: Instant,
    /// The best model, while it could not be written to the run's folder.
    unsaved_best: Option<Model>,
}

impl<'a, O: Objective> Run<'a, O> {
    pub fn new(
        context: &'a Context<'a>,
        folder: &'a RunFolder,
        recipe: Recipe,
        learner: Learner,
        train: Inputs,
        objective: O,
        position: Position,
    ) -> Self {
        let epoch_began = Instant::now();
        Self { context, folder, recipe, learner, train, objective, position, epoch_began, unsaved_best: None }
    }

    /// Puts back what a checkpoint holds.
    ///
    /// # Errors
    /// [`Error::Engine`] if a tensor is absent or misshapen.
    pub fn restore(&mut self, checkpoint: Checkpoint) -> Result<()> {
        self.learner.restore(&checkpoint.state)?;
        self.position = checkpoint.position;
        Ok(())
    }

    /// Trains until the end, or until it is cancelled. Neither that nor an error costs the steps before it.
    ///
    /// # Errors
    /// Any of [`Error`]; files saved before stay.
    pub fn train(mut self) -> Result<Outcome> {
        match self.epochs() {
            Ok(()) => self.finish(),
            Err(error) if error.is_interruption() => self.interrupt(),
            Err(error) => {
                self.keep_what_is_sound(&error);
                Err(error)
            }
        }
    }

    /// The training loop.
    fn epochs(&mut self) -> Result<()> {
        while !self.position.is_complete(&self.recipe) {
            self.context.check_cancelled()?;
            self.epoch_began = Instant::now();
            self.objective.begin_epoch(self.position.epoch, &mut self.train)?;
            self.steps()?;
            let lr = self.current_rate();
            let measured = self.measure(lr)?;
            let next = self.position.epoch + 1;
            if next < self.recipe.epochs {
                self.objective.prepare_epoch(next, &mut self.learner, &mut self.train)?;
            }
            self.end_epoch(measured, lr);
        }
        Ok(())
    }

    /// The steps of the current epoch that are still to be taken.
    fn steps(&mut self) -> Result<()> {
        let (epoch, first) = (self.position.epoch, self.position.step);
        let (num_steps, num_samples) = (self.train.num_steps(), self.train.num_samples() as u64);
        let Self { context, folder, recipe, learner, train, position, epoch_began, .. } = self;
        let mut pace = EpochPace { context, folder, recipe, num_steps, num_samples, position, epoch_began };
        learner.epoch(train, epoch, first, &mut pace, context)?;
        context.progress.end();
        Ok(())
    }

    /// The learning rate of the epoch's latest step.
    fn current_rate(&self) -> f64 {
        let Position { epoch, step, .. } = self.position;
        self.recipe.rate(epoch, step.saturating_sub(1), self.train.num_steps())
    }

    fn measure(&mut self, lr: f64) -> Result<Measured> {
        let measured = self.objective.measure(&mut self.learner, &self.position).map_err(|error| match error {
            Error::Learn(regraft_learn::Error::Diverged { value, .. }) => {
                self.diverged("the network's output for a validation photo", value.into(), lr)
            }
            Error::NotFinite { value } => self.diverged("the network's output for a test input", value.into(), lr),
            other => other,
        })?;
        // What has diverged is of no use to go on from.
        match measured.loss.is_finite() {
            true => Ok(measured),
            false => Err(self.diverged("the loss on the validation photos", measured.loss, lr)),
        }
    }

    fn diverged(&self, what: &'static str, value: f64, lr: f64) -> Error {
        self.position.diverged(what, value, lr)
    }

    /// Notes what an epoch brought, and saves it. A full disk is no reason to throw the work away: the run goes on, and
    /// every later epoch tries again.
    fn end_epoch(&mut self, measured: Measured, lr: f64) {
        let (sums, kind) = (self.position.sums, self.objective.kind());
        let row = Row {
            epoch: self.position.epoch + 1,
            train_loss: sums.mean_loss(),
            train_score: sums.score(kind, self.objective.outputs()),
            val_loss: measured.loss,
            val_score: measured.score,
            lr,
            seconds: self.position.epoch_seconds + self.epoch_began.elapsed().as_secs_f64(),
        };
        if let Some(model) = measured.model {
            self.position.best = Some(Best { epoch: row.epoch, val_score: row.val_score });
            self.unsaved_best = Some(model);
        }
        self.position.end_epoch(row);
        let saved = self.save_results().and_then(|()| self.save_checkpoint());
        if let Err(error) = saved {
            let more = !self.position.is_complete(&self.recipe);
            let plan = if more { "; training goes on and tries again after the next epoch" } else { "" };
            self.context.progress.warn(&format!("{error}{plan}"));
        }
        self.context.progress.epoch(&report::epoch(&row, self.recipe.epochs, measured.best, kind));
    }

    /// Writes the state between two steps.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn save_checkpoint(&self) -> Result<()> {
        checkpoint::save(&self.folder.checkpoint_path(), &self.learner.session.state()?, &self.position)
    }

    fn save_best(&mut self) -> Result<()> {
        if let Some(model) = &self.unsaved_best {
            model.save(&self.folder.best_path())?;
            self.unsaved_best = None;
        }
        Ok(())
    }

    fn save_results(&mut self) -> Result<()> {
        self.save_best()?;
        self.folder.write_results(&self.position.rows, self.objective.kind())
    }

    /// Saves the last sound state before an error. After a divergence that is the checkpoint before it.
    fn keep_what_is_sound(&mut self, error: &Error) {
        if matches!(error, Error::Rescued { .. } | Error::Io(_)) {
            return;
        }
        let diverged = matches!(error, Error::Diverged { .. });
        let saved = self.save_best().and_then(|()| if diverged { Ok(()) } else { self.save_checkpoint() });
        if let Err(unsaved) = self.or_rescue(saved) {
            self.context.progress.warn(&unsaved.to_string());
        }
    }

    /// Saves the state between two steps.
    fn interrupt(&mut self) -> Result<Outcome> {
        self.position.epoch_seconds += self.epoch_began.elapsed().as_secs_f64();
        let saved = self.save_best().and_then(|()| self.save_checkpoint());
        self.or_rescue(saved)?;
        let Position { epoch, step, .. } = self.position;
        Ok(Outcome::Interrupted(Interrupted { folder: self.folder.clone(), epoch, step }))
    }

    /// The last save. What could not be saved after the last epoch is tried once more, or put elsewhere.
    fn finish(&mut self) -> Result<Outcome> {
        let saved = self.save_results();
        self.or_rescue(saved)?;
        self.objective.finish(&mut self.learner, &self.position)
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

/// The learning rates of an epoch of a run, and what each of its batches changes.
struct EpochPace<'a, 'b> {
    context: &'a Context<'b>,
    folder: &'a RunFolder,
    recipe: &'a Recipe,
    num_steps: usize,
    num_samples: u64,
    position: &'a mut Position,
    epoch_began: &'a mut Instant,
}

impl Pace for EpochPace<'_, '_> {
    fn begin(&mut self) {
        let (progress, epoch, epochs) = (self.context.progress, self.position.epoch, self.recipe.epochs);
        progress.overall(epoch as u64 * self.num_samples, epochs as u64 * self.num_samples);
        progress.begin(&format!("epoch {}/{epochs}", epoch + 1), "img", self.num_samples);
    }

    fn rate(&mut self, batch: usize) -> f64 {
        self.recipe.rate(self.position.epoch, batch, self.num_steps)
    }

    fn after(&mut self, learner: &mut Learner, taken: &Taken) -> Result<ControlFlow<()>> {
        self.position.sums.add(&taken.losses, taken.samples);
        self.position.step += 1;
        let sums = self.position.sums;
        if !sums.loss.is_finite() {
            return Err(self.position.diverged("the loss", sums.loss, taken.lr));
        }
        self.context.progress.advance(sums.seen, &format!("loss {:.4}", sums.mean_loss()));
        if self.recipe.save_every.is_some_and(|steps| self.position.step.is_multiple_of(steps)) {
            self.position.epoch_seconds += self.epoch_began.elapsed().as_secs_f64();
            *self.epoch_began = Instant::now();
            let state = learner.session.state()?;
            if let Err(error) = checkpoint::save(&self.folder.checkpoint_path(), &state, self.position) {
                self.context.progress.warn(&format!("{error}; training goes on and tries again later"));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

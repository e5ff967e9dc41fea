//! A network that learns, and the loop over an epoch's steps.

use std::ops::ControlFlow;

use regraft_engine::{
    Batch, Engine, Input, Losses, MovingAverage, Session, SessionOptions, SessionState, StepOptions, Want,
};
use regraft_graph::{Graph, StateDict, Trainable};

use crate::network::session;
use crate::trainer::inputs::{Inputs, Step};
use crate::trainer::loss::Loss;
use crate::trainer::recipe::Recipe;
use crate::{Context, Result};

/// A network that learns.
pub(crate) struct Learner {
    pub session: Box<dyn Session>,
    pub graph: Graph,
    /// The layers that learn.
    pub trainable: Trainable,
    /// The tensors that training does not change.
    frozen: StateDict,
    loss: Loss,
    recipe: Recipe,
    /// Batches accumulated since the last step.
    pending: usize,
}

/// A batch that was trained on.
pub(crate) struct Taken {
    /// Learning rate of the step that it belongs to.
    pub lr: f64,
    pub losses: Losses,
    pub samples: usize,
    /// Whether it completed a step.
    pub stepped: bool,
}

/// Decides the learning rate of an epoch's steps, and whether to go on after each batch.
pub(crate) trait Pace {
    /// Hears that the epoch's inputs are ready.
    fn begin(&mut self);

    /// The learning rate of the step that batch number `batch` of the epoch belongs to.
    fn rate(&mut self, batch: usize) -> f64;

    /// Hears of a batch.
    ///
    /// # Errors
    /// Whatever is a reason to give the epoch up.
    fn after(&mut self, learner: &mut Learner, taken: &Taken) -> Result<ControlFlow<()>>;
}

impl Learner {
    /// Compiles a network; `state` holds all of its tensors.
    ///
    /// # Errors
    /// Errors of [`Engine::compile`].
    pub fn new(
        engine: &dyn Engine,
        graph: Graph,
        state: StateDict,
        options: SessionOptions,
        recipe: Recipe,
        loss: Loss,
    ) -> Result<Self> {
        let trainable = options.trainable.clone();
        let session = engine.compile(&graph, &state, options)?;
        let mut frozen = state;
        for name in session.weights()?.keys() {
            frozen.remove(name);
        }
        Ok(Self { session, graph, trainable, frozen, loss, recipe, pending: 0 })
    }

    /// Trains on an epoch's batches from number `first` on.
    ///
    /// # Errors
    /// Errors of loading, of the session and of `pace`, [`crate::Error::Interrupted`] between two batches.
    pub fn epoch(
        &mut self,
        inputs: &mut Inputs,
        epoch: usize,
        first: usize,
        pace: &mut dyn Pace,
        context: &Context,
    ) -> Result<()> {
        let num_batches = inputs.num_steps();
        let mut steps = inputs.epoch(epoch as u64, first, self.session.as_mut(), context)?;
        pace.begin();
        let mut batch = first;
        while let Some(step) = steps.next(self.session.as_mut())? {
            let lr = pace.rate(batch);
            let (losses, stepped) = self.step(&step, epoch, lr, batch + 1 == num_batches)?;
            let taken = Taken { lr, losses, samples: step.samples.len(), stepped };
            if pace.after(self, &taken)?.is_break() {
                break;
            }
            context.check_cancelled()?;
            batch += 1;
        }
        Ok(())
    }

    /// One batch: its gradients and, if it completes one or is the epoch's `last`, the optimiser's step. Returns its
    /// losses, and whether a step was taken.
    ///
    /// # Errors
    /// Errors of [`Session::accumulate`] and [`Session::step`].
    fn step(&mut self, step: &Step, epoch: usize, lr: f64, last: bool) -> Result<(Losses, bool)> {
        let sample_keys = step.keys(epoch as u64);
        let batch = Batch { input: step.input, sample_keys: &sample_keys };
        let losses = self.session.accumulate(batch, self.loss.targets(step), Want::Losses)?;
        self.pending += 1;
        let due = self.pending >= self.recipe.accumulate || last;
        if due {
            let restart = self.recipe.schedule.warmup.is_some_and(|warmup| epoch < warmup.total_iters);
            self.session.step(&StepOptions {
                lr,
                max_grad_norm: self.recipe.max_grad_norm,
                average: self.recipe.ema.map(|decay| MovingAverage { decay, restart }),
                collective: None,
            })?;
            self.pending = 0;
        }
        Ok((losses, due))
    }

    /// The network's output in evaluation mode: `[n, outputs]`, row-major.
    ///
    /// # Errors
    /// Errors of [`Session::infer`].
    pub fn infer(&mut self, input: Input) -> Result<Vec<f32>> {
        session::infer(self.session.as_mut(), input, self.graph.output())
    }

    /// All tensors of the network as it infers now: the moving average's while that is in use.
    ///
    /// # Errors
    /// Errors of [`Session::weights`].
    pub fn weights(&self) -> Result<StateDict> {
        let mut state = self.frozen.clone();
        state.extend(self.session.weights()?);
        Ok(state)
    }

    /// All tensors of the network without the moving average.
    ///
    /// # Errors
    /// Errors of [`Session::state`].
    pub fn trained(&self) -> Result<StateDict> {
        let mut state = self.frozen.clone();
        state.extend(self.session.state()?.trained);
        Ok(state)
    }

    /// Puts back what [`Session::state`] gave.
    ///
    /// # Errors
    /// Errors of [`Session::restore`].
    pub fn restore(&mut self, state: &SessionState) -> Result<()> {
        self.session.restore(state)?;
        self.pending = state.pending.batches;
        Ok(())
    }

    /// Takes over the past of a learner of the same network in which fewer layers learned: the optimiser's tensors and the
    /// moving average. Layers that begin to learn have no past, and their average is what they are.
    ///
    /// # Errors
    /// Errors of [`Session::state`] and [`Session::restore`].
    pub fn continue_from(&mut self, previous: &Self) -> Result<()> {
        let (mut state, past) = (self.session.state()?, previous.session.state()?);
        state.optimizer.extend(past.optimizer);
        state.average = past.average.map(|average| {
            let mut all = state.trained.clone();
            all.extend(average);
            all
        });
        self.restore(&state)
    }
}

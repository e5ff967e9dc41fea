//! The exponential moving average of the weights.

use std::collections::BTreeMap;

use regraft_engine::Session;
use regraft_graph::StateDict;

use crate::Result;

/// A second set of the tensors that training changes, each `decay * average + (1 - decay) * tensor` after every step:
/// torchvision's `ExponentialMovingAverage`, an `AveragedModel` with `use_buffers=True`, so that the running statistics
/// are averaged too. The first step, and every step of a warm-up, copies.
pub(crate) struct Average {
    decay: f32,
    /// In the engine's layouts; empty before the first step.
    tensors: BTreeMap<String, Vec<f32>>,
}

impl Average {
    pub fn new(decay: f64) -> Self {
        Self { decay: decay as f32, tensors: BTreeMap::new() }
    }

    /// Takes a step into account, or starts anew from here.
    pub fn update(&mut self, session: &mut dyn Session, anew: bool) {
        if anew {
            self.tensors.clear();
        }
        session.visit_trained(&mut |name, tensor| match self.tensors.get_mut(name) {
            Some(average) => {
                for (a, &x) in average.iter_mut().zip(&*tensor) {
                    *a = self.decay * *a + (1.0 - self.decay) * x;
                }
            }
            None => {
                self.tensors.insert(name.into(), tensor.to_vec());
            }
        });
    }

    /// Takes in layers that begin to learn, as they are: their average until now is what they were.
    pub fn take_in(&mut self, session: &mut dyn Session) {
        if self.tensors.is_empty() {
            return;
        }
        session.visit_trained(&mut |name, tensor| {
            self.tensors.entry(name.into()).or_insert_with(|| tensor.to_vec());
        });
    }

    /// Exchanges the average and the session's tensors: once to use the average, once more to go on training.
    pub fn swap(&mut self, session: &mut dyn Session) {
        session.visit_trained(&mut |name, tensor| {
            if let Some(average) = self.tensors.get_mut(name) {
                average.swap_with_slice(tensor);
            }
        });
    }

    /// The average in PyTorch's layouts; empty before the first step.
    pub fn state(&mut self, session: &mut dyn Session) -> StateDict {
        if self.tensors.is_empty() {
            return StateDict::new();
        }
        self.swap(session);
        let state = session.trained_state();
        self.swap(session);
        state
    }

    /// Puts back what [`state`](Self::state) gave.
    ///
    /// # Errors
    /// [`crate::Error::Engine`] if a tensor is absent or misshapen.
    pub fn restore(&mut self, session: &mut dyn Session, state: &StateDict) -> Result<()> {
        self.tensors.clear();
        if state.is_empty() {
            return Ok(());
        }
        let trained = session.trained_state();
        session.restore_trained(state)?;
        self.update(session, true);
        Ok(session.restore_trained(&trained)?)
    }
}

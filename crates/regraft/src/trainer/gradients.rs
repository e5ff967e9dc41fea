//! What happens to gradients between the backward pass and the step: accumulation, clipping.

use std::collections::BTreeMap;

use regraft_engine::{Batch, Losses, Session, Targets};
use regraft_graph::{StateDict, Tensor};

use crate::Result;
use crate::trainer::inputs::Step;

/// Gradients of several batches on their way to one step.
///
/// Each batch counts by the weight of its samples, so the step is that of all of them as one batch, whatever their
/// sizes; only batch norms that take each batch's own statistics tell the difference.
pub(crate) struct Accumulation {
    /// Batches a step.
    every: usize,
    /// Largest norm of a step's gradients, if they are clipped.
    max_norm: Option<f64>,
    batches: usize,
    weight: f64,
    /// Weighted sums, in the engine's layouts.
    sums: BTreeMap<String, Vec<f32>>,
}

impl Accumulation {
    pub fn new(every: usize) -> Self {
        Self { every, max_norm: None, batches: 0, weight: 0.0, sums: BTreeMap::new() }
    }

    /// The same, with each step's gradients clipped.
    pub fn clipping(self, max_norm: Option<f64>) -> Self {
        Self { max_norm, ..self }
    }

    /// A batch up to the optimiser: forward, backward, accumulation, clipping. Returns its losses, and whether the session
    /// is ready for a step, as it is after the `last` batch of an epoch in any case.
    ///
    /// # Errors
    /// Those of [`Session::gradients`].
    pub fn take(
        &mut self,
        session: &mut dyn Session,
        step: &Step,
        epoch: usize,
        targets: Targets,
        last: bool,
    ) -> Result<(Losses, bool)> {
        let keys = step.keys(epoch as u64);
        let losses = session.gradients(Batch { inputs: step.values, keys: &keys }, targets)?;
        let due = self.add(session, losses.weight, last);
        if let (true, Some(max_norm)) = (due, self.max_norm) {
            clip_norm(session, max_norm);
        }
        Ok((losses, due))
    }

    /// Adds the gradient in the session, of a batch of this weight. Returns whether a step is due, because enough
    /// batches are together or this is the `last`; the session then holds the gradient of all of them.
    pub fn add(&mut self, session: &mut dyn Session, weight: f64, last: bool) -> bool {
        let (first, due) = (self.batches == 0, self.batches + 1 >= self.every || last);
        if first && due {
            return true;
        }
        let factor = weight as f32;
        self.weight += weight;
        self.batches += 1;
        let scale = (1.0 / self.weight) as f32;
        session.visit_gradients(&mut |name, grad| {
            let sum = self.sums.entry(name.into()).or_insert_with(|| vec![0.0; grad.len()]);
            for (sum, g) in sum.iter_mut().zip(grad) {
                *sum += factor * *g;
                if due {
                    *g = scale * *sum;
                }
            }
        });
        if due {
            *self = Self::new(self.every).clipping(self.max_norm);
        }
        due
    }

    /// The sums, should a run stop between two batches of a step, and what they are of. Their layout is the engine's.
    pub fn state(&self) -> (StateDict, Pending) {
        let tensor = |sum: &Vec<f32>| Tensor::new([sum.len()], sum.clone());
        let sums = self.sums.iter().map(|(name, sum)| (name.clone(), tensor(sum))).collect();
        (sums, Pending { batches: self.batches, weight: self.weight })
    }

    /// Puts back what [`state`](Self::state) gave; whether the sums are those of the session's gradients.
    pub fn restore(&mut self, session: &mut dyn Session, sums: StateDict, pending: Pending) -> bool {
        if pending.batches == 0 {
            return true;
        }
        let (mut found, mut fits) = (0, true);
        session.visit_gradients(&mut |name, grad| {
            found += 1;
            fits &= sums.get(name).is_some_and(|sum| sum.data().len() == grad.len());
        });
        (self.batches, self.weight) = (pending.batches, pending.weight);
        self.sums = sums.into_iter().map(|(name, sum)| (name, sum.data().to_vec())).collect();
        fits && found == self.sums.len()
    }
}

/// Batches whose gradients wait for their step, and their samples' weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Pending {
    pub batches: usize,
    pub weight: f64,
}

/// Sums that run side by side, so that a vector holds them; their number decides the rounding, so it is fixed.
const LANES: usize = 16;

/// Scales all gradients down so that their norm, taken over all of them together, is at most `max_norm`:
/// `torch.nn.utils.clip_grad_norm_`. Returns the norm before. The order of the sum is fixed by the shapes.
pub(crate) fn clip_norm(session: &mut dyn Session, max_norm: f64) -> f64 {
    let mut total = 0.0;
    session.visit_gradients(&mut |_, grad| {
        let mut lanes = [0.0f64; LANES];
        let (chunks, rest) = grad.as_chunks::<LANES>();
        for chunk in chunks {
            lanes.iter_mut().zip(chunk).for_each(|(sum, &g)| *sum += f64::from(g) * f64::from(g));
        }
        lanes.iter_mut().zip(rest).for_each(|(sum, &g)| *sum += f64::from(g) * f64::from(g));
        total += lanes.iter().sum::<f64>();
    });
    let norm = total.sqrt();
    // PyTorch's guard against a division by zero.
    let scale = (max_norm / (norm + 1e-6)).min(1.0) as f32;
    if scale < 1.0 {
        session.visit_gradients(&mut |_, grad| grad.iter_mut().for_each(|g| *g *= scale));
    }
    norm
}

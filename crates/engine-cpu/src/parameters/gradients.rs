//! Gradients between the backward pass and the update: accumulation, reduction over a group, clipping.

use rayon::prelude::*;
use regraft_collective::Collective;
use regraft_engine::Error;
use regraft_graph::ParameterKind;

use super::{Parameter, Parameters};

/// Batches whose gradients wait for a step.
#[derive(Clone, Copy, Default)]
pub struct Waiting {
    pub batches: usize,
    /// Sum of the batches' weights.
    pub weight: f64,
}

/// Elements that one thread adds or scales at a time.
const PIECE: usize = 1 << 15;

/// Sets each element of `out` by the element of `values` at its place.
fn combine(out: &mut [f32], values: &[f32], each: impl Fn(&mut f32, f32) + Sync) {
    out.par_chunks_mut(PIECE).zip(values.par_chunks(PIECE)).for_each(|(out, values)| {
        out.iter_mut().zip(values).for_each(|(out, &value)| each(out, value));
    });
}

/// Multiplies each element by a factor.
fn multiply(values: &mut [f32], factor: f32) {
    values.par_chunks_mut(PIECE).for_each(|values| values.iter_mut().for_each(|value| *value *= factor));
}

/// Makes `sum` the first term of a weighted sum: `0 + weight * gradient`, so that a zero is never negative.
fn begin_sum(sum: &mut Vec<f32>, grad: &[f32], weight: f64) {
    let factor = weight as f32;
    sum.resize(grad.len(), 0.0);
    combine(sum, grad, |sum, g| *sum = 0.0 + factor * g);
}

impl Parameters {
    /// The batches that wait.
    pub fn waiting(&self) -> Waiting {
        self.waiting
    }

    fn learning(&mut self) -> impl Iterator<Item = &mut Parameter> {
        self.all.iter_mut().filter(|parameter| parameter.learns())
    }

    /// Frees the place where the backward pass writes: a gradient that waits alone becomes a sum.
    pub fn begin_batch(&mut self) {
        if let Waiting { batches: 1, weight } = self.waiting {
            self.learning().for_each(|Parameter { grad, sum, .. }| begin_sum(sum, grad, weight));
        }
    }

    /// Counts the gradients that the backward pass has written, of a batch of this weight. Training may have moved
    /// running statistics, too.
    pub fn end_batch(&mut self, weight: f64) {
        if self.waiting.batches > 0 {
            let factor = weight as f32;
            self.learning().for_each(|Parameter { grad, sum, .. }| combine(sum, grad, |sum, g| *sum += factor * g));
        }
        self.waiting.batches += 1;
        self.waiting.weight += weight;
        self.version += 1;
    }

    /// Puts the mean of the gradients that wait in the place of the last batch's. One alone stays as it is.
    pub fn mean_gradients(&mut self) {
        if self.waiting.batches > 1 {
            let scale = (1.0 / self.waiting.weight) as f32;
            self.learning().for_each(|Parameter { grad, sum, .. }| combine(grad, sum, |g, sum| *g = scale * sum));
        }
    }

    /// As [`mean_gradients`](Self::mean_gradients) over all members of a group, and averages the running statistics
    /// that move by the members' weights. Not to be called on a thread of the pool: it waits for the other members.
    ///
    /// # Errors
    /// [`Error::NothingAccumulated`] if no member has a gradient, [`Error::Collective`]; nothing is moved then.
    pub fn reduce(&mut self, group: &dyn Collective, pool: &rayon::ThreadPool) -> Result<(), Error> {
        let Waiting { batches, weight } = self.waiting;
        let mut totals = [batches as f64, weight];
        group.all_reduce_f64(&mut totals)?;
        let [batches_of_all, weight_of_all] = totals;
        if batches_of_all == 0.0 {
            return Err(Error::NothingAccumulated);
        }
        // The sums are reduced where nothing waits: in `sum` if it is a single gradient, else in `grad`.
        for Parameter { grad, sum, .. } in self.learning() {
            let reduced = match batches {
                0 => {
                    grad.fill(0.0);
                    grad
                }
                1 => {
                    pool.install(|| begin_sum(sum, grad, weight));
                    sum
                }
                _ => {
                    grad.copy_from_slice(sum);
                    grad
                }
            };
            group.all_reduce(reduced)?;
        }
        let moving = |it: &&mut Parameter| it.changes && it.spec.kind == ParameterKind::Buffer;
        let statistics = self.all.iter_mut().filter(moving).flat_map(|it| &it.values);
        let mut statistics: Vec<f64> = statistics.map(|&value| weight * f64::from(value)).collect();
        group.all_reduce_f64(&mut statistics)?;
        // Every member has everything: nothing can fail from here on.
        let mut statistics = statistics.into_iter();
        for value in self.all.iter_mut().filter(moving).flat_map(|it| &mut it.values) {
            let sum = statistics.next().expect("one for each value");
            *value = (sum / weight_of_all) as f32;
        }
        let scale = (1.0 / weight_of_all) as f32;
        pool.install(|| {
            for Parameter { grad, sum, .. } in self.learning() {
                match batches {
                    1 => combine(grad, sum, |g, sum| *g = scale * sum),
                    _ => multiply(grad, scale),
                }
            }
        });
        Ok(())
    }

    /// Scales all gradients down so that their norm, taken over all of them together, is at most `max_norm`:
    /// `torch.nn.utils.clip_grad_norm_`. Returns the norm before. The order of the sum is fixed by the shapes.
    pub fn clip_gradients(&mut self, max_norm: f64) -> f64 {
        let learning = self.all.par_iter().filter(|parameter| parameter.learns());
        let squares: Vec<f64> = learning.map(|parameter| sum_of_squares(&parameter.grad)).collect();
        let norm = squares.iter().sum::<f64>().sqrt();
        // PyTorch's guard against a division by zero.
        let scale = (max_norm / (norm + 1e-6)).min(1.0) as f32;
        if scale < 1.0 {
            self.learning().for_each(|parameter| multiply(&mut parameter.grad, scale));
        }
        norm
    }
}

/// Sums that run side by side, so that a vector holds them; their number decides the rounding, so it is fixed.
const LANES: usize = 16;

fn sum_of_squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
    }
    lanes.iter_mut().zip(rest).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
    lanes.iter().sum()
}

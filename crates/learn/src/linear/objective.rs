//! The objective of logistic and ridge regression and its gradient.
//!
//! The solver sees the mean objective `sum_i w_i loss_i / n + ||W||^2 / (2 C n)` in coordinates that suit
//! it: features are centred (the bias absorbs the shift exactly) and each feature's weights are divided by a
//! scale that makes the Hessian's diagonal about equal. The penalty stays that of the original weights, so
//! the optimum does not move; on real features the solver needs about half the iterations.
//!
//! Features stay in the caller's float32 and are promoted block by block: a pass over memory is half as
//! long, and both products of a block find it in the cache.

use rayon::prelude::*;
use regraft_kernels::{Matrix, MatrixMut, gemm};

use super::{Control, HeadKind, Samples, head::softplus};
use crate::Error;

/// Rows promoted to float64 at a time: of 32 to 512, measured with 2 to 1000 classes, the number that costs the
/// least processor time.
const BLOCK: usize = 256;
/// Values that the partial gradients of one evaluation may hold together, 256 MiB.
const PARTIAL_VALUES: usize = 1 << 25;

/// The weight of each sample's loss.
pub(super) enum SampleWeights {
    /// By the sample's class.
    PerClass(Vec<f64>),
    /// By binary problem and side: `own[k]` for the samples of class `k`, or that have label `k`, in problem `k`,
    /// `rest[k]` for the others.
    PerProblem { own: Vec<f64>, rest: Vec<f64> },
}

impl SampleWeights {
    fn of(&self, samples: Samples, i: usize, problem: usize) -> f64 {
        match self {
            Self::PerClass(weights) => weights[samples.label(i)],
            Self::PerProblem { own, .. } if samples.has(i, problem) => own[problem],
            Self::PerProblem { rest, .. } => rest[problem],
        }
    }
}

/// A linear model on centred features, in float64: `logits = weight * (features - shift) + bias`.
#[derive(Clone)]
pub(super) struct Model {
    /// `[classes, dim]`
    pub weight: Vec<f64>,
    /// `[classes]`
    pub bias: Vec<f64>,
}

/// The objective over the samples `rows`.
pub(super) struct Objective<'a> {
    pub samples: Samples<'a>,
    pub rows: &'a [usize],
    pub kind: HeadKind,
    pub weights: SampleWeights,
    /// Mean of each feature, `[dim]`.
    pub shift: &'a [f64],
    /// Original weight per unit of the solver's, `[dim]`.
    pub scale: Vec<f64>,
    /// Factor of `||W||^2 / 2` in the mean objective.
    pub penalty: f64,
    pub control: Control<'a>,
}

impl<'a> Objective<'a> {
    /// The objective with inverse regularisation strength `c`; `moments` are the features' mean and variance.
    pub fn new(
        samples: Samples<'a>,
        rows: &'a [usize],
        kind: HeadKind,
        weights: SampleWeights,
        (shift, variance): (&'a [f64], &[f64]),
        c: f64,
        control: Control<'a>,
    ) -> Self {
        let classes = samples.classes() as f64;
        // scikit-learn solves two classes with one column w; here there are two, w/2 and -w/2 at the optimum, with
        // half the norm: twice the penalty gives the same decision function.
        let twice = if kind == HeadKind::Softmax && samples.classes() == 2 { 2.0 } else { 1.0 };
        let penalty = twice / (c * rows.len() as f64);
        // The second derivative of the loss with respect to an output: p (1 - p) at the start.
        let curvature = match kind {
            HeadKind::Softmax | HeadKind::Ovr => (1.0 - 1.0 / classes) / classes,
            HeadKind::Labels => 0.25,
            HeadKind::Value => 1.0,
        };
        let scale = variance.iter().map(|v| 1.0 / (v + penalty / curvature).sqrt()).collect();
        Self { samples, rows, kind, weights, shift, scale, penalty, control }
    }

    /// The solver's variables for `model`: `[classes, dim]` scaled weights, then the biases.
    pub fn pack(&self, model: &Model) -> Vec<f64> {
        let unscaled = model.weight.chunks_exact(self.scale.len());
        let scaled = unscaled.flat_map(|row| row.iter().zip(&self.scale).map(|(w, s)| w / s));
        scaled.chain(model.bias.iter().copied()).collect()
    }

    /// The inverse of [`pack`](Self::pack).
    pub fn unpack(&self, x: &[f64]) -> Model {
        let (scaled, bias) = x.split_at(x.len() - self.samples.classes());
        let rows = scaled.chunks_exact(self.scale.len());
        let weight = rows.flat_map(|row| row.iter().zip(&self.scale).map(|(v, s)| v * s)).collect();
        Model { weight, bias: bias.to_vec() }
    }

    /// The value at `x`; its gradient goes to `gradient`.
    ///
    /// The rows are cut into parts by a rule that knows only the problem's shape, and the parts' sums are
    /// added in their order, so the bits do not depend on the number of threads.
    pub fn evaluate(&self, x: &[f64], gradient: &mut [f64]) -> Result<f64, Error> {
        let (n, dim) = (self.rows.len(), self.samples.dim());
        let model = self.unpack(x);
        let parts = n.div_ceil(BLOCK).min(PARTIAL_VALUES / x.len()).clamp(1, 64);
        let partial: Vec<_> =
            self.rows.par_chunks(n.div_ceil(parts)).map(|rows| self.part(&model, rows)).collect::<Result<_, _>>()?;

        gradient.fill(0.0);
        let mut value = 0.0;
        for (loss, sums) in partial {
            value += loss;
            gradient.iter_mut().zip(sums).for_each(|(g, s)| *g += s);
        }
        value /= n as f64;
        gradient.iter_mut().for_each(|g| *g /= n as f64);
        let rows = gradient.chunks_exact_mut(dim).zip(model.weight.chunks_exact(dim));
        for (gradient, weight) in rows {
            for ((g, w), s) in gradient.iter_mut().zip(weight).zip(&self.scale) {
                value += 0.5 * self.penalty * w * w;
                *g = s * (*g + self.penalty * w);
            }
        }
        Ok(value)
    }

    /// The loss of `rows` and its gradient with respect to weights and biases, both summed over the rows.
    fn part(&self, model: &Model, rows: &[usize]) -> Result<(f64, Vec<f64>), Error> {
        let (dim, classes) = (self.samples.dim(), self.samples.classes());
        let mut gradient = vec![0.0; classes * (dim + 1)];
        let (weight_gradient, bias_gradient) = gradient.split_at_mut(classes * dim);
        let mut loss = 0.0;
        let mut block = Block::default();
        for rows in rows.chunks(BLOCK) {
            self.control.check()?;
            block.compute(self.samples, self.shift, model, rows);
            for (logits, &i) in block.logits.chunks_exact_mut(classes).zip(rows) {
                loss += self.loss(logits, i);
                bias_gradient.iter_mut().zip(&*logits).for_each(|(b, r)| *b += r);
            }
            let residuals = Matrix::new(&block.logits, rows.len(), classes, classes);
            let features = Matrix::new(&block.features, rows.len(), dim, dim);
            gemm(residuals.transposed(), features, MatrixMut::new(weight_gradient, classes, dim, dim), true);
        }
        Ok((loss, gradient))
    }

    /// The weighted loss of sample `i`; turns its logits into the loss's gradient with respect to them.
    fn loss(&self, logits: &mut [f64], i: usize) -> f64 {
        match self.kind {
            HeadKind::Softmax => {
                let label = self.samples.label(i);
                let weight = self.weights.of(self.samples, i, label);
                let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let own = logits[label] - max;
                let mut sum = 0.0;
                for z in logits.iter_mut() {
                    *z = (*z - max).exp();
                    sum += *z;
                }
                logits.iter_mut().for_each(|z| *z *= weight / sum);
                logits[label] -= weight;
                weight * (sum.ln() - own)
            }
            HeadKind::Ovr | HeadKind::Labels => {
                let mut loss = 0.0;
                for (problem, z) in logits.iter_mut().enumerate() {
                    let weight = self.weights.of(self.samples, i, problem);
                    let sign = if self.samples.has(i, problem) { -1.0 } else { 1.0 };
                    loss += weight * softplus(sign * *z);
                    *z = weight * sign / (1.0 + (-sign * *z).exp());
                }
                loss
            }
            HeadKind::Value => {
                logits[0] -= self.samples.value(i);
                0.5 * logits[0] * logits[0]
            }
        }
    }
}

/// Work space for a block of rows: promoted features and logits.
#[derive(Default)]
pub(super) struct Block {
    /// Centred features, `[rows, dim]`.
    features: Vec<f64>,
    /// `[rows, classes]`
    pub logits: Vec<f64>,
}

impl Block {
    /// Promotes and centres `rows` and computes their logits.
    pub fn compute(&mut self, samples: Samples, shift: &[f64], model: &Model, rows: &[usize]) {
        let (dim, classes) = (samples.dim(), samples.classes());
        self.features.clear();
        for &i in rows {
            self.features.extend(samples.row(i).iter().zip(shift).map(|(&x, m)| f64::from(x) - m));
        }
        self.logits.clear();
        rows.iter().for_each(|_| self.logits.extend_from_slice(&model.bias));
        let features = Matrix::new(&self.features, rows.len(), dim, dim);
        let weight = Matrix::new(&model.weight, classes, dim, dim);
        let logits = MatrixMut::new(&mut self.logits, rows.len(), classes, classes);
        gemm(features, weight.transposed(), logits, true);
    }
}

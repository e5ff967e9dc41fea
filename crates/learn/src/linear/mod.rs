//! Linear heads on frozen features: logistic regression as scikit-learn's `LogisticRegression`, and ridge regression.
//!
//! The objective is `C * sum_i weight_i * logloss_i + ||W||^2 / 2`, the bias not penalised, in float64.
//! [`HeadKind::Softmax`] is the multinomial model, [`HeadKind::Ovr`] one independent binary problem per
//! class (`OneVsRestClassifier(LogisticRegression())`), and so is [`HeadKind::Labels`], where a sample may be on the
//! yes side of any number of them. For [`HeadKind::Value`] half the squared error takes the place of the log loss. The optimum is unique, and the solver's choices
//! (centring, scaling, starting point, threads) do not move it.
//!
//! - [`Samples`]: features and what should come of them, validated once.
//! - [`fit()`]: one fit at a given `C`.
//! - [`fit_cv`]: `C` chosen by cross-validation, then a fit on everything.
//! - [`LinearHead`]: the result, which becomes an ordinary `fc` layer of the network.
//!
//! Features are used as they are, not standardised: see [`fit()`].

mod cross_validation;
mod fit;
mod folds;
mod head;
mod lbfgs;
mod means;
mod objective;
mod samples;
#[cfg(test)]
mod tests;
mod truth;

pub use cross_validation::{
    CvFit, CvOptions, CvRow, HeldOut, HeldOutScores, cross_validate, fit_cv, held_out, held_out_scores,
};
pub use fit::{ClassWeight, Fit, FitOptions, fit};
pub use folds::stratified_folds;
pub use head::{HeadKind, LinearHead, Metric, log_probabilities, probabilities};
pub use means::{class_means, held_out_by_means};
pub use samples::Samples;
pub use truth::Truth;

use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use head::softplus;

use crate::Error;

/// How far a fit or a cross-validation has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// The solver finished an iteration of the fit on all samples.
    Iteration {
        /// Iterations done.
        iteration: usize,
        /// Largest element of the gradient; the fit ends when it falls to [`FitOptions::tol`].
        gradient: f64,
    },
    /// Cross-validation finished one (fold, `C`) pair.
    Fold {
        /// Pairs done.
        done: usize,
        /// Pairs in all.
        total: usize,
    },
}

/// How a caller watches and stops a fit.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    /// Called as the work proceeds, from any thread.
    pub progress: &'a (dyn Fn(Progress) + Sync),
    /// Set to true (by Ctrl-C, say) to end the work with [`Error::Cancelled`]; looked at after
    /// every block of samples.
    pub cancel: &'a AtomicBool,
}

impl Control<'static> {
    /// Reports to nobody and cannot be cancelled.
    pub fn none() -> Self {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Self { progress: &|_| (), cancel: &NEVER }
    }
}

impl Control<'_> {
    fn check(&self) -> Result<(), Error> {
        if self.cancel.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }
}

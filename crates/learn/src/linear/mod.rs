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
mod targets;
#[cfg(test)]
mod tests;

pub use cross_validation::{
    CvFit, CvOptions, CvRow, HeldOut, HeldOutScores, cross_validate, fit_cv, held_out, held_out_scores,
};
pub use fit::{ClassWeight, Fit, FitOptions, fit};
pub use folds::stratified_folds;
pub use head::{HeadKind, LinearHead, Metric, log_probabilities, probabilities};
pub use means::{class_means, held_out_by_means};
pub use samples::Samples;
pub use targets::Targets;

use regraft_progress::{Cancel, Progress, Silent};

pub(crate) use head::softplus;

use crate::Error;

/// How a caller watches and stops a fit. [`fit()`] reports its iterations with the largest element of the gradient,
/// cross-validation the pairs of a fold and a `C` that are done; both look at the wish to stop after every block of samples.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    /// Hears of the work, from any thread. The stage that it reports in is the caller's.
    pub progress: &'a dyn Progress,
    /// Ends the work with [`Error::Cancelled`].
    pub cancel: &'a Cancel,
}

impl<'a> Control<'a> {
    /// Reports to nobody.
    pub fn quiet(cancel: &'a Cancel) -> Self {
        Self { progress: &Silent, cancel }
    }

    fn check(&self) -> Result<(), Error> {
        self.cancel.check().map_err(|_| Error::Cancelled)
    }
}

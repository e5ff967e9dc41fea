//! The regularisation strength chosen by stratified cross-validation, as scikit-learn's `LogisticRegressionCV`.

use rayon::prelude::*;
use regraft_random::{Purpose, keyed, shuffle};

use super::{
    Control, Fit, FitOptions, Progress, Samples,
    fit::Problem,
    log_probabilities,
    objective::{Block, Model},
};
use crate::Error;

/// Rows scored at a time.
const BLOCK: usize = 128;
/// Values of one model up to which the folds are fitted at the same time: each holds some thirty such
/// vectors, and above this size one fold alone keeps all threads busy.
const SMALL_MODEL: usize = 1 << 18;

/// What cross-validation tries.
#[derive(Clone, Debug, PartialEq)]
pub struct CvOptions {
    /// Values of `C`, ascending. Default: ten from 1e-4 to 1e4, evenly spaced on a log scale.
    pub cs: Vec<f64>,
    /// Folds; fewer are used if the smallest class has fewer samples. Default 5.
    pub folds: usize,
    /// Seed of the run, which decides the samples of each fold.
    pub seed: u64,
}

impl CvOptions {
    /// The defaults under a seed.
    pub fn new(seed: u64) -> Self {
        Self { cs: (0..10).map(|i| 10f64.powf(-4.0 + 8.0 * f64::from(i) / 9.0)).collect(), folds: 5, seed }
    }
}

/// How one `C` did on the held-out folds.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct CvRow {
    /// Inverse regularisation strength.
    pub c: f64,
    /// Accuracy, the mean over the folds, 0 to 1.
    pub accuracy: f64,
    /// Log loss of the [`probabilities`](super::probabilities), the mean over the folds.
    pub log_loss: f64,
}

/// A head whose `C` was chosen by cross-validation.
#[derive(Clone, Debug, PartialEq)]
pub struct CvFit {
    /// The fit on all samples with the chosen `C`.
    pub fit: Fit,
    /// Every `C` tried, in the order of [`CvOptions::cs`].
    pub table: Vec<CvRow>,
    /// Folds used.
    pub folds: usize,
}

/// Chooses the `C` of the best mean accuracy, among equals that of the smallest mean log loss, and fits all samples
/// with it.
///
/// Few samples leave many values of `C` with the same accuracy; the log loss still tells them apart.
///
/// # Errors
/// Those of [`fit`](super::fit()) and [`cross_validate`]; [`Error::TooFewSamples`] if a class has only one sample,
/// which no fold can hold out.
pub fn fit_cv(samples: Samples, options: &FitOptions, cv: &CvOptions, control: Control) -> Result<CvFit, Error> {
    let folds = stratified_folds(samples, cv.folds, cv.seed)?;
    let table = cross_validate(samples, &folds, &cv.cs, options, control)?;
    let fit = Problem::new(samples, options, control)?.fit_all(best(&table).c, None)?;
    let folds = folds.iter().max().map_or(0, |&last| last as usize + 1);
    Ok(CvFit { fit, table, folds })
}

/// The row of the best accuracy, among equals the first of the smallest log loss.
fn best(table: &[CvRow]) -> &CvRow {
    let mut best = &table[0];
    for row in table {
        // Means of the same accuracies in another order differ by rounding; that is a tie.
        let ahead = row.accuracy - best.accuracy;
        if ahead > 1e-12 || (ahead > -1e-12 && row.log_loss < best.log_loss) {
            best = row;
        }
    }
    best
}

/// The fold of each sample, `[samples]`: every class is shuffled and dealt out evenly.
///
/// There are `folds` folds, or as many as the smallest class has samples.
///
/// # Errors
/// [`Error::TooFewSamples`] if a class has one sample, [`Error::Setting`] if `folds` is below 2.
pub fn stratified_folds(samples: Samples, folds: usize, seed: u64) -> Result<Vec<u32>, Error> {
    if folds < 2 {
        return Err(Error::Setting { name: "number of folds", value: folds.to_string(), allowed: "at least 2" });
    }
    samples.require_per_class(2, "cross-validation (without it, give a value for C)")?;
    let mut members = vec![Vec::new(); samples.classes()];
    (0..samples.len()).for_each(|i| members[samples.label(i)].push(i));
    let folds = members.iter().map(Vec::len).fold(folds, usize::min);
    let mut rng = keyed(seed, Purpose::Folds, 0, 0);
    let mut fold_of = vec![0; samples.len()];
    // Going on where the last class ended keeps the folds' sizes within one of each other.
    let mut dealt = 0;
    for class in &mut members {
        shuffle(class, &mut rng);
        for &i in &*class {
            fold_of[i] = (dealt % folds) as u32;
            dealt += 1;
        }
    }
    Ok(fold_of)
}

/// Fits every `C` of `cs` with each fold held out in turn and scores it there.
///
/// Along `cs`, which should ascend, each fit starts from the one before. The result does not depend on the number
/// of threads, to the last bit.
///
/// # Errors
/// Those of [`fit`](super::fit()); [`Error::Shape`] if `folds` does not hold one number per sample;
/// [`Error::Setting`] if `cs` is empty or `folds` names fewer than two folds; [`Error::TooFewSamples`] if a class
/// lies in one fold alone.
pub fn cross_validate(
    samples: Samples,
    folds: &[u32],
    cs: &[f64],
    options: &FitOptions,
    control: Control,
) -> Result<Vec<CvRow>, Error> {
    let per_fold = on_folds(samples, folds, cs, options, control)?;
    Ok(means(cs, per_fold.iter()))
}

/// The mean scores over some folds, one row for each of `cs`.
fn means<'a>(cs: &[f64], folds: impl Iterator<Item = &'a OnFold> + Clone) -> Vec<CvRow> {
    let count = folds.clone().count() as f64;
    let mean = |column: usize, value: fn(&CvRow) -> f64| {
        folds.clone().map(|fold| value(&fold.answers[column].row)).sum::<f64>() / count
    };
    let row = |(i, &c)| CvRow { c, accuracy: mean(i, |r| r.accuracy), log_loss: mean(i, |r| r.log_loss) };
    cs.iter().enumerate().map(row).collect()
}

/// What heads answer for samples that they have not seen.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldOut {
    /// Whether the answer was right, `[samples]`.
    pub correct: Vec<bool>,
    /// The `C` with which each fold was answered.
    pub cs: Vec<f64>,
}

/// Answers every sample by a head that was fitted on the other folds, with the `C` that did best on those of the other
/// folds that were held out in their turn: a sample has no say in how it is answered, so that the accuracy is not
/// flattered by the choice among many `C` as the best row of [`cross_validate`] is.
///
/// # Errors
/// Those of [`cross_validate`].
pub fn held_out(
    samples: Samples,
    folds: &[u32],
    cs: &[f64],
    options: &FitOptions,
    control: Control,
) -> Result<HeldOut, Error> {
    let per_fold = on_folds(samples, folds, cs, options, control)?;
    let mut held_out = HeldOut { correct: vec![false; samples.len()], cs: Vec::new() };
    for (i, fold) in per_fold.iter().enumerate() {
        let others = per_fold.iter().enumerate().filter(|&(other, _)| other != i).map(|(_, other)| other);
        let chosen = best(&means(cs, others)).c;
        let column = cs.iter().position(|&c| c == chosen).expect("one of those tried");
        held_out.cs.push(chosen);
        for (&sample, &correct) in fold.samples.iter().zip(&fold.answers[column].correct) {
            held_out.correct[sample] = correct;
        }
    }
    Ok(held_out)
}

/// One fold, held out.
struct OnFold {
    samples: Vec<usize>,
    /// For each `C`.
    answers: Vec<Answers>,
}

/// What one head made of a fold.
struct Answers {
    row: CvRow,
    /// Whether the answer was right, for each of the fold's samples.
    correct: Vec<bool>,
}

/// Fits every `C` of `cs` with each fold held out in turn.
fn on_folds(
    samples: Samples,
    folds: &[u32],
    cs: &[f64],
    options: &FitOptions,
    control: Control,
) -> Result<Vec<OnFold>, Error> {
    if folds.len() != samples.len() {
        return Err(Error::Shape { what: "number of fold labels", expected: samples.len(), found: folds.len() });
    }
    if cs.is_empty() {
        return Err(Error::Setting { name: "list of C", value: "empty".into(), allowed: "at least one value" });
    }
    let mut names = folds.to_vec();
    names.sort_unstable();
    names.dedup();
    if names.len() < 2 {
        return Err(Error::Setting { name: "number of folds", value: names.len().to_string(), allowed: "at least 2" });
    }
    let problem = Problem::new(samples, options, control)?;
    let total = names.len() * cs.len();
    let done = std::sync::atomic::AtomicUsize::new(0);
    let progress = || {
        let done = done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        (control.progress)(Progress::Fold { done, total });
    };
    let scores = |&fold: &u32| on_fold(&problem, folds, fold, cs, progress);
    let small = samples.classes() * samples.dim() <= SMALL_MODEL;
    match small {
        true => names.par_iter().map(scores).collect(),
        false => names.iter().map(scores).collect(),
    }
}

/// What the fits on the other folds make of `fold`.
fn on_fold(problem: &Problem, folds: &[u32], fold: u32, cs: &[f64], progress: impl Fn()) -> Result<OnFold, Error> {
    let (held_out, train): (Vec<usize>, Vec<usize>) = (0..folds.len()).partition(|&i| folds[i] == fold);
    if let Some(class) = problem.samples.counts(train.iter().copied()).iter().position(|&count| count == 0) {
        let purpose = "the training part of each cross-validation fold";
        return Err(Error::TooFewSamples { class, found: 0, needed: 1, purpose });
    }
    let mut model = None;
    let mut answers = Vec::with_capacity(cs.len());
    for &c in cs {
        let solution = problem.solve(&train, c, model.as_ref(), |_, _| ())?;
        let (correct, log_loss) = score(problem, &solution.model, &held_out)?;
        let right = correct.iter().filter(|&&correct| correct).count();
        let row = CvRow { c, accuracy: right as f64 / held_out.len() as f64, log_loss };
        answers.push(Answers { row, correct });
        model = Some(solution.model);
        progress();
    }
    Ok(OnFold { samples: held_out, answers })
}

/// Which answers of `model` on `rows` are right, and their mean log loss.
fn score(problem: &Problem, model: &Model, rows: &[usize]) -> Result<(Vec<bool>, f64), Error> {
    let (mut correct, mut loss) = (Vec::with_capacity(rows.len()), 0.0);
    let mut block = Block::default();
    for rows in rows.chunks(BLOCK) {
        problem.control.check()?;
        block.compute(problem.samples, &problem.mean, model, rows);
        for (logits, &i) in block.logits.chunks_exact(problem.samples.classes()).zip(rows) {
            let label = problem.samples.label(i);
            correct.push(crate::metrics::argmax(logits) == label);
            loss -= log_probabilities(problem.options.kind, logits)[label];
        }
    }
    Ok((correct, loss / rows.len() as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_decides_then_the_log_loss_then_the_order() {
        let chosen = |scores: &[(f64, f64)]| {
            let row = |(i, &(accuracy, log_loss)): (usize, _)| CvRow { c: i as f64, accuracy, log_loss };
            best(&scores.iter().enumerate().map(row).collect::<Vec<_>>()).c
        };
        assert_eq!(chosen(&[(0.8, 0.1), (0.9, 0.5), (0.7, 0.2)]), 1.0);
        assert_eq!(chosen(&[(0.9, 0.5), (0.9, 0.3), (0.9, 0.4), (0.8, 0.1)]), 1.0);
        assert_eq!(chosen(&[(0.9, 0.3), (0.9, 0.3)]), 0.0);
        // Rounding of the mean accuracy is no difference.
        assert_eq!(chosen(&[(0.9 + 1e-16, 0.5), (0.9 - 1e-16, 0.3)]), 1.0);
    }
}

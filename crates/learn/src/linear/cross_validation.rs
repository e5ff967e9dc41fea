//! The regularisation strength chosen by cross-validation, as scikit-learn's `LogisticRegressionCV`.

use rayon::prelude::*;

use super::{
    Control, Fit, FitOptions, HeadKind, Samples, Targets,
    fit::Problem,
    objective::{Block, Model},
    stratified_folds,
};
use crate::{Error, metrics::MetricAccumulator};

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
    /// Folds; fewer are used if the smallest class, or everything, has fewer samples. Default 5.
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
    /// The mean over the folds of [`MetricAccumulator::score`]: accuracy, mean average precision, or R².
    pub score: f64,
    /// The mean over the folds of [`MetricAccumulator::loss`]: log loss of the [`probabilities`](super::probabilities), mean binary
    /// cross-entropy, or mean squared error.
    pub loss: f64,
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
/// with it. For labels and numbers the smallest mean loss alone decides: average precision does not see whether the
/// probabilities are right, and R² is the loss in another unit.
///
/// Few samples leave many values of `C` with the same accuracy; the log loss still tells them apart.
///
/// # Errors
/// Errors of [`fit`](super::fit()) and [`cross_validate`]; [`Error::TooFewSamples`] if a class has only one sample,
/// which no fold can hold out, [`Error::NoSamples`] if there is one number alone.
pub fn fit_cv(samples: Samples, options: &FitOptions, cv: &CvOptions, control: Control) -> Result<CvFit, Error> {
    let folds = stratified_folds(samples, cv.folds, cv.seed)?;
    let table = cross_validate(samples, &folds, &cv.cs, options, control)?;
    let fit =
        Problem::new(samples, options, Control::quiet(control.cancel))?.fit_all(best(&table, options.kind).c, None)?;
    let folds = folds.iter().max().map_or(0, |&last| last as usize + 1);
    Ok(CvFit { fit, table, folds })
}

/// The row of the best accuracy, among equals the first of the smallest loss; the latter alone for labels and numbers.
fn best(table: &[CvRow], kind: HeadKind) -> &CvRow {
    let by_score = matches!(kind, HeadKind::Softmax | HeadKind::Ovr);
    let mut best = &table[0];
    for row in table {
        // Means of the same accuracies in another order differ by rounding; that is a tie.
        let ahead = if by_score { row.score - best.score } else { 0.0 };
        if ahead > 1e-12 || (ahead > -1e-12 && row.loss < best.loss) {
            best = row;
        }
    }
    best
}

/// Fits every `C` of `cs` with each fold held out in turn and scores it there.
///
/// Along `cs`, which should ascend, each fit starts from the one before. The result does not depend on the number
/// of threads, to the last bit.
///
/// # Errors
/// Errors of [`fit`](super::fit()); [`Error::Shape`] if `folds` does not hold one number per sample;
/// [`Error::Setting`] if `cs` is empty or `folds` names fewer than two folds; [`Error::TooFewSamples`] if a class
/// lies in one fold alone. (A label may: to heads that have not seen it, or have seen nothing else, the answer is constant.)
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
    let row = |(i, &c)| CvRow { c, score: mean(i, |r| r.score), loss: mean(i, |r| r.loss) };
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

/// How well heads answer samples that they have not seen.
#[derive(Clone, Debug, PartialEq)]
pub struct HeldOutScores {
    /// How well each sample was answered, as in [`MetricAccumulator::per_sample`], `[samples]`.
    pub per_sample: Vec<f64>,
    /// The mean over the folds of [`MetricAccumulator::score`].
    pub score: f64,
    /// The `C` with which each fold was answered.
    pub cs: Vec<f64>,
}

/// Whether the answers of [`held_out_scores`] to samples that have classes are right.
///
/// # Errors
/// Errors of [`cross_validate`]; [`Error::Kind`] if the samples have no classes.
pub fn held_out(
    samples: Samples,
    folds: &[u32],
    cs: &[f64],
    options: &FitOptions,
    control: Control,
) -> Result<HeldOut, Error> {
    samples.targets().require(HeadKind::Softmax)?;
    let HeldOutScores { per_sample, cs, .. } = held_out_scores(samples, folds, cs, options, control)?;
    Ok(HeldOut { correct: per_sample.iter().map(|&score| score == 1.0).collect(), cs })
}

/// Answers every sample by a head that was fitted on the other folds, with the `C` that did best on those of the other
/// folds that were held out in their turn: a sample has no say in how it is answered, so that the score is not
/// flattered by the choice among many `C` as the best row of [`cross_validate`] is.
///
/// # Errors
/// Errors of [`cross_validate`].
pub fn held_out_scores(
    samples: Samples,
    folds: &[u32],
    cs: &[f64],
    options: &FitOptions,
    control: Control,
) -> Result<HeldOutScores, Error> {
    let per_fold = on_folds(samples, folds, cs, options, control)?;
    let mut scores = HeldOutScores { per_sample: vec![0.0; samples.len()], score: 0.0, cs: Vec::new() };
    for (i, fold) in per_fold.iter().enumerate() {
        let others = per_fold.iter().enumerate().filter(|&(other, _)| other != i).map(|(_, other)| other);
        let chosen = best(&means(cs, others), options.kind).c;
        let column = cs.iter().position(|&c| c == chosen).expect("one of those tried");
        scores.cs.push(chosen);
        scores.score += fold.answers[column].row.score / per_fold.len() as f64;
        for (&sample, &score) in fold.samples.iter().zip(&fold.answers[column].per_sample) {
            scores.per_sample[sample] = score;
        }
    }
    Ok(scores)
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
    /// How well each of the fold's samples was answered.
    per_sample: Vec<f64>,
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
    let done = std::sync::atomic::AtomicUsize::new(0);
    let progress = || {
        let done = done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        control.progress.advance(done as u64, "");
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
    let counts = problem.samples.counts(train.iter().copied());
    let absent = counts.iter().position(|&count| count == 0);
    if let (Some(class), Targets::Classes(_)) = (absent, problem.samples.targets()) {
        let purpose = "the training part of each cross-validation fold";
        return Err(Error::TooFewSamples { class, found: 0, needed: 1, purpose });
    }
    let mut model = None;
    let mut answers = Vec::with_capacity(cs.len());
    for &c in cs {
        let solution = problem.solve(&train, c, model.as_ref(), |_, _| ())?;
        let accumulator = score(problem, &solution.model, &held_out)?;
        let row = CvRow { c, score: accumulator.score(), loss: accumulator.loss() };
        answers.push(Answers { row, per_sample: accumulator.into_per_sample() });
        model = Some(solution.model);
        progress();
    }
    Ok(OnFold { samples: held_out, answers })
}

/// What `model` makes of `rows`.
fn score(problem: &Problem, model: &Model, rows: &[usize]) -> Result<MetricAccumulator, Error> {
    let (samples, kind) = (problem.samples, problem.options.kind);
    let mut accumulator = MetricAccumulator::new(kind, samples.classes());
    let mut block = Block::default();
    for rows in rows.chunks(BLOCK) {
        problem.control.check()?;
        block.compute(samples, &problem.mean, model, rows);
        if kind == HeadKind::Value {
            let unit = samples.unit();
            block.logits.iter_mut().for_each(|z| *z = unit.offset + unit.scale * *z);
        }
        for (outputs, &i) in block.logits.chunks_exact(samples.classes()).zip(rows) {
            accumulator.push(outputs, samples.targets().of(i, samples.classes()));
        }
    }
    Ok(accumulator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_decides_then_the_log_loss_then_the_order() {
        let chosen = |scores: &[(f64, f64)]| {
            let row = |(i, &(score, loss)): (usize, _)| CvRow { c: i as f64, score, loss };
            let table: Vec<_> = scores.iter().enumerate().map(row).collect();
            let least = best(&table, HeadKind::Labels);
            assert!(table.iter().all(|row| row.loss >= least.loss), "of labels, the loss alone decides");
            best(&table, HeadKind::Softmax).c
        };
        assert_eq!(chosen(&[(0.8, 0.1), (0.9, 0.5), (0.7, 0.2)]), 1.0);
        assert_eq!(chosen(&[(0.9, 0.5), (0.9, 0.3), (0.9, 0.4), (0.8, 0.1)]), 1.0);
        assert_eq!(chosen(&[(0.9, 0.3), (0.9, 0.3)]), 0.0);
        // Rounding of the mean accuracy is no difference.
        assert_eq!(chosen(&[(0.9 + 1e-16, 0.5), (0.9 - 1e-16, 0.3)]), 1.0);
    }
}

//! Several backbones and heads on one folder of photos, compared by cross-validation.

use std::path::PathBuf;
use std::time::Instant;

use regraft_data::{Preprocessing, Target, Task};
use regraft_engine::SessionOptions;
use regraft_graph::Grafted;
use regraft_learn::linear::{
    Control, CvOptions, FitOptions, HeldOut, Progress, held_out, held_out_by_means, stratified_folds,
};
use regraft_learn::metrics::{mcnemar, wilson};

use crate::features::Features;
use crate::prepare;
use crate::{Backbone, Config, Context, Error, Head, Mode, Result, Source};

/// Two classifiers whose difference has a larger p-value may as well be equally good.
pub const SIGNIFICANT: f64 = 0.05;

/// A backbone to try.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Name of the architecture.
    pub backbone: String,
    /// File of its weights; random ones without.
    pub weights: Source,
    /// How photos are prepared for it.
    pub preprocessing: Preprocessing,
}

/// What is compared on.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// Folder of photos: all of them are used, whatever part they are in.
    pub data: PathBuf,
    /// Whether an unreadable photo is an error.
    pub strict: bool,
    /// Folds of the cross-validation; fewer if a class has fewer photos.
    pub folds: usize,
    /// Seed of the folds.
    pub seed: u64,
}

/// How one backbone did with one head.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name of the architecture.
    pub backbone: String,
    /// The head.
    pub head: Head,
    /// Photos that were answered right while they were held out.
    pub correct: usize,
    /// Their fraction of all.
    pub accuracy: f64,
    /// 95% interval of the accuracy (Wilson).
    pub interval: (f64, f64),
    /// The values of `C` that were chosen, ascending; none for a head without.
    pub cs: Vec<f64>,
    /// Seconds that the features of all photos took.
    pub feature_seconds: f64,
    /// Seconds that the cross-validation took.
    pub fit_seconds: f64,
    /// Learnable elements of the classifier.
    pub parameters: usize,
    /// p-value of the difference from the best entry (McNemar's exact test on the same photos).
    pub p_value: f64,
}

/// All entries, best first.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Sorted by accuracy, among equals the faster first.
    pub entries: Vec<Entry>,
    /// The one to take: the fastest of those that may be as good as the best.
    pub recommended: usize,
    /// Photos.
    pub photos: usize,
    /// Classes.
    pub classes: usize,
    /// Folds used.
    pub folds: usize,
}

/// Computes the features of all photos by every candidate, from pictures that are decoded once, and cross-validates every
/// kind of head on them.
///
/// # Errors
/// Any of [`Error`]; a class with a single photo among them.
pub fn compare(candidates: &[Candidate], options: &CompareOptions, context: &Context) -> Result<Comparison> {
    // Decoded for the largest: for others a picture is then decoded a little finer than by itself.
    let largest = candidates.iter().max_by_key(|candidate| candidate.preprocessing.resize);
    let largest = largest.ok_or_else(|| Error::Setting("there is no backbone to compare".into()))?;
    let config = Config {
        mode: Mode::Probe,
        strict: options.strict,
        seed: options.seed,
        preprocessing: largest.preprocessing.clone(),
        ..Config::tutorial(options.data.clone(), largest.backbone.clone())
    };
    let backbones: Vec<Backbone> = candidates
        .iter()
        .map(|Candidate { backbone, weights, preprocessing }| {
            Backbone::load(backbone, weights, preprocessing.crop, options.seed)
        })
        .collect::<Result<_>>()?;
    let photos = prepare::photos(&config, context)?;
    let samples = [photos.dataset.train.as_slice(), &photos.dataset.val].concat();
    let classes = photos.dataset.classes.len();
    if photos.dataset.task != Task::Classes {
        let reason = "gives labels or numbers; heads are compared by the classes that they tell apart";
        return Err(Error::File { path: options.data.clone(), reason: reason.into() });
    }
    let answers = photos.answers(&samples);
    let labels = answers.classes();
    let count = |class: usize| samples.iter().filter(|sample| sample.target == Target::Class(class)).count();
    if let Some(class) = (0..classes).find(|&class| count(class) < 2) {
        let name = &photos.dataset.classes[class];
        let reason =
            format!("class {name} has {} photo(s); to hold one out, each class needs at least 2", count(class));
        return Err(Error::File { path: options.data.clone(), reason });
    }

    let mut entries: Vec<(Entry, Vec<bool>)> = Vec::new();
    let mut folds = Vec::new();
    for (candidate, backbone) in candidates.iter().zip(&backbones) {
        let name = &candidate.backbone;
        let started = Instant::now();
        let (Grafted { graph, classifier: head, .. }, state) = config.graft(backbone, classes)?;
        let (extractor, _) = graph.split(graph.nodes()[head].inputs[0])?.expect("nothing goes past a head");
        let mut session = context.engine.compile(&extractor, &state, SessionOptions::inference(&extractor))?;
        let what = format!("features of {name}");
        let preprocessing = &candidate.preprocessing;
        let features = Features::extract(&what, &samples, session.as_mut(), &photos.store, preprocessing, context)?;
        let feature_seconds = started.elapsed().as_secs_f64();
        let samples = answers.samples(&features.values, features.dim, &labels)?;
        // The same for all, so that the answers to each photo can be compared.
        folds = stratified_folds(samples, options.folds, options.seed)?;
        for head in [Head::Softmax, Head::Ovr, Head::Mean] {
            let started = Instant::now();
            let cs = CvOptions::new(options.seed).cs;
            let reporter = context.reporter;
            reporter.begin(&format!("{head} on {name}"), "fits", (cs.len() * options.folds) as u64);
            let progress = |progress: Progress| {
                if let Progress::Fold { done, .. } = progress {
                    reporter.advance(done as u64, "");
                }
            };
            let control = Control { progress: &progress, cancel: context.interrupt };
            let answers = match head {
                Head::Mean => held_out_by_means(samples, &folds).map(|correct| HeldOut { correct, cs: Vec::new() }),
                _ => held_out(samples, &folds, &cs, &FitOptions::new(head.kind()), control),
            };
            reporter.end();
            let mut answers = answers?;
            answers.cs.sort_by(f64::total_cmp);
            answers.cs.dedup();
            let correct = answers.correct.iter().filter(|&&correct| correct).count();
            let entry = Entry {
                backbone: name.clone(),
                head,
                correct,
                accuracy: correct as f64 / samples.len() as f64,
                interval: wilson(correct as u64, samples.len() as u64),
                cs: answers.cs,
                feature_seconds,
                fit_seconds: started.elapsed().as_secs_f64(),
                parameters: graph.parameter_count(),
                p_value: 1.0,
            };
            entries.push((entry, answers.correct));
        }
    }
    let folds = folds.iter().max().map_or(0, |&last| last as usize + 1);
    Ok(ranked(entries, samples.len(), classes, folds))
}

/// Sorts the entries, tests each against the best, and recommends one.
fn ranked(mut entries: Vec<(Entry, Vec<bool>)>, photos: usize, classes: usize, folds: usize) -> Comparison {
    entries.sort_by(|(a, _), (b, _)| b.correct.cmp(&a.correct).then(a.feature_seconds.total_cmp(&b.feature_seconds)));
    let best = entries[0].1.clone();
    for (entry, correct) in &mut entries {
        let only = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|&(&a, &b)| a && !b).count();
        entry.p_value = mcnemar(only(&best, correct), only(correct, &best));
    }
    let entries: Vec<Entry> = entries.into_iter().map(|(entry, _)| entry).collect();
    let as_good = (0..entries.len()).filter(|&i| entries[i].p_value >= SIGNIFICANT);
    // The first of equals is the more accurate.
    let recommended = as_good.min_by(|&a, &b| entries[a].feature_seconds.total_cmp(&entries[b].feature_seconds));
    Comparison { recommended: recommended.unwrap_or(0), entries, photos, classes, folds }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(backbone: &str, feature_seconds: f64, answers: &[bool]) -> (Entry, Vec<bool>) {
        let correct = answers.iter().filter(|&&correct| correct).count();
        let entry = Entry {
            backbone: backbone.into(),
            head: Head::Softmax,
            correct,
            accuracy: correct as f64 / answers.len() as f64,
            interval: (0.0, 1.0),
            cs: vec![1.0],
            feature_seconds,
            fit_seconds: 0.0,
            parameters: 0,
            p_value: f64::NAN,
        };
        (entry, answers.to_vec())
    }

    #[test]
    fn the_fastest_of_those_that_may_be_as_good_is_recommended() {
        let answers = |wrong: usize| (0..100).map(|i| i >= wrong).collect::<Vec<_>>();
        let entries =
            vec![entry("poor", 1.0, &answers(30)), entry("near", 2.0, &answers(7)), entry("best", 3.0, &answers(4))];
        let comparison = ranked(entries, 100, 2, 5);
        let names: Vec<_> = comparison.entries.iter().map(|entry| entry.backbone.as_str()).collect();
        assert_eq!(names, ["best", "near", "poor"]);
        // Of three photos that only the best gets right nothing follows; of 26 much.
        assert!((comparison.entries[1].p_value - 0.25).abs() < 1e-12);
        assert!(comparison.entries[2].p_value < 1e-6);
        assert_eq!(comparison.recommended, 1);
    }
}

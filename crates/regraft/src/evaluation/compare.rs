//! Several backbones and heads on one folder of photos, compared by cross-validation.

use std::path::PathBuf;
use std::time::Instant;

use regraft_data::{Preprocessing, Target, Task};
use regraft_graph::Grafted;
use regraft_learn::linear::{
    Control, CvOptions, FitOptions, HeadKind, HeldOutScores, held_out_by_means, held_out_scores, stratified_folds,
};
use regraft_learn::metrics::{paired_p_value, wilson};

use crate::network::extractor::feature_extractor;
use crate::network::session::Network;
use crate::photos::features::Features;
use crate::photos::prepare;
use crate::photos::targets::head_kind;
use crate::{Backbone, Context, Error, Head, Mode, Pretrained, Result, Settings, Source};

/// Two classifiers whose difference has a larger p-value may as well be equally good.
pub const SIGNIFICANT: f64 = 0.05;

/// A backbone to try.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Name of the architecture.
    pub backbone: Backbone,
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
    /// How well photos were answered while they were held out: the fraction that was answered right; of labels and numbers,
    /// the mean over the folds of the average precision or of R².
    pub score: f64,
    /// 95% interval of an accuracy (Wilson).
    pub interval: Option<(f64, f64)>,
    /// The values of `C` that were chosen, ascending; none for a head without.
    pub cs: Vec<f64>,
    /// Seconds that the features of all photos took.
    pub feature_seconds: f64,
    /// Seconds that the cross-validation took.
    pub fit_seconds: f64,
    /// Learnable elements of the classifier.
    pub parameters: usize,
    /// p-value of the difference from the best entry on the same photos (McNemar's exact test; of labels and numbers, by
    /// random signs).
    pub p_value: f64,
}

/// All entries, best first.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Sorted by score, among equals the faster first.
    pub entries: Vec<Entry>,
    /// The one to take: the fastest of those that may be as good as the best.
    pub recommended: usize,
    /// Photos.
    pub photos: usize,
    /// Classes or labels; 1 where photos have numbers.
    pub classes: usize,
    /// What is asked about the photos, and so what the scores are.
    pub kind: HeadKind,
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
    let largest = largest.ok_or_else(|| Error::Setting {
        field: "backbone",
        value: "absent".into(),
        allowed: "give one to compare".into(),
    })?;
    let settings = Settings {
        mode: Mode::Probe,
        strict: options.strict,
        seed: options.seed,
        preprocessing: largest.preprocessing.clone(),
        ..Settings::tutorial(options.data.clone(), largest.backbone.clone())
    };
    let mut backbones: Vec<Pretrained> = candidates
        .iter()
        .map(|Candidate { backbone, weights, preprocessing }| {
            Pretrained::load(backbone, weights, preprocessing.crop, options.seed)
        })
        .collect::<Result<_>>()?;
    let photos = prepare::photos(&settings, prepare::open(&settings)?, context)?;
    let samples = [photos.dataset.train.as_slice(), &photos.dataset.val].concat();
    let classes = photos.dataset.classes.len();
    let targets = photos.targets(&samples);
    let labels = targets.classes();
    let count = |class: usize| samples.iter().filter(|sample| sample.target == Target::Class(class)).count();
    let task = photos.dataset.task;
    if let (Task::Classes, Some(class)) = (task, (0..classes).find(|&class| count(class) < 2)) {
        let name = &photos.dataset.classes[class];
        let reason =
            format!("class {name} has {} photo(s); to hold one out, each class needs at least 2", count(class));
        return Err(Error::File { path: options.data.clone(), reason });
    }

    let heads: &[Head] = match task {
        Task::Classes => &[Head::Softmax, Head::Ovr, Head::Mean],
        Task::Labels | Task::Value => &[Head::Linear],
    };
    let mut entries: Vec<(Entry, Vec<f64>)> = Vec::new();
    let mut folds = Vec::new();
    for (candidate, backbone) in candidates.iter().zip(&mut backbones) {
        let name = &candidate.backbone;
        let started = Instant::now();
        backbone.calibrate(&samples, &photos.store, &candidate.preprocessing, context)?;
        let (Grafted { graph, classifier: head, .. }, state) = settings.graft(backbone, classes)?;
        let (trunk, _) = feature_extractor(&graph, head)?.expect("nothing goes past a new head");
        let mut network = Network::new(context.engine, &trunk, &state)?;
        let what = format!("features of {name}");
        let preprocessing = &candidate.preprocessing;
        let features = Features::extract(&what, &samples, &mut network, &photos.store, preprocessing, context)?;
        let feature_seconds = started.elapsed().as_secs_f64();
        let samples = targets.with_features(&features.values, features.dim, &labels)?;
        // The same for all, so that the answers to each photo can be compared.
        folds = stratified_folds(samples, options.folds, options.seed)?;
        for head in heads.iter().cloned() {
            let started = Instant::now();
            let cs = CvOptions::new(options.seed).cs;
            let progress = context.progress;
            progress.begin(&format!("{head} on {name}"), "fits", (cs.len() * options.folds) as u64);
            let control = Control { progress, cancel: context.cancel };
            let answers = match head {
                Head::Mean => held_out_by_means(samples, &folds).map(|correct| {
                    let per_sample: Vec<f64> =
                        correct.into_iter().map(|correct| f64::from(u8::from(correct))).collect();
                    let score = per_sample.iter().sum::<f64>() / per_sample.len() as f64;
                    HeldOutScores { per_sample, score, cs: Vec::new() }
                }),
                _ => held_out_scores(samples, &folds, &cs, &FitOptions::new(head_kind(task, &head)), control),
            };
            progress.end();
            let HeldOutScores { per_sample, mut score, mut cs } = answers?;
            cs.sort_by(f64::total_cmp);
            cs.dedup();
            let mut interval = None;
            if task == Task::Classes {
                // Over all photos, whatever fold they are in.
                let (correct, n) = (per_sample.iter().sum::<f64>(), per_sample.len());
                score = correct / n as f64;
                interval = Some(wilson(correct as u64, n as u64));
            }
            let entry = Entry {
                backbone: name.to_string(),
                head,
                score,
                interval,
                cs,
                feature_seconds,
                fit_seconds: started.elapsed().as_secs_f64(),
                parameters: graph.parameter_count(),
                p_value: 1.0,
            };
            entries.push((entry, per_sample));
        }
    }
    let folds = folds.iter().max().map_or(0, |&last| last as usize + 1);
    let (entries, recommended) = ranked(entries, options.seed);
    let kind = head_kind(task, &heads[0]);
    Ok(Comparison { entries, recommended, photos: samples.len(), classes, kind, folds })
}

/// Sorts the entries, tests each against the best, and recommends one of them by its place.
fn ranked(mut entries: Vec<(Entry, Vec<f64>)>, seed: u64) -> (Vec<Entry>, usize) {
    let order =
        |a: &Entry, b: &Entry| b.score.total_cmp(&a.score).then(a.feature_seconds.total_cmp(&b.feature_seconds));
    entries.sort_by(|(a, _), (b, _)| order(a, b));
    let best = entries[0].1.clone();
    for (entry, scores) in &mut entries {
        entry.p_value = paired_p_value(&best, scores, seed);
    }
    let entries: Vec<Entry> = entries.into_iter().map(|(entry, _)| entry).collect();
    let as_good = (0..entries.len()).filter(|&i| entries[i].p_value >= SIGNIFICANT);
    // The first of equals is the better.
    let recommended = as_good.min_by(|&a, &b| entries[a].feature_seconds.total_cmp(&entries[b].feature_seconds));
    let recommended = recommended.unwrap_or(0);
    (entries, recommended)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(backbone: &str, feature_seconds: f64, scores: &[f64]) -> (Entry, Vec<f64>) {
        let entry = Entry {
            backbone: backbone.into(),
            head: Head::Softmax,
            score: scores.iter().sum::<f64>() / scores.len() as f64,
            interval: None,
            cs: vec![1.0],
            feature_seconds,
            fit_seconds: 0.0,
            parameters: 0,
            p_value: f64::NAN,
        };
        (entry, scores.to_vec())
    }

    #[test]
    fn the_fastest_of_those_that_may_be_as_good_is_recommended() {
        let answers = |wrong: usize| (0..100).map(|i| f64::from(u8::from(i >= wrong))).collect::<Vec<_>>();
        let entries =
            vec![entry("poor", 1.0, &answers(30)), entry("near", 2.0, &answers(7)), entry("best", 3.0, &answers(4))];
        let (entries, recommended) = ranked(entries, 0);
        let names: Vec<_> = entries.iter().map(|entry| entry.backbone.as_str()).collect();
        assert_eq!(names, ["best", "near", "poor"]);
        // Of three photos that only the best gets right nothing follows; of 26 much.
        assert!((entries[1].p_value - 0.25).abs() < 1e-12);
        assert!(entries[2].p_value < 1e-6);
        assert_eq!(recommended, 1);
    }
}

//! Fits and cross-validation against scikit-learn, and what they promise beyond that.

use std::sync::Mutex;

use regraft_progress::{Cancel, Progress};
use regraft_random::{Purpose, keyed, normal_f64};
use serde::Deserialize;

use super::*;

mod targets;

/// Data of `reference/linear/generate.py`.
#[derive(Deserialize)]
struct Data {
    kind: HeadKind,
    features: Vec<f32>,
    dim: usize,
    labels: Vec<u32>,
    classes: usize,
}

impl Data {
    fn samples(&self) -> Samples<'_> {
        Samples::new(&self.features, self.dim, &self.labels, self.classes).unwrap()
    }
}

/// scikit-learn's fits of one data set.
#[derive(Deserialize)]
struct Fits {
    name: String,
    #[serde(flatten)]
    data: Data,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
struct Run {
    #[serde(rename = "C")]
    c: f64,
    balanced: bool,
    weight: Vec<f64>,
    bias: Vec<f64>,
    probabilities: Vec<f64>,
}

/// scikit-learn's cross-validation of one data set.
#[derive(Deserialize)]
struct Folded {
    #[serde(flatten)]
    data: Data,
    folds: Vec<u32>,
    rows: Vec<FoldedRow>,
}

#[derive(Deserialize)]
struct FoldedRow {
    c: f64,
    accuracy: f64,
    log_loss: f64,
}

fn tight(kind: HeadKind) -> FitOptions {
    FitOptions { tol: 1e-10, ..FitOptions::new(kind) }
}

/// Overlapping classes, as many samples of each.
fn blobs(classes: usize, per_class: usize, dim: usize) -> Data {
    let mut rng = keyed(1, Purpose::Init, dim as u64, classes as u64);
    let centres: Vec<f64> = (0..classes * dim).map(|_| normal_f64(&mut rng)).collect();
    let labels: Vec<u32> = (0..classes * per_class).map(|i| (i % classes) as u32).collect();
    let centre = |l: u32| &centres[l as usize * dim..][..dim];
    let features = labels.iter().flat_map(|&l| centre(l)).map(|c| (c + 1.5 * normal_f64(&mut rng)) as f32).collect();
    Data { kind: HeadKind::Softmax, features, dim, labels, classes }
}

#[test]
fn optima_equal_scikit_learns() {
    let cases: Vec<Fits> = serde_json::from_str(include_str!("../../../../reference/linear/fits.json")).unwrap();
    assert_eq!(cases.len(), 10);
    for Fits { name, data, runs } in &cases {
        for run in runs {
            let what = format!("{name}, {:?}, C {}, balanced {}", data.kind, run.c, run.balanced);
            let class_weight = if run.balanced { ClassWeight::Balanced } else { ClassWeight::Uniform };
            let options = FitOptions { class_weight, ..tight(data.kind) };
            let fit = fit(data.samples(), run.c, &options, Control::quiet(&Cancel::new())).unwrap();
            assert!(fit.gradient < 1e-9, "{what}: gradient {:e}", fit.gradient);

            // Weights differ in size with the features, so compare what each adds to a logit. 1e-6: the head is
            // float32 (6e-8) and ill-conditioned directions amplify the solver's tolerance; a logit's error bounds a
            // probability's.
            let rows = run.weight.chunks(data.dim).zip(&run.bias).map(|(w, &b)| (w.to_vec(), b));
            let expected: Vec<(Vec<f64>, f64)> = match (data.classes, data.kind) {
                (2, HeadKind::Softmax) => rows.flat_map(|row| [scaled(&row, -0.5), scaled(&row, 0.5)]).collect(),
                (2, HeadKind::Ovr) => rows.flat_map(|row| [scaled(&row, -1.0), scaled(&row, 1.0)]).collect(),
                _ => rows.collect(),
            };
            assert_eq!(expected.len(), fit.head.classes(), "{what}");
            let mut largest = 0f64;
            let size = |j: usize| data.features.chunks(data.dim).map(|x| f64::from(x[j].abs())).fold(1.0, f64::max);
            for (k, (weight, bias)) in expected.iter().enumerate() {
                let row = &fit.head.weight[k * data.dim..][..data.dim];
                let terms: f64 = (0..data.dim).map(|j| (weight[j] * size(j)).abs()).fold(1.0, f64::max);
                largest = largest.max(terms);
                for j in 0..data.dim {
                    let error = (f64::from(row[j]) - weight[j]).abs() * size(j);
                    assert!(error < 1e-6 * terms, "{what}: weight [{k}, {j}] is {} and not {}", row[j], weight[j]);
                }
                let error = (f64::from(fit.head.bias[k]) - bias).abs();
                assert!(error < 1e-6 * terms, "{what}: bias {k} is {} and not {bias}", fit.head.bias[k]);
            }
            for (i, p) in run.probabilities.chunks(data.classes).enumerate() {
                let found = probabilities(data.kind, &fit.head.logits(data.samples().row(i)));
                for (a, b) in found.iter().zip(p) {
                    assert!(
                        (a - b).abs() < 1e-6 * largest,
                        "{what}: sample {i} has probabilities {found:?} and not {p:?}"
                    );
                }
            }
        }
    }
}

fn scaled((weight, bias): &(Vec<f64>, f64), by: f64) -> (Vec<f64>, f64) {
    (weight.iter().map(|w| by * w).collect(), by * bias)
}

#[test]
fn cross_validation_equals_scikit_learns_on_the_same_folds() {
    let text = include_str!("../../../../reference/linear/cross_validation.json");
    let cases: Vec<Folded> = serde_json::from_str(text).unwrap();
    assert_eq!(cases.len(), 4);
    for Folded { data, folds, rows } in &cases {
        let cs: Vec<f64> = rows.iter().map(|r| r.c).collect();
        for (default, c) in CvOptions::new(0).cs.iter().zip(&cs) {
            assert!(
                (default / c - 1.0).abs() < 1e-12,
                "the default grid has {default} where LogisticRegressionCV has {c}"
            );
        }
        let found =
            cross_validate(data.samples(), folds, &cs, &tight(data.kind), Control::quiet(&Cancel::new())).unwrap();
        for (a, b) in found.iter().zip(rows) {
            assert!((a.score - b.accuracy).abs() < 1e-12, "C {}: accuracy {} and {}", b.c, a.score, b.accuracy);
            // scikit-learn's own optimum is within about 1e-9 of the true one.
            assert!((a.loss - b.log_loss).abs() < 1e-7, "C {}: log loss {} and {}", b.c, a.loss, b.log_loss);
        }
    }
}

#[test]
fn the_default_tolerance_moves_no_probability_by_more_than_it_says() {
    for kind in [HeadKind::Softmax, HeadKind::Ovr] {
        let data = blobs(4, 60, 40);
        for c in [1e-3, 1.0, 1e3] {
            let loose = fit(data.samples(), c, &FitOptions::new(kind), Control::quiet(&Cancel::new())).unwrap();
            let exact = fit(data.samples(), c, &tight(kind), Control::quiet(&Cancel::new())).unwrap();
            assert!(loose.converged);
            for i in 0..data.labels.len() {
                let p = |fit: &Fit| probabilities(kind, &fit.head.logits(data.samples().row(i)));
                for (a, b) in p(&loose).iter().zip(p(&exact)) {
                    assert!((a - b).abs() < 1e-3, "{kind:?}, C {c}: {a} and {b}");
                }
            }
        }
    }
}

#[test]
fn given_class_weights_act_as_repeated_samples() {
    let data = blobs(3, 12, 4);
    for kind in [HeadKind::Softmax, HeadKind::Ovr] {
        let options = FitOptions { class_weight: ClassWeight::Given(vec![1.0, 3.0, 2.0]), ..tight(kind) };
        let weighted = fit(data.samples(), 0.7, &options, Control::quiet(&Cancel::new())).unwrap();
        let (mut features, mut labels) = (Vec::new(), Vec::new());
        for (row, &label) in data.features.chunks(4).zip(&data.labels) {
            for _ in 0..[1, 3, 2][label as usize] {
                features.extend_from_slice(row);
                labels.push(label);
            }
        }
        let repeated = Samples::new(&features, 4, &labels, 3).unwrap();
        let repeated = fit(repeated, 0.7, &tight(kind), Control::quiet(&Cancel::new())).unwrap();
        for (a, b) in weighted.head.weight.iter().zip(&repeated.head.weight) {
            assert!((a - b).abs() < 1e-6, "{kind:?}: {a} and {b}");
        }
    }
}

#[test]
fn one_sample_per_class_and_a_constant_feature_still_fit() {
    let features = [1.0, 5.0, 0.0, -1.0, 5.0, 0.5, 0.0, 5.0, -2.0];
    for kind in [HeadKind::Softmax, HeadKind::Ovr] {
        let samples = Samples::new(&features, 3, &[2, 0, 1], 3).unwrap();
        let fit = fit(samples, 10.0, &tight(kind), Control::quiet(&Cancel::new())).unwrap();
        assert!(fit.converged);
        for (i, label) in [2, 0, 1].into_iter().enumerate() {
            assert_eq!(crate::metrics::argmax(&fit.head.logits(samples.row(i))), label);
        }
        for k in 0..3 {
            assert_eq!(fit.head.weight[3 * k + 1], 0.0, "a constant feature says nothing");
        }
        let refused = fit_cv(samples, &tight(kind), &CvOptions::new(0), Control::quiet(&Cancel::new()));
        assert!(matches!(refused, Err(Error::TooFewSamples { class: 0, found: 1, needed: 2, .. })));
    }
}

#[test]
fn bad_input_is_refused_by_name() {
    let new = |features: &[f32], dim, labels: &[u32], classes| Samples::new(features, dim, labels, classes).map(|_| ());
    let nan = new(&[0.0, 1.0, 2.0, f32::NAN], 2, &[0, 1], 2);
    assert!(matches!(nan, Err(Error::NonFinite { sample: 1, feature: 1, .. })));
    assert!(matches!(new(&[f32::INFINITY, 1.0], 1, &[0, 1], 2), Err(Error::NonFinite { sample: 0, feature: 0, .. })));
    assert!(matches!(new(&[0.0; 3], 2, &[0, 1], 2), Err(Error::Shape { expected: 4, found: 3, .. })));
    assert!(matches!(new(&[0.0; 2], 1, &[0, 2], 2), Err(Error::Label { sample: 1, label: 2, classes: 2 })));
    assert!(matches!(new(&[0.0; 2], 1, &[0, 2], 3), Err(Error::TooFewSamples { class: 1, found: 0, needed: 1, .. })));
    assert!(matches!(new(&[0.0; 2], 1, &[0, 0], 1), Err(Error::Setting { .. })));
    assert!(matches!(new(&[], 0, &[0, 1], 2), Err(Error::Setting { .. })));

    let data = blobs(2, 5, 3);
    let refuse = |c, options: &FitOptions| fit(data.samples(), c, options, Control::quiet(&Cancel::new())).unwrap_err();
    let options = FitOptions::new(HeadKind::Softmax);
    for c in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(refuse(c, &options), Error::Setting { name: "C", .. }));
    }
    let weighted = |weights| FitOptions { class_weight: ClassWeight::Given(weights), ..options.clone() };
    assert!(matches!(refuse(1.0, &weighted(vec![1.0])), Error::Shape { expected: 2, found: 1, .. }));
    assert!(matches!(refuse(1.0, &weighted(vec![1.0, 0.0])), Error::Setting { name: "a class weight", .. }));
    assert!(matches!(refuse(1.0, &FitOptions { tol: 0.0, ..options.clone() }), Error::Setting { .. }));
    let alone = cross_validate(
        data.samples(),
        &[0, 1, 0, 1, 0, 1, 0, 1, 0, 1],
        &[1.0],
        &options,
        Control::quiet(&Cancel::new()),
    );
    assert!(matches!(alone, Err(Error::TooFewSamples { found: 0, .. })), "each class lies in one fold: {alone:?}");
}

#[test]
fn the_largest_features_neither_panic_nor_pass_for_a_fit() {
    let features = [f32::MAX, -f32::MAX, f32::MAX / 2.0, f32::MIN_POSITIVE];
    let samples = Samples::new(&features, 1, &[0, 1, 0, 1], 2).unwrap();
    let fit = fit(samples, 1.0, &FitOptions::new(HeadKind::Softmax), Control::quiet(&Cancel::new())).unwrap();
    assert!(fit.objective.is_finite() && fit.head.weight.iter().all(|w| w.is_finite()));
}

#[test]
fn folds_are_stratified_seeded_and_as_many_as_the_smallest_class_allows() {
    let data = blobs(3, 11, 2);
    let folds = stratified_folds(data.samples(), 5, 9).unwrap();
    assert_eq!(folds, stratified_folds(data.samples(), 5, 9).unwrap());
    assert_ne!(folds, stratified_folds(data.samples(), 5, 10).unwrap());
    for fold in 0..5 {
        let count = |class| (0..33).filter(|&i| folds[i] == fold && data.labels[i] == class).count();
        let counts = [count(0), count(1), count(2)];
        assert!(counts.iter().all(|c| (2..=3).contains(c)), "fold {fold} has {counts:?}");
        assert!((6..=7).contains(&counts.iter().sum::<usize>()), "fold {fold} has {counts:?}");
    }
    let small = blobs(3, 3, 2);
    assert_eq!(stratified_folds(small.samples(), 5, 0).unwrap().iter().max(), Some(&2));
    assert!(matches!(stratified_folds(small.samples(), 1, 0), Err(Error::Setting { .. })));
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    // Enough samples for several parts of the gradient's sum.
    let data = blobs(3, 200, 33);
    for kind in [HeadKind::Softmax, HeadKind::Ovr] {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                fit_cv(data.samples(), &FitOptions::new(kind), &CvOptions::new(3), Control::quiet(&Cancel::new()))
                    .unwrap()
            })
        };
        let one = run(1);
        for threads in [2, 5] {
            assert_eq!(run(threads), one, "{threads} threads");
        }
        assert_eq!(one.folds, 5);
        assert_eq!(one.table.len(), 10);
        let best = one.table.iter().map(|r| r.score).fold(0.0, f64::max);
        let equals = one.table.iter().filter(|r| r.score > best - 1e-12);
        let chosen = equals.min_by(|a, b| a.loss.total_cmp(&b.loss)).unwrap();
        assert_eq!(one.fit.c, chosen.c, "the smallest log loss of the best accuracy");
    }
}

/// Hears of units that are done, and wishes to stop when it hears of so many.
struct Counter {
    seen: Mutex<Vec<u64>>,
    stop_at: u64,
    cancel: Cancel,
}

impl Counter {
    fn new(stop_at: u64) -> Self {
        Self { seen: Mutex::default(), stop_at, cancel: Cancel::new() }
    }

    fn control(&self) -> Control<'_> {
        Control { progress: self, cancel: &self.cancel }
    }
}

impl Progress for Counter {
    fn advance(&self, done: u64, _detail: &str) {
        self.seen.lock().unwrap().push(done);
        if done == self.stop_at {
            self.cancel.cancel();
        }
    }
}

#[test]
fn progress_counts_up_and_a_cancelled_fit_stops() {
    let data = blobs(3, 40, 10);
    let options = FitOptions::new(HeadKind::Ovr);
    let counter = Counter::new(u64::MAX);
    fit_cv(data.samples(), &options, &CvOptions::new(0), counter.control()).unwrap();
    let mut folds = counter.seen.into_inner().unwrap();
    folds.sort_unstable();
    assert_eq!(folds, (1..=50).collect::<Vec<_>>());

    let counter = Counter::new(u64::MAX);
    let result = fit(data.samples(), 1.0, &options, counter.control()).unwrap();
    assert_eq!(counter.seen.into_inner().unwrap(), (1..=result.iterations as u64).collect::<Vec<_>>());

    let counter = Counter::new(3);
    assert!(matches!(fit(data.samples(), 1.0, &options, counter.control()), Err(Error::Cancelled)));
    let stopped = fit_cv(data.samples(), &options, &CvOptions::new(0), Control::quiet(&counter.cancel));
    assert!(matches!(stopped, Err(Error::Cancelled)));
}

#[test]
fn held_out_answers_are_those_of_heads_that_have_not_seen_the_sample() {
    let data = blobs(3, 20, 6);
    let samples = data.samples();
    let folds = stratified_folds(samples, 4, 7).unwrap();
    let (options, cs) = (FitOptions::new(HeadKind::Softmax), [1e-3, 1e-1, 10.0]);
    let answers = held_out(samples, &folds, &cs, &options, Control::quiet(&Cancel::new())).unwrap();
    assert_eq!(answers.cs.len(), 4);
    for fold in 0..4u32 {
        // What is left without the fold decides, and answers.
        let kept: Vec<usize> = (0..samples.len()).filter(|&i| folds[i] != fold).collect();
        let features: Vec<f32> =
            kept.iter().flat_map(|&i| data.features[i * data.dim..][..data.dim].to_vec()).collect();
        let labels: Vec<u32> = kept.iter().map(|&i| data.labels[i]).collect();
        let rest = Samples::new(&features, data.dim, &labels, data.classes).unwrap();
        let head = fit(rest, answers.cs[fold as usize], &options, Control::quiet(&Cancel::new())).unwrap().head;
        for i in (0..samples.len()).filter(|&i| folds[i] == fold) {
            let logits = head.logits(&data.features[i * data.dim..][..data.dim]);
            assert_eq!(answers.correct[i], crate::metrics::argmax(&logits) == data.labels[i] as usize, "sample {i}");
        }
    }
    // One value of C leaves no choice: the accuracy is the cross-validation's.
    let answers = held_out(samples, &folds, &cs[1..2], &options, Control::quiet(&Cancel::new())).unwrap();
    let row = cross_validate(samples, &folds, &cs[1..2], &options, Control::quiet(&Cancel::new())).unwrap()[0];
    let right = answers.correct.iter().filter(|&&correct| correct).count();
    assert!((right as f64 / 60.0 - row.score).abs() < 1e-12);
}

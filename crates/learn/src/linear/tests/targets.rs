//! Labels and numbers against scikit-learn, and what they promise beyond that.

use regraft_progress::Cancel;
use regraft_random::{Purpose, keyed, normal_f64, unit_f64};
use serde::Deserialize;

use super::super::*;
use crate::Error;

/// What `reference/linear/generate.py` computed with scikit-learn.
#[derive(Deserialize)]
struct File {
    fits: Vec<Case>,
    cross_validation: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    features: Vec<f32>,
    dim: usize,
    /// `[n, classes]`
    #[serde(default)]
    labels: Vec<f32>,
    #[serde(default)]
    classes: usize,
    #[serde(default)]
    values: Vec<f32>,
    #[serde(default)]
    runs: Vec<Run>,
    #[serde(default)]
    folds: Vec<u32>,
    #[serde(default)]
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Run {
    #[serde(rename = "C")]
    c: f64,
    #[serde(default)]
    balanced: bool,
    weight: Vec<f64>,
    bias: Answers,
    #[serde(default)]
    probabilities: Vec<f64>,
    #[serde(default)]
    answers: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answers {
    One(f64),
    Many(Vec<f64>),
}

#[derive(Deserialize)]
struct Row {
    c: f64,
    score: f64,
    loss: f64,
}

impl Case {
    fn samples(&self) -> Samples<'_> {
        match self.labels.is_empty() {
            true => Samples::with_values(&self.features, self.dim, &self.values).unwrap(),
            false => Samples::with_labels(&self.features, self.dim, &self.labels, self.classes).unwrap(),
        }
    }

    fn kind(&self) -> HeadKind {
        if self.labels.is_empty() { HeadKind::Value } else { HeadKind::Labels }
    }

    /// The largest size of each feature, at least 1.
    fn size(&self, feature: usize) -> f64 {
        self.features.chunks(self.dim).map(|x| f64::from(x[feature].abs())).fold(1.0, f64::max)
    }
}

fn files() -> [File; 2] {
    [
        include_str!("../../../../../reference/linear/labels.json"),
        include_str!("../../../../../reference/linear/values.json"),
    ]
    .map(|text| serde_json::from_str(text).unwrap())
}

fn tight(kind: HeadKind) -> FitOptions {
    FitOptions { tol: 1e-10, ..FitOptions::new(kind) }
}

/// `n` samples of whom each has labels by three noisy questions and one that few answer with yes.
fn labelled(n: usize, dim: usize) -> (Vec<f32>, Vec<f32>) {
    let mut rng = keyed(2, Purpose::Init, n as u64, dim as u64);
    let features: Vec<f32> = (0..n * dim).map(|_| normal_f64(&mut rng) as f32).collect();
    let mut answers = Vec::new();
    for row in features.chunks(dim) {
        answers.extend((0..3).map(|k| f32::from(u8::from(f64::from(row[k]) + normal_f64(&mut rng) > 0.3 * k as f64))));
        answers.push(f32::from(u8::from(unit_f64(&mut rng) < 0.1)));
    }
    (features, answers)
}

#[test]
fn optima_equal_scikit_learns() {
    let mut runs = 0;
    for case in files().iter().flat_map(|file| &file.fits) {
        for run in &case.runs {
            runs += 1;
            let what = format!("{:?} on {} features, C {}, balanced {}", case.kind(), case.dim, run.c, run.balanced);
            let class_weight = if run.balanced { ClassWeight::Balanced } else { ClassWeight::Uniform };
            let options = FitOptions { class_weight, ..tight(case.kind()) };
            let fit = fit(case.samples(), run.c, &options, Control::quiet(&Cancel::new())).unwrap();
            assert!(fit.gradient < 1e-9, "{what}: gradient {:e}", fit.gradient);
            let biases = match &run.bias {
                Answers::One(bias) => std::slice::from_ref(bias),
                Answers::Many(biases) => biases,
            };
            // As for classes: 1e-6 of the largest term of an output, for the head is float32 and ill-conditioned
            // directions amplify the solver's tolerance. A number's unit counts, too.
            let mut largest = 0f64;
            for (k, (weight, &bias)) in run.weight.chunks(case.dim).zip(biases).enumerate() {
                let unit = case.values.iter().fold(0.0, |unit: f64, &v| unit.max(v.abs().into()));
                let unit = if case.kind() == HeadKind::Value { unit } else { 1.0 };
                let terms = (0..case.dim).map(|j| (weight[j] * case.size(j)).abs()).fold(unit, f64::max);
                largest = largest.max(terms);
                for j in 0..case.dim {
                    let found = f64::from(fit.head.weight[k * case.dim + j]);
                    let error = (found - weight[j]).abs() * case.size(j);
                    assert!(error < 1e-6 * terms, "{what}: weight [{k}, {j}] is {found} and not {}", weight[j]);
                }
                let found = f64::from(fit.head.bias[k]);
                assert!((found - bias).abs() < 1e-6 * terms, "{what}: bias {k} is {found} and not {bias}");
            }
            for i in 0..case.samples().len() {
                let outputs = fit.head.logits(case.samples().row(i));
                let (found, expected) = match case.kind() {
                    HeadKind::Value => (outputs, &run.answers[i..=i]),
                    kind => (probabilities(kind, &outputs), &run.probabilities[i * case.classes..][..case.classes]),
                };
                for (a, b) in found.iter().zip(expected) {
                    assert!((a - b).abs() < 1e-6 * largest, "{what}: sample {i} has {found:?} and not {expected:?}");
                }
            }
        }
    }
    assert_eq!(runs, 3 * 4 + 3 * 3);
}

#[test]
fn cross_validation_equals_scikit_learns_on_the_same_folds() {
    let mut rows = 0;
    for case in files().iter().flat_map(|file| &file.cross_validation) {
        let cs: Vec<f64> = case.rows.iter().map(|row| row.c).collect();
        let found =
            cross_validate(case.samples(), &case.folds, &cs, &tight(case.kind()), Control::quiet(&Cancel::new()))
                .unwrap();
        for (a, b) in found.iter().zip(&case.rows) {
            rows += 1;
            // Both optima are within about 1e-9 of the true ones; mean average precision goes by order alone.
            assert!((a.score - b.score).abs() < 1e-7, "{:?}, C {}: {} and {}", case.kind(), b.c, a.score, b.score);
            assert!((a.loss / b.loss - 1.0).abs() < 1e-7, "{:?}, C {}: {} and {}", case.kind(), b.c, a.loss, b.loss);
        }
    }
    assert_eq!(rows, 3 + 2 * 3);
}

#[test]
fn the_smallest_loss_chooses_and_threads_move_no_bit() {
    let (features, answers) = labelled(300, 9);
    let values: Vec<f32> = features.chunks(9).map(|x| 40.0 + 3.0 * x[0] - x[4] + x[5] * x[6]).collect();
    for samples in
        [Samples::with_labels(&features, 9, &answers, 4).unwrap(), Samples::with_values(&features, 9, &values).unwrap()]
    {
        let kind = if samples.classes() == 1 { HeadKind::Value } else { HeadKind::Labels };
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let cv = CvOptions::new(3);
            pool.install(|| fit_cv(samples, &FitOptions::new(kind), &cv, Control::quiet(&Cancel::new())).unwrap())
        };
        let one = run(1);
        assert_eq!(run(3), one);
        let least = one.table.iter().min_by(|a, b| a.loss.total_cmp(&b.loss)).unwrap();
        assert_eq!(one.fit.c, least.c);
        assert!(least.score > 0.5, "{kind:?}: {}", least.score);
        let folds = stratified_folds(samples, 5, 3).unwrap();
        let scores =
            held_out_scores(samples, &folds, &[least.c], &FitOptions::new(kind), Control::quiet(&Cancel::new()))
                .unwrap();
        let alone = cross_validate(samples, &folds, &[least.c], &FitOptions::new(kind), Control::quiet(&Cancel::new()))
            .unwrap()[0];
        assert!((scores.score - alone.score).abs() < 1e-12, "one C leaves no choice");
        assert_eq!(scores.per_sample.len(), 300);
        let refused = held_out(samples, &folds, &[1.0], &FitOptions::new(kind), Control::quiet(&Cancel::new()));
        assert!(matches!(refused, Err(Error::Kind { expected: "classes", .. })));
    }
}

#[test]
fn the_unit_of_a_number_changes_nothing() {
    let (features, _) = labelled(60, 5);
    let values: Vec<f32> = features.chunks(5).map(|x| x[0] - 2.0 * x[1] + x[2] * x[3]).collect();
    let fit_of = |values: &[f32]| {
        let samples = Samples::with_values(&features, 5, values).unwrap();
        fit(samples, 0.3, &FitOptions::new(HeadKind::Value), Control::quiet(&Cancel::new())).unwrap()
    };
    let plain = fit_of(&values);
    for unit in [1024.0, 1.0 / 1024.0] {
        let other = fit_of(&values.iter().map(|v| v * unit).collect::<Vec<_>>());
        assert_eq!(other.iterations, plain.iterations);
        for (a, b) in other.head.weight.iter().zip(&plain.head.weight) {
            assert!((a / unit - b).abs() < 1e-6 * b.abs().max(1.0), "{a} and {b} in a unit of {unit}");
        }
        let objective = other.objective / f64::from(unit * unit);
        assert!((objective / plain.objective - 1.0).abs() < 1e-9, "{objective} and {}", plain.objective);
    }
    // All the same: nothing to explain.
    let constant = fit_of(&[7.0; 60]);
    assert!(constant.converged && constant.head.weight.iter().all(|&w| w == 0.0) && constant.head.bias == [7.0]);
}

#[test]
fn given_weights_act_as_repeated_yeses() {
    let (features, answers) = labelled(50, 4);
    let question: Vec<f32> = answers.chunks(4).map(|row| row[0]).collect();
    let options = FitOptions { class_weight: ClassWeight::Given(vec![3.0]), ..tight(HeadKind::Labels) };
    let samples = Samples::with_labels(&features, 4, &question, 1).unwrap();
    let weighted = fit(samples, 0.7, &options, Control::quiet(&Cancel::new())).unwrap();
    let (mut repeated, mut repeated_answers) = (features.clone(), question.clone());
    for (row, &answer) in features.chunks(4).zip(&question).filter(|(_, answer)| **answer == 1.0) {
        (0..2).for_each(|_| repeated.extend_from_slice(row));
        repeated_answers.extend([answer; 2]);
    }
    let samples = Samples::with_labels(&repeated, 4, &repeated_answers, 1).unwrap();
    let repeated = fit(samples, 0.7, &tight(HeadKind::Labels), Control::quiet(&Cancel::new())).unwrap();
    for (a, b) in weighted.head.weight.iter().zip(&repeated.head.weight) {
        assert!((a - b).abs() < 1e-6, "{a} and {b}");
    }
}

#[test]
fn a_label_absent_from_the_training_part_has_a_constant_answer() {
    let (features, mut answers) = labelled(40, 4);
    // The last label is that of sample 7 alone.
    answers.chunks_mut(4).enumerate().for_each(|(i, row)| row[3] = f32::from(u8::from(i == 7)));
    let samples = Samples::with_labels(&features, 4, &answers, 4).unwrap();
    let folds: Vec<u32> = (0..40).map(|i| u32::from(i % 2 == 1)).collect();
    for class_weight in [ClassWeight::Uniform, ClassWeight::Balanced] {
        let options = FitOptions { class_weight, ..FitOptions::new(HeadKind::Labels) };
        let table = cross_validate(samples, &folds, &[0.1, 10.0], &options, Control::quiet(&Cancel::new())).unwrap();
        assert!(table.iter().all(|row| row.loss.is_finite() && row.score > 0.3), "{table:?}");
        let cancel = Cancel::new();
        let problem = fit::Problem::new(samples, &options, Control::quiet(&cancel)).unwrap();
        let even: Vec<usize> = (0..40).step_by(2).collect();
        let model = problem.solve(&even, 1.0, None, |_, _| ()).unwrap().model;
        assert!(model.weight[3 * 4..].iter().all(|&w| w == 0.0));
        assert!((probabilities(HeadKind::Labels, &model.bias)[3] - 1.0 / 22.0).abs() < 1e-15);
    }
    assert!(
        fit_cv(samples, &FitOptions::new(HeadKind::Labels), &CvOptions::new(1), Control::quiet(&Cancel::new())).is_ok()
    );
}

#[test]
fn folds_have_their_share_of_every_label_and_of_the_range() {
    let (features, answers) = labelled(200, 5);
    let samples = Samples::with_labels(&features, 5, &answers, 4).unwrap();
    let folds = stratified_folds(samples, 5, 4).unwrap();
    assert_ne!(folds, stratified_folds(samples, 5, 5).unwrap());
    let total = samples.counts(0..200);
    for fold in 0..5 {
        let members: Vec<usize> = (0..200).filter(|&i| folds[i] == fold).collect();
        assert_eq!(members.len(), 40);
        let counts = samples.counts(members);
        let (rarest, rare) = total.iter().enumerate().min_by_key(|&(_, n)| n).unwrap();
        assert!(counts[rarest].abs_diff(rare / 5) <= 1, "the rarest label is dealt out first: {counts:?} of {total:?}");
        assert!(counts.iter().zip(&total).all(|(n, all)| n.abs_diff(all / 5) <= 8), "{counts:?} of {total:?}");
    }
    let values: Vec<f32> = (0..50).map(|i| (i * 37 % 50) as f32).collect();
    let samples = Samples::with_values(&features[..250], 5, &values).unwrap();
    let folds = stratified_folds(samples, 5, 4).unwrap();
    for tenth in 0..10 {
        let mut found: Vec<u32> = (0..50).filter(|&i| values[i] as u32 / 5 == tenth).map(|i| folds[i]).collect();
        found.sort_unstable();
        assert_eq!(found, [0, 1, 2, 3, 4], "five neighbours lie in five folds");
    }
    let two = Samples::with_values(&features[..10], 5, &values[..2]).unwrap();
    assert_eq!(stratified_folds(two, 5, 0).unwrap().iter().max(), Some(&1));
    let one = Samples::with_values(&features[..5], 5, &values[..1]).unwrap();
    assert!(matches!(stratified_folds(one, 5, 0), Err(Error::NoSamples)));
}

#[test]
fn bad_input_is_refused_by_name() {
    let labels = |features: &[f32], labels: &[f32], n| Samples::with_labels(features, 1, labels, n).map(|_| ());
    assert!(matches!(labels(&[0.0; 2], &[0.0, 1.0, 1.0, 1.0], 2), Err(Error::OneSided { label: 1, always: true })));
    assert!(matches!(labels(&[0.0; 2], &[0.0, 0.0, 1.0, 0.0], 2), Err(Error::OneSided { label: 1, always: false })));
    assert!(matches!(labels(&[0.0; 2], &[0.0, 0.5], 1), Err(Error::Answer { sample: 1, label: 0, .. })));
    assert!(matches!(labels(&[0.0; 2], &[0.0; 3], 2), Err(Error::Shape { expected: 4, found: 3, .. })));
    assert!(matches!(labels(&[0.0; 3], &[0.0, 1.0], 1), Err(Error::Shape { expected: 2, found: 3, .. })));
    assert!(matches!(labels(&[f32::NAN, 0.0], &[0.0, 1.0], 1), Err(Error::NonFinite { sample: 0, .. })));
    let values = |values: &[f32]| Samples::with_values(&[0.0, 1.0], 1, values).map(|_| ());
    assert!(matches!(values(&[0.0, f32::INFINITY]), Err(Error::Value { sample: 1, .. })));
    assert!(matches!(Samples::with_values(&[], 1, &[]), Err(Error::NoSamples)));

    let samples = Samples::with_values(&[0.0, 1.0], 1, &[0.0, 2.0]).unwrap();
    let refuse = |options: &FitOptions| fit(samples, 1.0, options, Control::quiet(&Cancel::new())).unwrap_err();
    assert!(matches!(refuse(&FitOptions::new(HeadKind::Ovr)), Error::Kind { expected: "classes", found: "values" }));
    for class_weight in [ClassWeight::Balanced, ClassWeight::Given(vec![1.0])] {
        let options = FitOptions { class_weight, ..FitOptions::new(HeadKind::Value) };
        assert!(matches!(refuse(&options), Error::ClassWeights));
    }
    assert!(matches!(class_means(samples), Err(Error::Kind { .. })));
    assert!(matches!(held_out_by_means(samples, &[0, 1]), Err(Error::Kind { .. })));
}

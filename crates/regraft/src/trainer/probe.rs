//! The ConvNet as a feature extractor: features once, then logistic regression on them.

use std::time::Instant;

use regraft_data::{Dataset, Sample, Target, Task};
use regraft_graph::{Grafted, Graph, NodeId, StateDict, Tensor};
use regraft_learn::history::Row;
use regraft_learn::linear::{
    ClassWeight, Control, CvOptions, FitOptions, HeadKind, LinearHead, class_means, fit, fit_cv,
};
use regraft_learn::metrics::MetricAccumulator;

use crate::model::golden::Golden;
use crate::network::extractor::feature_extractor;
use crate::network::session::Network;
use crate::photos::features::Features;
use crate::photos::targets;
use crate::run::outcome::Trained;
use crate::run::report;
use crate::trainer::job::Job;
use crate::{ClassWeights, Head, Model, Provenance, Result};

/// A finished probe.
pub(crate) struct Probed {
    pub trained: Trained,
    /// The head's tensors under their names in the network.
    pub head: StateDict,
}

/// Computes features, fits the head, and seals it on the network as an ordinary fully connected layer.
///
/// # Errors
/// Any of [`crate::Error`].
pub(crate) fn run(job: &Job) -> Result<Probed> {
    let started = Instant::now();
    let Job { settings, photos, folder, context, .. } = *job;
    let dataset = &photos.dataset;
    let (Grafted { graph, classifier, .. }, mut state) = settings.graft(job.pretrained, job.outputs())?;
    let parameters: u64 = graph.parameters().iter().map(|spec| spec.len() as u64).sum();
    folder.require_room(4 * parameters + (1 << 20))?;
    let (trunk, top) = feature_extractor(&graph, classifier)?.expect("nothing goes past a new head");
    let mut below = Network::new(context.engine, &trunk, &state)?;
    let train = extract(job, "training features", &dataset.train, &mut below)?;
    let val = extract(job, "validation features", &dataset.val, &mut below)?;

    let linear = fit_head(job, &train)?;
    let measure = |features: &Features, samples: &[Sample]| -> Result<MetricAccumulator> {
        let rows = features.values.chunks_exact(features.dim);
        let logits: Vec<f32> = rows.flat_map(|row| linear.logits(row)).map(|z| z as f32).collect();
        let mut metrics = MetricAccumulator::new(linear.kind, dataset.classes.len());
        targets::add(&mut metrics, &logits, photos.targets(samples).labels(0..samples.len()))?;
        Ok(metrics)
    };
    let (on_train, on_val) = (measure(&train, &dataset.train)?, measure(&val, &dataset.val)?);
    let kind = linear.kind;
    let head = tensors(linear, &graph, classifier);
    state.extend(head.clone());

    let mut top = Network::new(context.engine, &top, &state)?;
    let golden = Golden::record(graph.input_shape(), |images| top.infer_values(&below.infer(images)?))?;
    let model = Model {
        graph,
        state,
        classes: dataset.classes.clone(),
        preprocessing: settings.preprocessing.clone(),
        head: kind,
        scale: photos.scale,
        provenance: Provenance { epoch: 1, val_score: Some(on_val.score()), ..job.provenance() },
        golden,
    };
    let seconds = started.elapsed().as_secs_f64();
    let row = Row {
        epoch: 1,
        train_loss: on_train.loss(),
        train_score: on_train.score(),
        val_loss: on_val.loss(),
        val_score: on_val.score(),
        lr: 0.0,
        seconds,
    };
    folder.write_results(&[row], kind)?;
    // Last: the model is what tells a finished probe.
    model.save(&folder.best_path())?;
    context.progress.epoch(&report::epoch(&row, 1, true, kind));
    let trained = Trained {
        folder: folder.clone(),
        best_val_score: row.val_score,
        kind,
        best_epoch: 1,
        chosen: false,
        val_n: dataset.val.len(),
        seconds,
        auto: None,
        scores: Some(on_val.per_sample().to_vec()),
    };
    Ok(Probed { trained, head })
}

fn extract(job: &Job, stage: &str, samples: &[Sample], network: &mut Network) -> Result<Features> {
    Features::extract(stage, samples, network, &job.photos.store, &job.settings.preprocessing, job.context)
}

/// Gives the last layer of a network the weights that a probe of it finds, for fine-tuning to start from: linear probing,
/// then fine-tuning ("Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", Kumar et al. 2022).
///
/// # Errors
/// Any of [`crate::Error`].
pub(crate) fn initialise(job: &Job, grafted: &Grafted, state: &mut StateDict) -> Result<()> {
    let Grafted { graph, classifier, .. } = grafted;
    let (trunk, _) = feature_extractor(graph, *classifier)?.expect("nothing goes past a new head");
    let mut network = Network::new(job.context.engine, &trunk, state)?;
    let train = extract(job, "features for the probe", &job.photos.dataset.train, &mut network)?;
    let linear = fit_head(job, &train)?;
    state.extend(tensors(linear, graph, *classifier));
    Ok(())
}

/// A fitted head as the tensors of a fully connected layer.
fn tensors(linear: LinearHead, graph: &Graph, layer: NodeId) -> StateDict {
    let (name, classes, dim) = (&graph.nodes()[layer].name, linear.classes(), linear.dim());
    StateDict::from([
        (format!("{name}.weight"), Tensor::new([classes, dim], linear.weight)),
        (format!("{name}.bias"), Tensor::new([classes], linear.bias)),
    ])
}

/// Fits the head to the training photos with the given `C`, or chooses it by cross-validation.
fn fit_head(job: &Job, train: &Features) -> Result<LinearHead> {
    let Job { settings, photos, context, .. } = *job;
    let targets = photos.targets(&photos.dataset.train);
    let classes = targets.classes();
    let samples = targets.with_features(&train.values, train.dim, &classes)?;
    if settings.head == Head::Mean {
        return Ok(class_means(samples)?);
    }
    let class_weight = match &settings.class_weights {
        ClassWeights::Uniform => ClassWeight::Uniform,
        ClassWeights::Balanced => ClassWeight::Balanced,
        ClassWeights::Given(weights) => ClassWeight::Given(weights.iter().map(|&w| f64::from(w)).collect()),
    };
    let options = FitOptions { class_weight, ..FitOptions::new(photos.head_kind(settings)) };
    let progress = context.progress;
    if let Some(c) = settings.c {
        let control = Control::quiet(context.cancel);
        return Ok(fit(samples, c, &options, control)?.head);
    }
    if let Some(why) = too_few_to_hold_out(&photos.dataset) {
        progress.warn(&format!("{why}, so C cannot be chosen by cross-validation: C = 1"));
        let control = Control::quiet(context.cancel);
        return Ok(fit(samples, 1.0, &options, control)?.head);
    }
    let cv = CvOptions::new(settings.seed);
    progress.begin("cross-validating C", "fits", (cv.cs.len() * cv.folds) as u64);
    let fitted = fit_cv(samples, &options, &cv, Control { progress, cancel: context.cancel });
    progress.end();
    let fitted = fitted?;
    let chosen = fitted.table.iter().find(|row| row.c == fitted.fit.c);
    progress.note(&format!(
        "C = {:.4} by {}-fold cross-validation on the training photos ({} {:.4})",
        fitted.fit.c,
        fitted.folds,
        score_name(options.kind),
        chosen.map_or(f64::NAN, |row| row.score)
    ));
    Ok(fitted.fit.head)
}

/// Why no photo can be held out of the training photos, if so.
fn too_few_to_hold_out(dataset: &Dataset) -> Option<&'static str> {
    let of_class = |class| dataset.train.iter().filter(|sample| sample.target == Target::Class(class)).count();
    match dataset.task {
        Task::Classes if (0..dataset.classes.len()).any(|class| of_class(class) == 1) => {
            Some("a class has a single training photo")
        }
        Task::Labels | Task::Value if dataset.train.len() < 2 => Some("there is a single training photo"),
        _ => None,
    }
}

/// What a score on validation photos is called.
pub fn score_name(kind: HeadKind) -> &'static str {
    match kind {
        HeadKind::Softmax | HeadKind::Ovr => "accuracy",
        HeadKind::Labels => "mean average precision",
        HeadKind::Value => "R²",
    }
}

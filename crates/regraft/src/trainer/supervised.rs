//! Learning from labels: all layers, those from a layer up, or the new head alone.

use regraft_engine::{BatchNormMode, Outputs, Precision, SessionOptions};
use regraft_graph::{Grafted, StateDict, Trainable};
use regraft_learn::linear::HeadKind;
use regraft_learn::metrics::MetricAccumulator;

use crate::model::golden::Golden;
use crate::photos::targets;
use crate::run::checkpoint::{Checkpoint, Position};
use crate::run::outcome::Trained;
use crate::trainer::epochs::{Measured, Objective, Run};
use crate::trainer::inputs::Inputs;
use crate::trainer::job::Job;
use crate::trainer::learner::Learner;
use crate::trainer::loss::Loss;
use crate::trainer::recipe::Recipe;
use crate::{Context, Keep, Model, Outcome, Provenance, Result};

/// Trains, or goes on from a checkpoint, until the last epoch or until it is cancelled. `head` is what the head starts
/// from, if a probe has found it already.
///
/// # Errors
/// Any of [`crate::Error`]; files saved before stay.
pub(crate) fn run(job: Job, head: Option<&StateDict>, checkpoint: Option<Checkpoint>) -> Result<Outcome> {
    let (grafted, state) = match &checkpoint {
        // All that the head starts from is in the checkpoint.
        Some(_) => job.settings.graft(job.pretrained, job.outputs())?,
        None => job.graft(head)?,
    };
    require_room(&job, &grafted)?;
    let epoch = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.position.epoch);
    let learner = learner(&job, &grafted, state, epoch)?;
    let train = Inputs::training(job.settings, job.photos, learner.session.trunk(), job.context)?;
    let objective = Supervised::new(job, grafted, &learner)?;
    let position = Position::start(job.photos.sha256.clone(), job.pretrained.weights_sha256.clone());
    let recipe = Recipe::new(job.settings);
    let mut run = Run::new(job.context, job.folder, recipe, learner, train, objective, position);
    match checkpoint {
        Some(checkpoint) => run.restore(checkpoint)?,
        None => run.save_checkpoint()?,
    }
    run.train()
}

/// Checks that the disk has room for the model and the checkpoint (weights, the optimiser's tensors, the average), each
/// beside its predecessor.
fn require_room(job: &Job, grafted: &Grafted) -> Result<()> {
    let settings = job.settings;
    let parameters: u64 = grafted.graph.parameters().iter().map(|spec| spec.len() as u64).sum();
    let slots = 1 + settings.update_rule().slots().len() as u64 + u64::from(settings.ema.is_some());
    let last = settings.trainable(grafted, settings.epochs)?;
    let learning = grafted.graph.parameters().into_iter().filter(|spec| last.contains(spec.node));
    let learning: usize = learning.map(|spec| spec.len()).sum();
    job.folder.require_room(4 * 2 * (parameters + slots * learning as u64) + (1 << 20))
}

/// The network of an epoch (from 0), whose tensors are `state`.
///
/// # Errors
/// Errors of compiling it.
pub(crate) fn learner(job: &Job, grafted: &Grafted, state: StateDict, epoch: usize) -> Result<Learner> {
    compile(job, grafted, state, job.settings.trainable(grafted, epoch)?, job.settings.batch_norm_mode(job.pretrained))
}

fn compile(
    job: &Job,
    grafted: &Grafted,
    state: StateDict,
    trainable: Trainable,
    batch_norm: BatchNormMode,
) -> Result<Learner> {
    let settings = job.settings;
    let options = SessionOptions {
        trainable,
        batch_norm,
        update: settings.update_rule(),
        seed: settings.seed,
        precision: settings.precision,
        // What is measured and shipped is the network as others will run it.
        infer_precision: Precision::F32,
        outputs: Outputs::Final,
    };
    let loss = Loss::new(settings, &job.photos.dataset);
    Learner::new(job.context.engine, grafted.graph.clone(), state, options, Recipe::new(settings), loss)
}

/// The objective of a run on labelled images.
struct Supervised<'a> {
    job: Job<'a>,
    grafted: Grafted,
    val: Inputs,
    provenance: Provenance,
    /// How well the network of the latest epoch answers each validation image.
    scores: Option<Vec<f64>>,
}

impl<'a> Supervised<'a> {
    fn new(job: Job<'a>, grafted: Grafted, learner: &Learner) -> Result<Self> {
        let val = Inputs::validation(job.settings, job.photos, learner.session.trunk(), job.context)?;
        Ok(Self { job, grafted, val, provenance: job.provenance(), scores: None })
    }

    /// The network as it infers now, sealed.
    fn model(&self, learner: &mut Learner, epoch: usize, val_score: f64) -> Result<Model> {
        let Job { photos, settings, .. } = self.job;
        let graph = self.grafted.graph.clone();
        Ok(Model {
            golden: Golden::record(graph.input_shape(), |images| learner.infer(images.into()))?,
            graph,
            state: learner.weights()?,
            classes: photos.dataset.classes.clone(),
            preprocessing: settings.preprocessing.clone(),
            head: self.kind(),
            scale: photos.scale,
            provenance: Provenance { epoch, val_score: Some(val_score), ..self.provenance.clone() },
        })
    }

    fn measure_averaged(&mut self, learner: &mut Learner, position: &Position) -> Result<Measured> {
        let (kind, outputs) = (self.kind(), self.outputs());
        let metrics = validate(&mut self.val, learner, kind, outputs, self.job.context)?;
        let (loss, score) = (metrics.loss(), metrics.score());
        self.scores = Some(metrics.per_sample().to_vec());
        let last = self.job.settings.keep == Keep::Last;
        let best = last || position.best.is_none_or(|best| score > best.val_score);
        let model = best.then(|| self.model(learner, position.epoch + 1, score)).transpose()?;
        Ok(Measured { loss, score, model, best: best && !last })
    }
}

impl Objective for Supervised<'_> {
    fn kind(&self) -> HeadKind {
        self.job.head_kind()
    }

    fn outputs(&self) -> usize {
        self.job.outputs()
    }

    /// Layers that begin to learn start as they are, without a past in the optimiser.
    fn prepare_epoch(&mut self, epoch: usize, learner: &mut Learner, train: &mut Inputs) -> Result<()> {
        let Job { settings, pretrained, photos, context, .. } = self.job;
        let trainable = settings.trainable(&self.grafted, epoch)?;
        if trainable == learner.trainable {
            return Ok(());
        }
        let batch_norm = settings.batch_norm_mode(pretrained);
        let mut next = compile(&self.job, &self.grafted, learner.trained()?, trainable, batch_norm)?;
        next.continue_from(learner)?;
        *learner = next;
        *train = Inputs::training(settings, photos, learner.session.trunk(), context)?;
        self.val = Inputs::validation(settings, photos, learner.session.trunk(), context)?;
        Ok(())
    }

    fn measure(&mut self, learner: &mut Learner, position: &Position) -> Result<Measured> {
        learner.session.use_average(true)?;
        let measured = self.measure_averaged(learner, position);
        learner.session.use_average(false)?;
        measured
    }

    fn finish(&mut self, _: &mut Learner, position: &Position) -> Result<Outcome> {
        let Job { settings, context, folder, photos, .. } = self.job;
        let best = position.best.expect("there was at least one epoch");
        if let (Some(patience), true) = (settings.patience, position.epoch < settings.epochs) {
            context.progress.note(&format!(
                "Stopped after epoch {} of {}: none of the {patience} after epoch {} was better.",
                position.epoch, settings.epochs, best.epoch
            ));
        }
        Ok(Outcome::Trained(Trained {
            folder: folder.clone(),
            best_val_score: best.val_score,
            kind: self.kind(),
            best_epoch: best.epoch,
            chosen: settings.keep == Keep::Best && position.epoch > 1,
            val_n: photos.dataset.val.len(),
            seconds: position.seconds,
            auto: None,
            scores: self.scores.take(),
        }))
    }
}

/// Loss and score of the network on the validation images; numbers in the scale in which they are learned.
///
/// # Errors
/// Errors of loading and inferring, [`crate::Error::Interrupted`].
pub(crate) fn validate(
    val: &mut Inputs,
    learner: &mut Learner,
    kind: HeadKind,
    outputs: usize,
    context: &Context,
) -> Result<MetricAccumulator> {
    let mut metrics = MetricAccumulator::new(kind, outputs);
    let (mut done, n) = (0, val.num_samples());
    let output = learner.graph.output();
    let session = learner.session.as_mut();
    let mut steps = val.epoch(0, 0, session, context)?;
    context.progress.begin("validating", "img", n as u64);
    while let Some(step) = steps.next(session)? {
        let logits = crate::network::session::infer(session, step.input, output)?;
        targets::add(&mut metrics, &logits, step.labels)?;
        done += step.samples.len();
        context.progress.advance(done as u64, "");
        context.check_cancelled()?;
    }
    context.progress.end();
    Ok(metrics)
}

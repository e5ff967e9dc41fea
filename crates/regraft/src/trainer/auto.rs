//! Auto mode: a probe, then fine-tuning where the time allows, and the better of the two.
//!
//! Its stages are ordinary runs in folders of their own within the run's. The validation images decide between them, so
//! they must not have decided anything before: fine-tuning keeps the weights of its last epoch, not of its best.

use std::ops::ControlFlow;
use std::time::Instant;

use regraft_graph::StateDict;
use regraft_learn::linear::HeadKind;
use regraft_learn::metrics::paired_p_value;
use serde::{Deserialize, Serialize};

use crate::evaluation::evaluate::score;
use crate::photos::prepare::Photos;
use crate::run::checkpoint::{Checkpoint, require_same};
use crate::run::outcome::{Interrupted, Trained};
use crate::trainer::inputs::Inputs;
use crate::trainer::job::Job;
use crate::trainer::learner::{Learner, Pace, Taken};
use crate::trainer::probe::{self, Probed, score_name};
use crate::trainer::supervised::{self, validate};
use crate::{Error, Keep, Mode, Model, Outcome, Provenance, Result, RunFolder, SIGNIFICANT, Settings};

/// Share of the time that is planned for: machines are slower at times than when they were measured.
const PLANNED: f64 = 0.9;

/// Fewer epochs than this are not worth the time.
const MIN_EPOCHS: usize = 3;

/// Training steps that are timed, after one that warms up.
const TIMED_STEPS: usize = 4;

/// What auto mode has tried and decided, as `auto.json` keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AutoResult {
    /// The mode whose model is kept.
    pub kept: Mode,
    /// All stages that were run.
    #[serde(alias = "rungs")]
    pub stages: Vec<Stage>,
    /// How the fine-tuned network compares with the probe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Pair>,
    /// Why there was no fine-tuning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// A stage that was run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Its mode.
    pub mode: Mode,
    /// Its epochs.
    pub epochs: usize,
    /// Score on the validation images, as in the stage's results.
    pub val_score: f64,
    /// Seconds spent on it.
    pub seconds: f64,
}

impl Stage {
    fn of(mode: Mode, run: &Trained) -> Self {
        Self { mode, epochs: run.best_epoch, val_score: run.best_val_score, seconds: run.seconds }
    }
}

impl AutoResult {
    /// Whether nothing is left to try.
    pub(crate) fn is_complete(&self) -> bool {
        self.comparison.is_some() || self.skipped.is_some()
    }
}

/// Two models on the same images.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Images that the fine-tuned network answers better: that only it gets right or, of labels and numbers, that it comes
    /// closer to.
    pub gained: usize,
    /// Images that the probe answers better.
    pub lost: usize,
    /// Mean over the images of the difference: of right answers, of labels that are right, of negative squared errors.
    pub difference: f64,
    /// Probability of a difference as large or larger if they are equally good, by [`paired_p_value`].
    pub p_value: f64,
}

impl Pair {
    fn new(probe: &[f64], fine_tuned: &[f64], seed: u64) -> Self {
        let ahead = |a: &[f64], b: &[f64]| a.iter().zip(b).filter(|(a, b)| a > b).count();
        let sum: f64 = fine_tuned.iter().zip(probe).map(|(a, b)| a - b).sum();
        Self {
            gained: ahead(fine_tuned, probe),
            lost: ahead(probe, fine_tuned),
            difference: sum / probe.len().max(1) as f64,
            p_value: paired_p_value(fine_tuned, probe, seed),
        }
    }

    /// Whether the fine-tuned network is better by more than chance.
    fn is_better(&self) -> bool {
        self.difference > 0.0 && self.p_value < SIGNIFICANT
    }
}

/// The probe of a run, from this sitting or read back from an earlier one.
struct Probe {
    folder: RunFolder,
    /// The head's tensors.
    head: StateDict,
    /// How well each validation image is answered, if this sitting knows.
    scores: Option<Vec<f64>>,
}

/// Runs auto mode, or goes on with it. `started` is when the run's time began.
///
/// # Errors
/// Any of [`Error`]; the model of the probe stays.
pub(crate) fn run(job: &Job, started: Instant) -> Result<Outcome> {
    let folder = job.folder.stage(Mode::Probe)?;
    let (result, probe) = match job.folder.read_auto()? {
        Some(result) => {
            let model = Model::open(folder.best_path())?;
            let Provenance { data_sha256, weights_sha256, .. } = &model.provenance;
            require_same(data_sha256, weights_sha256.as_deref(), job)?;
            (result, Probe { head: model.head_tensors()?, folder, scores: None })
        }
        None => {
            let settings = Settings { mode: Mode::Probe, time: None, ..job.settings.clone() };
            folder.start(&settings, &job.photos.dataset.classes)?;
            let Probed { trained, head } = probe::run(&Job { settings: &settings, folder: &folder, ..*job })?;
            job.folder.adopt(&folder)?;
            let stages = vec![Stage::of(Mode::Probe, &trained)];
            let result = AutoResult { kept: Mode::Probe, stages, comparison: None, skipped: None };
            (result, Probe { folder, head, scores: trained.scores })
        }
    };
    // From here on there is a model, even if a later stage fails.
    job.folder.write_auto(&result)?;
    fine_tune(job, result, probe, started)
}

/// The stage after the probe, and the decision.
fn fine_tune(job: &Job, mut result: AutoResult, probe: Probe, started: Instant) -> Result<Outcome> {
    let Job { settings, photos, context, .. } = *job;
    let folder = job.folder.stage(Mode::Finetune)?;
    let (plan, checkpoint) = if folder.checkpoint_path().exists() {
        let plan = RunFolder::open(folder.path())?.1;
        let checkpoint = Checkpoint::read(&folder.checkpoint_path())?;
        checkpoint.require_same(&Job { settings: &plan, ..*job })?;
        (plan, Some(checkpoint))
    } else {
        let left = settings.time.map(|time| time.0 - started.elapsed().as_secs_f64());
        match plan(job, &probe.head, left)? {
            Ok(plan) => (plan, None),
            Err(reason) => {
                context.progress.note(&reason);
                result.skipped = Some(reason);
                return finish(job, result);
            }
        }
    };
    if checkpoint.is_none() {
        folder.start(&plan, &photos.dataset.classes)?;
    }
    let tuned = match supervised::run(Job { settings: &plan, folder: &folder, ..*job }, Some(&probe.head), checkpoint) {
        Ok(Outcome::Trained(tuned)) => tuned,
        Ok(Outcome::Interrupted(at)) => {
            return Ok(Outcome::Interrupted(Interrupted { folder: job.folder.clone(), ..at }));
        }
        Ok(Outcome::Distilled(_)) => unreachable!("this run learns from labels"),
        Err(diverged @ Error::Diverged { .. }) => {
            let reason = format!("Fine-tuning is given up, and the probe kept: {diverged}");
            context.progress.warn(&reason);
            result.skipped = Some(reason);
            return finish(job, result);
        }
        Err(error) => return Err(error),
    };
    result.stages.push(Stage::of(Mode::Finetune, &tuned));
    let scores = |known: Option<Vec<f64>>, folder: &RunFolder, stage: &str| -> Result<Vec<f64>> {
        if let Some(known) = known {
            return Ok(known);
        }
        let path = folder.best_path();
        let model = Model::open(&path)?;
        let mut network = model.network(context.engine, &path)?;
        let Photos { dataset, store, .. } = photos;
        score(stage, &model, &mut network, &dataset.val, store, None, context)?.per_image()
    };
    let of_probe = scores(probe.scores, &probe.folder, "comparing: the probe")?;
    let pair = Pair::new(&of_probe, &scores(tuned.scores, &folder, "comparing: fine-tuned")?, settings.seed);
    if pair.is_better() {
        job.folder.adopt(&folder)?;
        result.kept = Mode::Finetune;
    }
    result.comparison = Some(pair);
    context.progress.note(&verdict(&result, pair, job.head_kind()));
    finish(job, result)
}

/// The settings of fine-tuning that fits into what is `left` of the time (seconds; without limit if absent), or why there
/// is none.
fn plan(job: &Job, head: &StateDict, left: Option<f64>) -> Result<Result<Settings, String>> {
    let settings = job.settings;
    let plan = Settings { mode: Mode::Finetune, keep: Keep::Last, time: None, ..settings.clone() };
    let Some(left) = left else { return Ok(Ok(plan)) };
    let budget = settings.time.map_or(0.0, |time| time.0);
    if left <= 0.0 {
        return Ok(Err(format!("No fine-tuning: the probe took the {} of `time`.", duration(budget))));
    }
    let measuring = Instant::now();
    let epoch = seconds_an_epoch(&Job { settings: &plan, ..*job }, head)?;
    let left = (left - measuring.elapsed().as_secs_f64()).max(0.0);
    let fits = (PLANNED * left / epoch) as usize;
    if fits < MIN_EPOCHS.min(settings.epochs) {
        let needed = budget - left + epoch * settings.epochs as f64 / PLANNED;
        return Ok(Err(format!(
            "No fine-tuning: an epoch takes about {}, and {} of `time` are left. For {} epochs give `time` {}.",
            duration(epoch),
            duration(left),
            settings.epochs,
            duration(needed.ceil())
        )));
    }
    let epochs = settings.epochs.min(fits);
    job.context
        .progress
        .note(&format!("An epoch of fine-tuning takes about {}: {epochs} epochs are planned.", duration(epoch)));
    Ok(Ok(Settings { epochs, ..plan }))
}

/// How long an epoch takes, validation included, measured on a few steps of a network of its own.
fn seconds_an_epoch(job: &Job, head: &StateDict) -> Result<f64> {
    let Job { settings, photos, context, .. } = *job;
    let (grafted, state) = job.graft(Some(head))?;
    let mut learner = supervised::learner(job, &grafted, state, 0)?;
    let mut train = Inputs::training(settings, photos, learner.session.trunk(), context)?;
    let num_steps = train.num_steps();
    let mut timing = Timing { began: Instant::now(), batches: 0, num_steps, job };
    learner.epoch(&mut train, 0, 0, &mut timing, context)?;
    context.progress.end();
    let timed = (timing.batches.max(2) - 1) as f64;
    let training = timing.began.elapsed().as_secs_f64() / timed * num_steps as f64;
    let mut val = Inputs::validation(settings, photos, learner.session.trunk(), context)?;
    let began = Instant::now();
    validate(&mut val, &mut learner, job.head_kind(), job.outputs(), context)?;
    Ok(training + began.elapsed().as_secs_f64())
}

/// Steps whose time is measured.
struct Timing<'a> {
    /// When the steps began that count.
    began: Instant,
    batches: usize,
    num_steps: usize,
    job: &'a Job<'a>,
}

impl Pace for Timing<'_> {
    fn begin(&mut self) {
        self.job.context.progress.begin("timing a few steps", "steps", (1 + TIMED_STEPS) as u64);
        self.began = Instant::now();
    }

    /// Measures time; the network is discarded.
    fn rate(&mut self, _: usize) -> f64 {
        0.0
    }

    fn after(&mut self, _: &mut Learner, _: &Taken) -> Result<ControlFlow<()>> {
        self.batches += 1;
        self.job.context.progress.advance(self.batches as u64, "");
        if self.batches == 1 && self.num_steps > 1 {
            self.began = Instant::now();
        }
        Ok(if self.batches > TIMED_STEPS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

/// Writes the outcome.
fn finish(job: &Job, result: AutoResult) -> Result<Outcome> {
    job.folder.write_auto(&result)?;
    let kept = result.stages.iter().find(|stage| stage.mode == result.kept).expect("what is kept was run");
    Ok(Outcome::Trained(Trained {
        folder: job.folder.clone(),
        best_val_score: kept.val_score,
        kind: job.head_kind(),
        best_epoch: kept.epochs,
        chosen: false,
        val_n: job.photos.dataset.val.len(),
        seconds: result.stages.iter().map(|stage| stage.seconds).sum(),
        auto: Some(result),
        scores: None,
    }))
}

/// The comparison in words.
fn verdict(result: &AutoResult, pair: Pair, kind: HeadKind) -> String {
    let [probe, fine_tuned] = [0, 1].map(|stage| result.stages[stage].val_score);
    let Pair { gained, lost, p_value, .. } = pair;
    let says = match result.kept {
        Mode::Finetune => "more than chance, so the fine-tuned network is kept",
        _ if pair.difference > 0.0 => "which may be chance, so the probe is kept",
        _ => "so the probe is kept",
    };
    format!(
        "{} on the validation photos: probe {probe:.4}, fine-tuned {fine_tuned:.4}; the fine-tuned network is the better one \
         on {gained} of the photos, the probe on {lost} (p = {p_value:.2}), {says}",
        score_name(kind)
    )
}

/// Seconds as `--time` takes them: `90s`, `12m`, `1h30m`.
fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds.div_ceil(60)),
        _ => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pair_is_better_only_beyond_chance() {
        let scores =
            |wrong: std::ops::Range<usize>| (0..100).map(|i| f64::from(!wrong.contains(&i))).collect::<Vec<_>>();
        let few = Pair::new(&scores(0..5), &scores(3..6), 0);
        assert_eq!((few.gained, few.lost, few.is_better()), (3, 1, false));
        let many = Pair::new(&scores(0..20), &scores(18..20), 0);
        assert_eq!((many.gained, many.lost, many.is_better()), (18, 0, true));
        assert!(many.p_value < 1e-5 && (many.difference - 0.18).abs() < 1e-12, "{many:?}");
        let worse = Pair::new(&scores(0..2), &scores(0..20), 0);
        assert!(!worse.is_better() && worse.p_value < SIGNIFICANT);
    }

    #[test]
    fn durations_read_as_they_are_given() {
        assert_eq!(
            [30.4, 119.0, 121.0, 600.0, 5400.0, 9000.0].map(duration),
            ["30s", "119s", "3m", "10m", "90m", "2h30m"]
        );
    }
}

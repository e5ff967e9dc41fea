//! A run that decides itself how far to go: a probe, then fine-tuning where the time allows, and the better of the two.
//!
//! The rungs are ordinary runs in folders of their own within the run's. The validation photos decide between them, so
//! they must not have decided anything before: fine-tuning keeps the weights of its last epoch, not of its best.

use std::time::Instant;

use regraft_graph::StateDict;
use regraft_learn::linear::HeadKind;
use regraft_learn::metrics::paired_p_value;
use serde::{Deserialize, Serialize};

use crate::evaluation::evaluate::measure;
use crate::network::divided;
use crate::photos::prepare::Photos;
use crate::run::checkpoint::{Loaded, require_same};
use crate::trainer::epochs;
use crate::trainer::gradients::Accumulation;
use crate::trainer::inputs::Inputs;
use crate::trainer::loss::Loss;
use crate::trainer::probe;
use crate::trainer::probe::score_name;
use crate::trainer::validation::validate;
use crate::{
    Config, Context, Error, Finished, Keep, Mode, Model, Outcome, Pretrained, Provenance, Result, RunFolder,
    SIGNIFICANT,
};

/// Share of the time that is planned for: machines are slower at times than when they were measured.
const PLANNED: f64 = 0.9;

/// Fewer epochs than this are not worth the time.
const MIN_EPOCHS: usize = 3;

/// Training steps that are measured, after one that warms up.
const MEASURED_STEPS: usize = 4;

/// What the ladder came to, as `ladder.json` keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ladder {
    /// The road whose model is kept.
    pub kept: Mode,
    /// All that were taken.
    pub rungs: Vec<Rung>,
    /// How the last compares with the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Pair>,
    /// Why there was no fine-tuning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// A road that was taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rung {
    /// The road.
    pub mode: Mode,
    /// Its epochs.
    pub epochs: usize,
    /// Score on the validation photos, as in the run's results.
    pub val_score: f64,
    /// Time spent on it.
    pub seconds: f64,
}

impl Rung {
    fn of(mode: Mode, run: &Finished) -> Self {
        Self { mode, epochs: run.best_epoch, val_score: run.best_val_score, seconds: run.seconds }
    }
}

impl Ladder {
    /// Whether nothing is left to try.
    pub(crate) fn is_complete(&self) -> bool {
        self.comparison.is_some() || self.skipped.is_some()
    }
}

/// Two models on the same photos.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Photos that the fine-tuned network answers better: that only it gets right or, of labels and numbers, that it comes
    /// closer to.
    pub gained: usize,
    /// Photos that the probe answers better.
    pub lost: usize,
    /// Mean over the photos of the difference: of right answers, of labels that are right, of negative squared errors.
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

/// Climbs, or goes on climbing after an interruption. `started` is when the run's time began.
///
/// # Errors
/// Any of [`Error`]; the model of the first rung stays.
pub(crate) fn climb(
    config: &Config,
    backbone: &Pretrained,
    photos: &Photos,
    folder: &RunFolder,
    started: Instant,
    context: &Context,
) -> Result<Outcome> {
    let below = folder.rung(Mode::Probe)?;
    let ladder = match folder.read_ladder()? {
        Some(ladder) => {
            let Provenance { data_sha256, weights_sha256, .. } = Model::open(&below.best_path())?.provenance;
            require_same(&data_sha256, weights_sha256.as_deref(), config, photos, backbone)?;
            ladder
        }
        None => {
            let plan = Config { mode: Mode::Probe, time: None, ..config.clone() };
            below.start(&plan, &photos.dataset.classes)?;
            let probed = probe::run(&plan, backbone, photos, &below, context)?;
            folder.adopt(&below)?;
            let rungs = vec![Rung::of(Mode::Probe, &probed)];
            Ladder { kept: Mode::Probe, rungs, comparison: None, skipped: None }
        }
    };
    // From here on there is a model, whatever happens.
    folder.write_ladder(&ladder)?;
    higher(config, backbone, photos, folder, ladder, started, context)
}

/// The rung above the probe, and the verdict.
fn higher(
    config: &Config,
    backbone: &Pretrained,
    photos: &Photos,
    folder: &RunFolder,
    mut ladder: Ladder,
    started: Instant,
    context: &Context,
) -> Result<Outcome> {
    let (below, above) = (folder.rung(Mode::Probe)?, folder.rung(Mode::Finetune)?);
    let head = head_of(&below)?;
    let (plan, checkpoint) = if above.checkpoint_path().exists() {
        let plan = RunFolder::open(above.path())?.1;
        let checkpoint = Loaded::read(&above.checkpoint_path())?;
        checkpoint.require_same(&plan, photos, backbone)?;
        (plan, Some(checkpoint))
    } else {
        let left = config.time.map(|time| time - started.elapsed().as_secs_f64());
        match plan(config, backbone, &head, photos, left, context)? {
            Ok(plan) => (plan, None),
            Err(reason) => {
                context.progress.note(&reason);
                ladder.skipped = Some(reason);
                return finish(config, folder, ladder, photos);
            }
        }
    };
    if checkpoint.is_none() {
        above.start(&plan, &photos.dataset.classes)?;
    }
    match epochs::run(&plan, backbone, Some(&head), photos, &above, checkpoint, context) {
        Ok(Outcome::Finished(tuned)) => ladder.rungs.push(Rung::of(Mode::Finetune, &tuned)),
        Ok(Outcome::Interrupted { epoch, step, .. }) => {
            return Ok(Outcome::Interrupted { folder: folder.clone(), epoch, step });
        }
        Err(diverged @ Error::Diverged { .. }) => {
            let reason = format!("fine-tuning is given up, and the probe kept: {diverged}");
            context.progress.warn(&reason);
            ladder.skipped = Some(reason);
            return finish(config, folder, ladder, photos);
        }
        Err(error) => return Err(error),
    }
    let scores = |folder: &RunFolder, what: &str| -> Result<Vec<f64>> {
        let model = Model::open(&folder.best_path())?;
        let mut session = model.session(context.engine, &folder.best_path())?;
        let Photos { dataset, store, .. } = photos;
        let tally = measure(what, &model, session.as_mut(), &dataset.val, store, None, context)?;
        Ok(tally.per_sample().to_vec())
    };
    let (probe, fine_tuned) = (scores(&below, "comparing: the probe")?, scores(&above, "comparing: fine-tuned")?);
    let pair = Pair::new(&probe, &fine_tuned, config.seed);
    if pair.is_better() {
        folder.adopt(&above)?;
        ladder.kept = Mode::Finetune;
    }
    ladder.comparison = Some(pair);
    context.progress.note(&verdict(&ladder, pair, photos.head_kind(config)));
    finish(config, folder, ladder, photos)
}

/// The tensors of a probe's layer: the same as in the network that is then fine-tuned.
fn head_of(probe: &RunFolder) -> Result<StateDict> {
    let Model { graph, mut state, .. } = Model::open(&probe.best_path())?;
    let layer = &graph.nodes()[graph.head()?].name;
    state.retain(|tensor, _| tensor.strip_prefix(layer.as_str()).is_some_and(|rest| rest.starts_with('.')));
    Ok(state)
}

/// The settings of fine-tuning that fits into what is `left` of the time (seconds; without limit if absent), or why there
/// is none.
fn plan(
    config: &Config,
    backbone: &Pretrained,
    head: &StateDict,
    photos: &Photos,
    left: Option<f64>,
    context: &Context,
) -> Result<Result<Config, String>> {
    let plan = Config { mode: Mode::Finetune, keep: Keep::Last, time: None, ..config.clone() };
    let Some(left) = left else { return Ok(Ok(plan)) };
    let budget = config.time.unwrap_or_default();
    if left <= 0.0 {
        return Ok(Err(format!("no fine-tuning: the probe took the {} of --time", duration(budget))));
    }
    let measuring = Instant::now();
    let epoch = seconds_an_epoch(&plan, backbone, head, photos, context)?;
    let left = left - measuring.elapsed().as_secs_f64();
    let fits = (PLANNED * left.max(0.0) / epoch) as usize;
    let about = format!("an epoch of fine-tuning takes about {}", duration(epoch));
    if fits < MIN_EPOCHS.min(config.epochs) {
        let needed = budget - left + epoch * config.epochs as f64 / PLANNED;
        return Ok(Err(format!(
            "no fine-tuning: {about}, and {} of --time are left; for {} epochs give --time {}",
            duration(left.max(0.0)),
            config.epochs,
            duration(needed.ceil())
        )));
    }
    let epochs = config.epochs.min(fits);
    context.progress.note(&format!("{about}: {epochs} epochs are planned"));
    Ok(Ok(Config { epochs, ..plan }))
}

/// How long an epoch takes, validation included, measured on a few steps of a network of its own.
fn seconds_an_epoch(
    config: &Config,
    backbone: &Pretrained,
    head: &StateDict,
    photos: &Photos,
    context: &Context,
) -> Result<f64> {
    let mut network = divided::first(config, backbone, Some(head), photos, context)?;
    let mut train = Inputs::training(config, photos, &mut network, context)?;
    let loss = Loss::new(config, &photos.dataset);
    let (num_steps, mut accumulation) =
        (train.num_steps(), Accumulation::new(config.accumulate).clipping(config.clip_grad_norm));
    let (mut began, mut measured) = (Instant::now(), 0);
    let mut steps = train.epoch(0, 0, &mut network, context)?;
    context.progress.begin("measuring a few steps", "steps", (1 + MEASURED_STEPS) as u64);
    while let Some(step) = steps.next(&mut network)? {
        // The rate is nothing: what is measured is time.
        if accumulation.take(network.top.as_mut(), &step, 0, loss.targets(&step), false)?.1 {
            network.top.update(0.0);
        }
        measured += 1;
        context.progress.advance(measured, "");
        context.check_cancelled()?;
        if measured == 1 && num_steps > 1 {
            began = Instant::now();
        }
        if measured as usize > MEASURED_STEPS {
            break;
        }
    }
    context.progress.end();
    let timed = (measured.max(2) - 1) as f64;
    let training = began.elapsed().as_secs_f64() / timed * num_steps as f64;
    let mut val = Inputs::validation(config, photos, &mut network, context)?;
    let began = Instant::now();
    validate(&mut val, &mut network, photos.head_kind(config), photos.dataset.classes.len(), context)?;
    Ok(training + began.elapsed().as_secs_f64())
}

/// Writes down what it came to.
fn finish(config: &Config, folder: &RunFolder, ladder: Ladder, photos: &Photos) -> Result<Outcome> {
    folder.write_ladder(&ladder)?;
    let kept = ladder.rungs.iter().find(|rung| rung.mode == ladder.kept).expect("what is kept was run");
    Ok(Outcome::Finished(Finished {
        folder: folder.clone(),
        best_val_score: kept.val_score,
        kind: photos.head_kind(config),
        best_epoch: kept.epochs,
        chosen: false,
        val_n: photos.dataset.val.len(),
        seconds: ladder.rungs.iter().map(|rung| rung.seconds).sum(),
        ladder: Some(ladder),
    }))
}

/// The comparison in words.
fn verdict(ladder: &Ladder, pair: Pair, kind: HeadKind) -> String {
    let [probe, fine_tuned] = [0, 1].map(|rung| ladder.rungs[rung].val_score);
    let Pair { gained, lost, p_value, .. } = pair;
    let says = match ladder.kept {
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
    fn only_what_is_more_than_chance_replaces_the_probe() {
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

//! A run that decides itself how far to go: a probe, then fine-tuning where the time allows, and the better of the two.
//!
//! The rungs are ordinary runs in folders of their own within the run's. The validation photos decide between them, so
//! they must not have decided anything before: fine-tuning keeps the weights of its last epoch, not of its best.

use std::time::Instant;

use regraft_graph::StateDict;
use regraft_learn::metrics::mcnemar;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Loaded;
use crate::evaluate::correct;
use crate::gradients::Accumulation;
use crate::inputs::Inputs;
use crate::loss::Loss;
use crate::prepare::Photos;
use crate::validation::validate;
use crate::{
    Backbone, Config, Context, Error, Finished, Keep, Mode, Model, Outcome, Result, RunFolder, SIGNIFICANT, epochs,
    network, probe,
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
    /// Accuracy on the validation photos, 0 to 1.
    pub val_acc: f64,
    /// Time spent on it.
    pub seconds: f64,
}

impl Rung {
    fn of(mode: Mode, run: &Finished) -> Self {
        Self { mode, epochs: run.best_epoch, val_acc: run.best_val_acc, seconds: run.seconds }
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
    /// Photos that only the fine-tuned network gets right.
    pub gained: usize,
    /// Photos that only the probe gets right.
    pub lost: usize,
    /// Probability of a difference as large or larger if they are equally good (McNemar's exact test).
    pub p_value: f64,
}

impl Pair {
    fn new(probe: &[bool], fine_tuned: &[bool]) -> Self {
        let only = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|&(&a, &b)| a && !b).count();
        let (gained, lost) = (only(fine_tuned, probe), only(probe, fine_tuned));
        Self { gained, lost, p_value: mcnemar(gained, lost) }
    }

    /// Whether the fine-tuned network is better by more than chance.
    fn is_better(&self) -> bool {
        self.gained > self.lost && self.p_value < SIGNIFICANT
    }
}

/// Climbs, or goes on climbing after an interruption. `started` is when the run's time began.
///
/// # Errors
/// Any of [`Error`]; the model of the first rung stays.
pub(crate) fn climb(
    config: &Config,
    backbone: &Backbone,
    photos: &Photos,
    folder: &RunFolder,
    started: Instant,
    context: &Context,
) -> Result<Outcome> {
    let (below, above) = (folder.rung(Mode::Probe)?, folder.rung(Mode::Finetune)?);
    let mut ladder = match folder.read_ladder()? {
        Some(ladder) => ladder,
        None => {
            let plan = Config { mode: Mode::Probe, time: None, ..config.clone() };
            below.start(&plan, &photos.dataset.classes)?;
            let probed = match probe::run(&plan, backbone, photos, &below, context)? {
                Outcome::Finished(probed) => probed,
                interrupted @ Outcome::Interrupted { .. } => return Ok(interrupted),
            };
            folder.adopt(&below)?;
            let rungs = vec![Rung::of(Mode::Probe, &probed)];
            Ladder { kept: Mode::Probe, rungs, comparison: None, skipped: None }
        }
    };
    // From here on there is a model, whatever happens.
    folder.write_ladder(&ladder)?;
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
                context.reporter.note(&reason);
                ladder.skipped = Some(reason);
                return finish(folder, ladder, photos);
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
            context.reporter.warn(&reason);
            ladder.skipped = Some(reason);
            return finish(folder, ladder, photos);
        }
        Err(error) => return Err(error),
    }
    let right = |folder: &RunFolder, what: &str| -> Result<Vec<bool>> {
        let model = Model::open(&folder.best_path())?;
        let mut session = model.session(context.engine, &folder.best_path())?;
        correct(what, &model, session.as_mut(), &photos.dataset.val, &photos.store, context)
    };
    let pair = Pair::new(&right(&below, "comparing: the probe")?, &right(&above, "comparing: fine-tuned")?);
    if pair.is_better() {
        folder.adopt(&above)?;
        ladder.kept = Mode::Finetune;
    }
    ladder.comparison = Some(pair);
    context.reporter.note(&verdict(&ladder, pair));
    finish(folder, ladder, photos)
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
    backbone: &Backbone,
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
    context.reporter.note(&format!("{about}: {epochs} epochs are planned"));
    Ok(Ok(Config { epochs, ..plan }))
}

/// How long an epoch takes, validation included, measured on a few steps of a network of its own.
fn seconds_an_epoch(
    config: &Config,
    backbone: &Backbone,
    head: &StateDict,
    photos: &Photos,
    context: &Context,
) -> Result<f64> {
    let mut network = network::first(config, backbone, Some(head), photos, context)?;
    let mut train = Inputs::training(config, photos, &mut network, context)?;
    let loss = Loss::new(config, &photos.dataset);
    let (num_steps, mut accumulation) =
        (train.num_steps(), Accumulation::new(config.accumulate).clipping(config.clip_grad_norm));
    let (mut began, mut measured) = (Instant::now(), 0);
    let mut steps = train.epoch(0, 0, &mut network, context)?;
    context.reporter.begin("measuring a few steps", "steps", (1 + MEASURED_STEPS) as u64);
    while let Some(step) = steps.next(&mut network)? {
        // The rate is nothing: what is measured is time.
        if accumulation.take(network.top.as_mut(), &step, 0, loss.targets(&step), false)?.1 {
            network.top.update(0.0);
        }
        measured += 1;
        context.reporter.advance(measured, "");
        context.go_on()?;
        if measured == 1 && num_steps > 1 {
            began = Instant::now();
        }
        if measured as usize > MEASURED_STEPS {
            break;
        }
    }
    context.reporter.end();
    let timed = (measured.max(2) - 1) as f64;
    let training = began.elapsed().as_secs_f64() / timed * num_steps as f64;
    let mut val = Inputs::validation(config, photos, &mut network, context)?;
    let began = Instant::now();
    validate(&mut val, &mut network, photos.dataset.classes.len(), context)?;
    Ok(training + began.elapsed().as_secs_f64())
}

/// Writes down what it came to.
fn finish(folder: &RunFolder, ladder: Ladder, photos: &Photos) -> Result<Outcome> {
    folder.write_ladder(&ladder)?;
    let kept = ladder.rungs.iter().find(|rung| rung.mode == ladder.kept).expect("what is kept was run");
    Ok(Outcome::Finished(Finished {
        folder: folder.clone(),
        best_val_acc: kept.val_acc,
        best_epoch: kept.epochs,
        chosen: false,
        val_n: photos.dataset.val.len(),
        seconds: ladder.rungs.iter().map(|rung| rung.seconds).sum(),
        ladder: Some(ladder),
    }))
}

/// The comparison in words.
fn verdict(ladder: &Ladder, Pair { gained, lost, p_value }: Pair) -> String {
    let [probe, fine_tuned] = [0, 1].map(|rung| ladder.rungs[rung].val_acc);
    let says = match ladder.kept {
        Mode::Finetune => "more than chance, so the fine-tuned network is kept",
        _ if gained > lost => "which may be chance, so the probe is kept",
        _ => "so the probe is kept",
    };
    format!(
        "probe {probe:.4}, fine-tuned {fine_tuned:.4} on the validation photos: {gained} photo(s) that only the fine-tuned \
         network gets right, {lost} that only the probe does (p = {p_value:.2}), {says}"
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
        let answers = |wrong: std::ops::Range<usize>| (0..100).map(|i| !wrong.contains(&i)).collect::<Vec<_>>();
        let few = Pair::new(&answers(0..5), &answers(3..6));
        assert_eq!((few.gained, few.lost, few.is_better()), (3, 1, false));
        let many = Pair::new(&answers(0..20), &answers(18..20));
        assert_eq!((many.gained, many.lost, many.is_better()), (18, 0, true));
        assert!(many.p_value < 1e-5, "{many:?}");
        let worse = Pair::new(&answers(0..2), &answers(0..20));
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

//! `regraft train` and `regraft resume`.

use std::io::{Write, stdout};

use anyhow::Result;
use regraft::{Cancel, Context, Embedded, FoundRate, Outcome, Progress, RunFolder};
use regraft_engine::Engine;
use regraft_engine_cpu::CpuEngine;
use regraft_hub::Registry;
use regraft_learn::linear::HeadKind;
use regraft_learn::metrics::wilson;
use serde_json::json;

use crate::args::{Common, Resume, Train};
use crate::terminal::{Terminal, metric_name};
use crate::values::AUTO;
use crate::weights::{self, Downloads, Start};
use crate::{End, setup};

/// Stronger backbones than the one inside the program, with how many times its time they take, forward on the same CPU.
const STRONGER: [(&str, f64); 3] = [("mobilenet_v2", 3.1), ("resnet18", 7.7), ("resnet50", 24.0)];

/// Says which backbone `auto` is, and what else there is.
fn tell_of_auto(registry: &Registry, terminal: &Terminal) {
    let stronger = STRONGER.iter().map(|(name, times)| {
        let mib = registry
            .find(name, regraft_hub::DEFAULT)
            .map_or(String::new(), |it| format!("{:.0} MiB to download, ", it.mib()));
        format!("{name} ({mib}about {times:.0} times the time)")
    });
    let (name, stronger) = (Embedded::ROOTSTOCK.backbone, stronger.collect::<Vec<_>>().join(", "));
    terminal.note(&format!("backbone: {name}, which is inside this program; stronger with --backbone: {stronger}"));
}

pub fn train(common: &Common, mut args: Box<Train>) -> Result<End> {
    let tools = Tools::new(common)?;
    tools.terminal.note(&tools.engine.describe());
    args.idle.iter().for_each(|text| tools.terminal.warn(text));
    let (hub, registry) = weights::hub(args.offline)?;
    if args.backbone == AUTO {
        tell_of_auto(&registry, &tools.terminal);
        args.backbone = Embedded::ROOTSTOCK.backbone.into();
    }
    let start = Start::find(&args.weights, &args.backbone, &registry, &tools.terminal)?;
    let mut config = args.config(&start.preprocessing);
    // What is wrong is said before anything is downloaded.
    let folder = args.output_dir.as_deref();
    regraft::check(&config, folder.filter(|_| !args.training.find_lr), args.exist_ok, &tools.context())?;
    if args.training.find_lr {
        regraft::check_find_lr(&config)?;
    }
    (config.weights, config.published) = start.bring(&hub, &tools.downloads())?;
    if args.training.find_lr {
        return tell_rate(common, &regraft::find_lr(&config, folder, &tools.context())?);
    }
    let outcome = regraft::train(&config, args.output_dir.as_deref(), args.exist_ok, &tools.context())?;
    finish(common, outcome)
}

pub fn resume(common: &Common, args: &Resume) -> Result<End> {
    let tools = Tools::new(common)?;
    if regraft::is_distillation(&args.run) {
        return super::distill::finish(common, regraft::resume_distillation(&args.run, &tools.context())?);
    }
    let (_, config) = RunFolder::open(&args.run)?;
    let (hub, registry) = weights::hub(args.offline)?;
    weights::bring_back(&config, &registry, hub, &tools.downloads())?;
    finish(common, regraft::resume(&args.run, &tools.context())?)
}

/// What a run works with, and who owns it.
pub(super) struct Tools {
    threads: usize,
    engine: CpuEngine,
    pub terminal: Terminal,
    cancel: Cancel,
}

impl Tools {
    pub fn new(common: &Common) -> Result<Self> {
        let threads = setup::threads(common);
        Ok(Self {
            threads,
            engine: setup::engine(threads)?,
            terminal: Terminal::new(common.json),
            cancel: setup::cancel_on_interrupt()?,
        })
    }

    pub fn context(&self) -> Context<'_> {
        Context { engine: &self.engine, progress: &self.terminal, cancel: &self.cancel, threads: self.threads }
    }

    pub fn downloads(&self) -> Downloads<'_> {
        Downloads { terminal: &self.terminal, cancel: &self.cancel }
    }
}

fn tell_rate(common: &Common, found: &FoundRate) -> Result<End> {
    let mut out = stdout();
    if common.json {
        let line = json!({"lr": found.lr, "steps": found.points.len(), "csv": found.csv, "plot": found.plot});
        writeln!(out, "{line}")?;
        return Ok(End::Done);
    }
    match found.lr {
        Some(lr) => writeln!(out, "Suggested rate: --lr {lr:.1e}")?,
        None => writeln!(out, "No rate lets the loss fall; look at the curve, the weights and the labels")?,
    }
    writeln!(out, "Curve: {}, {}", found.plot.display(), found.csv.display())?;
    Ok(End::Done)
}

fn finish(common: &Common, outcome: Outcome) -> Result<End> {
    let mut out = stdout();
    match outcome {
        Outcome::Finished(run) => {
            let model = run.folder.best_path();
            let column = run.kind.metric().val;
            if common.json {
                let mut line = json!({
                    (format!("best_val_{column}")): run.best_val_score,
                    "seconds": run.seconds,
                    "model": model,
                    "best_epoch": run.best_epoch,
                });
                if let Some(ladder) = &run.ladder {
                    line["ladder"] = serde_json::to_value(ladder)?;
                }
                writeln!(out, "{line}")?;
                return Ok(End::Done);
            }
            let (minutes, seconds) = ((run.seconds / 60.0) as u64, run.seconds % 60.0);
            writeln!(out, "Training complete in {minutes}m {seconds:.0}s")?;
            let (score, n) = (run.best_val_score, run.val_n);
            match run.kind {
                HeadKind::Softmax | HeadKind::Ovr => {
                    let correct = (score * n as f64).round() as u64;
                    let (low, high) = wilson(correct, n as u64);
                    let interval = format!("95% interval {low:.4} to {high:.4}");
                    writeln!(out, "Best val Acc: {score:.4} ({correct} of {n} photos; {interval})")?;
                }
                HeadKind::Labels | HeadKind::Value => {
                    writeln!(out, "Best val {}: {score:.4} ({n} photos)", metric_name(column))?;
                    eprintln!("with its uncertainty: regraft eval {} MANIFEST.csv", model.display());
                }
            }
            if run.chosen {
                eprintln!("the best of several epochs flatters a little: photos kept apart would say how much");
            }
            writeln!(out, "Model: {}", model.display())?;
            eprintln!("next: regraft predict {} PHOTO...", model.display());
            Ok(End::Done)
        }
        Outcome::Interrupted { folder, epoch, step } => {
            eprintln!("stopped after {epoch} epoch(s) and {step} step(s); nothing is lost");
            if folder.best_path().exists() {
                eprintln!("the best model so far: {}", folder.best_path().display());
            }
            eprintln!("go on with: regraft resume {}", folder.path().display());
            Ok(End::Interrupted)
        }
    }
}

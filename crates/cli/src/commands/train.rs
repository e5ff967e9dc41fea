//! `regraft train` and `regraft resume`.

use std::io::{Write, stdout};

use anyhow::Result;
use regraft::{Backbone, Embedded, FoundRate, FoundWeights, Hub, Interrupted, Outcome, PreparedRun, Progress, Trained};
use regraft_learn::linear::HeadKind;
use regraft_learn::metrics::wilson;
use serde_json::json;

use crate::args::{Common, Resume, Train};
use crate::terminal::{Terminal, metric_name, percent, quoted};
use crate::tools::Tools;
use crate::values::AUTO;
use crate::{End, commands};

/// Stronger backbones than the embedded one, with how many times its time they take, forward on the same CPU.
const STRONGER: [(&str, f64); 3] = [("mobilenet_v2", 3.1), ("resnet18", 7.7), ("resnet50", 24.0)];

/// Says which backbone `auto` is, and what else there is.
fn report_auto_backbone(hub: &Hub, terminal: &Terminal) {
    let stronger = STRONGER.iter().map(|(name, times)| {
        let mib = hub
            .registry
            .find(name, regraft_hub::DEFAULT)
            .map_or(String::new(), |it| format!("{:.0} MiB to download, ", it.mib()));
        format!("{name} ({mib}about {times:.0} times the time)")
    });
    let (name, stronger) = (Embedded::ROOTSTOCK.backbone, stronger.collect::<Vec<_>>().join(", "));
    terminal.note(&format!("backbone: {name}, which is inside this program; stronger with --backbone: {stronger}"));
}

pub fn train(common: &Common, mut args: Train) -> Result<End> {
    let tools = Tools::new(common)?;
    let terminal = &tools.terminal;
    terminal.note(&tools.engine().device().to_string());
    let hub = tools.hub(args.offline)?;
    if args.backbone == AUTO {
        report_auto_backbone(&hub, terminal);
        args.backbone = Embedded::ROOTSTOCK.backbone.into();
    }
    let backbone = Backbone::from(args.backbone.as_str());
    let found = FoundWeights::find(&args.weights, &backbone, &hub, terminal)?;
    let settings = args.settings(&found.preprocessing)?;
    args.idle(&settings).iter().for_each(|text| terminal.warn(text));
    let (context, folder, find_lr) = (tools.context(), args.output_dir.as_deref(), args.find_lr);
    // What is wrong is said before anything is downloaded.
    let prepared = PreparedRun::check(settings, folder, args.exist_ok || find_lr, &context)?;
    if find_lr {
        prepared.require_steps()?;
    }
    let (weights, published) = found.load(&hub, &context)?;
    let prepared = prepared.with_weights(weights, published);
    match find_lr {
        true => write_rate(common, &prepared.find_lr(&context)?),
        false => finish(common, prepared.train(&context)?),
    }
}

pub fn resume(common: &Common, args: &Resume) -> Result<End> {
    let tools = Tools::new(common)?;
    let hub = tools.hub(args.offline)?;
    finish(common, regraft::resume(&args.run, &hub, &tools.context())?)
}

fn write_rate(common: &Common, found: &FoundRate) -> Result<End> {
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

/// Reports how a run ended.
pub(super) fn finish(common: &Common, outcome: Outcome) -> Result<End> {
    match outcome {
        Outcome::Trained(run) => write_trained(common, &run),
        Outcome::Distilled(student) => commands::distill::write_student(common, &student),
        Outcome::Interrupted(run) => Ok(report_interruption(&run)),
    }
}

fn write_trained(common: &Common, run: &Trained) -> Result<End> {
    let mut out = stdout();
    let model = run.model();
    let column = run.kind.metric().val;
    if common.json {
        let mut line = json!({
            (format!("best_val_{column}")): run.best_val_score,
            "seconds": run.seconds,
            "model": model,
            "best_epoch": run.best_epoch,
        });
        if let Some(auto) = &run.auto {
            line["auto"] = serde_json::to_value(auto)?;
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
            writeln!(
                out,
                "Saved model: {} correct on {n} validation photos (95% interval {} to {})",
                percent(score),
                percent(low),
                percent(high)
            )?;
        }
        HeadKind::Labels | HeadKind::Value => {
            writeln!(out, "Saved model: {} {score:.4} on {n} validation photos", metric_name(column))?;
            eprintln!("With its uncertainty: regraft eval {} MANIFEST.csv", quoted(&model));
        }
    }
    if run.chosen {
        eprintln!(
            "The best epoch was chosen on these photos, so this figure is slightly optimistic; test on photos kept aside."
        );
    }
    writeln!(out, "Model: {}", model.display())?;
    eprintln!("Next: regraft predict {} PHOTO...", quoted(&model));
    Ok(End::Done)
}

/// Says how an interrupted run goes on.
fn report_interruption(run: &Interrupted) -> End {
    let Interrupted { folder, epoch, step } = run;
    eprintln!("Interrupted after {epoch} epochs and {step} steps of the next; everything is saved.");
    if folder.best_path().exists() {
        eprintln!("Best model so far: {}", folder.best_path().display());
    }
    eprintln!("Continue with: regraft resume {}", quoted(folder.path()));
    End::Interrupted
}

//! `regraft train` and `regraft resume`.

use std::io::{Write, stdout};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use regraft_data::{Augmentation, AutoAugment, Mix, Preprocessing, RandomErasing};
use regraft_engine::{CpuEngine, Engine, UpdateRule};
use regraft_learn::metrics::wilson;
use regraft_learn::schedule::{Policy, Schedule, Warmup};
use regraft_transfer::{BatchNorm, Config, Context, FoundRate, Head, InitHead, Mode, Outcome, Reporter, RunFolder};
use serde_json::json;

use crate::args::{
    AutoAugmentArg, BatchNormArg, Common, InitHeadArg, ModeArg, OptimizerArg, Resume, SchedulerArg, Train,
};
use crate::terminal::Terminal;
use crate::weights::{self, Downloads, Start};
use crate::{End, setup};

pub fn train(common: &Common, args: Box<Train>) -> Result<End> {
    let tools = Tools::new(common)?;
    tools.terminal.note(&tools.engine.describe());
    args.idle.iter().for_each(|text| tools.terminal.warn(text));
    let (hub, registry) = weights::hub(args.offline)?;
    let start = Start::find(&args.weights, &args.backbone, &registry, &tools.terminal)?;
    let mut config = config(&args, &start.preprocessing);
    // What is wrong is said before anything is downloaded.
    let folder = args.output_dir.as_deref();
    regraft_transfer::check(&config, folder.filter(|_| !args.find_lr), args.exist_ok, &tools.context())?;
    start.enter(&mut config, &hub, &tools.downloads())?;
    if args.find_lr {
        return tell_rate(common, &regraft_transfer::find_lr(&config, folder, &tools.context())?);
    }
    let outcome = regraft_transfer::train(&config, args.output_dir.as_deref(), args.exist_ok, &tools.context())?;
    finish(common, outcome)
}

pub fn resume(common: &Common, args: &Resume) -> Result<End> {
    let tools = Tools::new(common)?;
    let (_, config) = RunFolder::open(&args.run)?;
    let (hub, registry) = weights::hub(args.offline)?;
    weights::bring_back(&config, &registry, hub, &tools.downloads())?;
    finish(common, regraft_transfer::resume(&args.run, &tools.context())?)
}

/// What a run works with, and who owns it.
pub(super) struct Tools {
    threads: usize,
    engine: CpuEngine,
    pub terminal: Terminal,
    interrupt: Arc<AtomicBool>,
}

impl Tools {
    pub fn new(common: &Common) -> Result<Self> {
        let threads = setup::threads(common);
        Ok(Self {
            threads,
            engine: setup::engine(threads)?,
            terminal: Terminal::new(common.json),
            interrupt: setup::interrupt_flag()?,
        })
    }

    pub fn context(&self) -> Context<'_> {
        Context { engine: &self.engine, reporter: &self.terminal, interrupt: &self.interrupt, threads: self.threads }
    }

    pub fn downloads(&self) -> Downloads<'_> {
        Downloads { terminal: &self.terminal, interrupt: &self.interrupt }
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
            if common.json {
                let line = json!({
                    "best_val_acc": run.best_val_acc,
                    "seconds": run.seconds,
                    "model": model,
                    "best_epoch": run.best_epoch,
                });
                writeln!(out, "{line}")?;
                return Ok(End::Done);
            }
            let (minutes, seconds) = ((run.seconds / 60.0) as u64, run.seconds % 60.0);
            writeln!(out, "Training complete in {minutes}m {seconds:.0}s")?;
            let correct = (run.best_val_acc * run.val_n as f64).round() as u64;
            let (low, high) = wilson(correct, run.val_n as u64);
            writeln!(
                out,
                "Best val Acc: {:.4} ({correct} of {} photos; 95% interval {low:.4} to {high:.4})",
                run.best_val_acc, run.val_n
            )?;
            if run.best_epoch > 1 {
                eprintln!("the best of several epochs flatters a little: photos kept apart would say how much");
            }
            writeln!(out, "Model: {}", model.display())?;
            eprintln!("next: regraft predict {} PHOTO...", model.display());
            Ok(End::Done)
        }
        Outcome::Interrupted { folder, epoch, step } => {
            eprintln!("stopped after {epoch} epoch(s) and {step} step(s); nothing is lost");
            eprintln!("go on with: regraft resume {}", folder.path().display());
            Ok(End::Interrupted)
        }
    }
}

/// The run's settings but for the weights; `usual` is how photos are prepared where no flag says otherwise.
fn config(args: &Train, usual: &Preprocessing) -> Config {
    let weight_decay = args.weight_decay;
    let optimizer = match args.optimizer {
        OptimizerArg::Sgd => UpdateRule::Sgd {
            momentum: args.momentum,
            weight_decay: weight_decay.unwrap_or(0.0),
            nesterov: args.nesterov,
        },
        OptimizerArg::Adamw => {
            UpdateRule::AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: weight_decay.unwrap_or(0.01) }
        }
    };
    let policy = match args.lr_scheduler {
        SchedulerArg::Steplr => Policy::StepLR { step_size: args.lr_step_size, gamma: args.lr_gamma },
        SchedulerArg::Cosineannealinglr => Policy::CosineAnnealingLR { eta_min: args.lr_min },
        SchedulerArg::Onecyclelr => {
            Policy::OneCycleLR { max_lr: args.lr, pct_start: 0.3, div_factor: 25.0, final_div_factor: 1e4 }
        }
        SchedulerArg::Constant => Policy::Constant,
    };
    let warmup = (args.lr_warmup_epochs > 0)
        .then_some(Warmup { total_iters: args.lr_warmup_epochs, start_factor: args.lr_warmup_decay });
    let crop = args.imgsz.unwrap_or(usual.crop);
    // In proportion, rounded down.
    let resize = args.val_resize_size.unwrap_or((crop * usual.resize / usual.crop).min(Preprocessing::MAX_SIDE));
    Config {
        val_fraction: args.val_fraction,
        strict: args.strict,
        mode: match args.mode {
            ModeArg::Probe => Mode::Probe,
            ModeArg::Frozen => Mode::Frozen,
            ModeArg::Finetune => Mode::Finetune,
        },
        head: args.head.clone().unwrap_or(if args.mode == ModeArg::Probe { Head::Softmax } else { Head::Linear }),
        cut: args.cut.clone(),
        head_dropout: args.head_dropout as f32,
        init_head: match args.init_head {
            InitHeadArg::Random => InitHead::Random,
            InitHeadArg::Probe => InitHead::Probe,
        },
        c: args.c,
        freeze_until: args.freeze_until.clone(),
        bn: args.bn.map(|bn| match bn {
            BatchNormArg::Frozen => BatchNorm::Frozen,
            BatchNormArg::Train => BatchNorm::Train,
        }),
        epochs: args.epochs,
        batch_size: args.batch_size,
        lr: args.lr,
        backbone_lr: args.backbone_lr,
        lr_layer_decay: args.lr_layer_decay,
        unfreeze_every: args.unfreeze_every,
        clip_grad_norm: args.clip_grad_norm,
        accumulate: args.accumulate,
        ema: args.ema,
        patience: args.patience,
        optimizer,
        schedule: Schedule { policy, warmup },
        label_smoothing: args.label_smoothing,
        class_weights: args.class_weights.clone(),
        preprocessing: Preprocessing {
            resize,
            crop,
            interpolation: args.interpolation.map_or(usual.interpolation, Into::into),
            mean: args.mean.unwrap_or(usual.mean),
            std: args.std.unwrap_or(usual.std),
            ..usual.clone()
        },
        augmentation: (!args.no_augment).then(|| Augmentation {
            hflip: args.hflip_prob,
            degrees: args.rotation,
            color_jitter: args.color_jitter,
            auto_augment: args.auto_augment.map(|policy| match policy {
                AutoAugmentArg::Ra => AutoAugment::Ra { num_ops: 2, magnitude: args.ra_magnitude.into() },
                AutoAugmentArg::TaWide => AutoAugment::TaWide,
            }),
            random_erasing: (args.random_erase > 0.0)
                .then(|| RandomErasing { p: args.random_erase, ..RandomErasing::default() }),
            mix: (args.mixup_alpha > 0.0 || args.cutmix_alpha > 0.0)
                .then_some(Mix { mixup_alpha: args.mixup_alpha, cutmix_alpha: args.cutmix_alpha }),
            ..Augmentation::default()
        }),
        seed: args.seed,
        views: args.views,
        precision: args.precision.into(),
        cache_bytes: args.cache_mib.map(|mib| mib.saturating_mul(1 << 20)),
        ..Config::tutorial(args.data.clone(), args.backbone.clone())
    }
}

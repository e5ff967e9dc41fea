//! `regraft bench`: images per second of a network with random weights on random data.

use std::io::{Write, stdout};
use std::time::Instant;

use anyhow::Result;
use regraft_engine::{Batch, BatchNormMode, Engine, SessionOptions, Targets, UpdateRule};
use regraft_graph::{Trainable, init, zoo};
use regraft_kernels::simd;
use serde_json::json;

use crate::args::{Bench, Common, Precision, What};
use crate::{End, setup};

/// Runs before the timed ones: the first allocates, the second finds its memory.
const WARM_UP: usize = 2;

pub fn run(common: &Common, args: &Bench) -> Result<End> {
    let threads = setup::threads(common);
    let engine = setup::engine(threads)?;
    let graph = zoo::build(&args.backbone, 1000)?;
    let n = args.batch as usize;
    let options = SessionOptions {
        trainable: if args.what == What::Train { Trainable::all(&graph) } else { Trainable::none(&graph) },
        batch_norm: BatchNormMode::Train,
        update: UpdateRule::Sgd { momentum: 0.9, weight_decay: 0.0, nesterov: false },
        seed: 0,
    };
    let mut session = engine.compile(&graph, &init::random(&graph, 0), options)?;
    // Any values do: the kernels' time does not depend on them.
    let inputs: Vec<f32> = (0..n * graph.input_shape().len()).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect();
    let labels: Vec<usize> = (0..n).map(|i| i * 37 % 1000).collect();
    let keys: Vec<u64> = (0..n as u64).collect();
    let mut rates = Vec::new();
    for run in 0..WARM_UP + args.runs as usize {
        let started = Instant::now();
        match args.what {
            What::Forward => drop(session.infer(&inputs)?),
            What::Train => {
                let targets = Targets { labels: &labels, label_smoothing: 0.0, class_weights: None };
                session.gradients(Batch { inputs: &inputs, keys: &keys }, targets)?;
                session.update(1e-3);
            }
        }
        if run >= WARM_UP {
            rates.push(n as f64 / started.elapsed().as_secs_f64());
        }
    }
    rates.sort_by(f64::total_cmp);
    let median = (rates[(rates.len() - 1) / 2] + rates[rates.len() / 2]) / 2.0;
    let what = if args.what == What::Train { "train" } else { "forward" };
    let Precision::F32 = args.precision;
    let peak = peak_rss_bytes();
    if common.json {
        let line = json!({
            "backbone": args.backbone,
            "batch": n,
            "what": what,
            "precision": "f32",
            "threads": threads,
            "img_per_s": median,
            "runs": rates,
            "level": simd::Level::current().name(),
            "peak_rss_bytes": peak,
        });
        writeln!(stdout(), "{line}")?;
    } else {
        let mib = peak.map_or_else(|| "unknown".into(), |bytes| format!("{} MiB", bytes >> 20));
        writeln!(
            stdout(),
            "{} {what}, batch {n}, f32, {threads} thread(s), {}: {median:.2} img/s (median of {}; {:.2} to {:.2}), peak memory {mib}",
            args.backbone,
            simd::Level::current().name(),
            rates.len(),
            rates[0],
            rates[rates.len() - 1],
        )?;
    }
    Ok(End::Done)
}

/// The most memory this process has held so far, where the system tells (Linux).
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

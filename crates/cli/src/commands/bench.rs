//! `regraft bench`: images per second of a network with random weights on random data.

use std::io::{Write, stdout};
use std::time::Instant;

use anyhow::Result;
use regraft::{Backbone, Choice};
use regraft_engine::{
    Batch, BatchNormMode, Labels, LayerTime, Outputs, SessionOptions, StepOptions, Targets, UpdateRule, Want,
};
use regraft_graph::{Trainable, init};
use regraft_kernels::{peak, simd::Level};
use serde_json::json;

use crate::args::{Bench, Common, What};
use crate::{End, setup};

/// Runs before the timed ones: the first allocates, the second finds its memory.
const WARM_UP: usize = 2;

pub fn run(common: &Common, args: &Bench) -> Result<End> {
    let threads = setup::threads(common);
    let engine = setup::engine(common, threads)?;
    let graph = Backbone::from(args.backbone.as_str()).graph(args.imgsz)?;
    let classes = graph.shapes()?[graph.output()].len();
    let n = args.batch as usize;
    let options = SessionOptions {
        trainable: if args.what == What::Train { Trainable::all(&graph) } else { Trainable::none(&graph) },
        batch_norm: BatchNormMode::Train,
        update: UpdateRule::Sgd { momentum: 0.9, weight_decay: 0.0, nesterov: false },
        seed: 0,
        precision: args.precision,
        infer_precision: args.precision,
        outputs: Outputs::Final,
    };
    let state = init::random(&graph, 0);
    let mut session = engine.compile(&graph, &state, options).map_err(regraft::Error::from)?;
    // Any values do: the kernels' time does not depend on them.
    let inputs: Vec<f32> = (0..n * graph.input_shape().len()).map(|i| (i % 251) as f32 / 125.0 - 1.0).collect();
    let labels: Vec<usize> = (0..n).map(|i| i * 37 % classes).collect();
    let keys: Vec<u64> = (0..n as u64).collect();
    let mut rates = Vec::new();
    for run in 0..WARM_UP + args.runs as usize {
        if run == WARM_UP {
            session.measure_layers();
        }
        let started = Instant::now();
        match args.what {
            What::Forward => drop(session.infer(inputs.as_slice().into(), &[graph.output()])?),
            What::Train => {
                let targets = Targets { labels: Labels::Classes(&labels), label_smoothing: 0.0, class_weights: None };
                let batch = Batch { input: inputs.as_slice().into(), sample_keys: &keys };
                session.accumulate(batch, targets, Want::Losses)?;
                session.step(&StepOptions { lr: 1e-3, ..StepOptions::default() })?;
            }
        }
        if run >= WARM_UP {
            rates.push(n as f64 / started.elapsed().as_secs_f64());
        }
    }
    rates.sort_by(f64::total_cmp);
    let median = (rates[(rates.len() - 1) / 2] + rates[rates.len() / 2]) / 2.0;
    let what = if args.what == What::Train { "train" } else { "forward" };
    let precision = args.precision.name();
    let memory = peak_rss_bytes();
    let times = session.layer_times();
    // In the same run, as the speed of a shared machine changes.
    let level = Level::current();
    let ceiling = peak::multiply_add_rate(level);
    if common.json {
        let line = json!({
            "backbone": args.backbone,
            "batch": n,
            "what": what,
            "precision": precision,
            "threads": threads,
            "img_per_s": median,
            "runs": rates,
            "level": level.name(),
            "peak_rss_bytes": memory,
            "multiply_add_gflops": ceiling / 1e9,
            "layers": times.iter().map(|time| layer_json(time, args.runs)).collect::<Vec<_>>(),
        });
        writeln!(stdout(), "{line}")?;
    } else {
        write_layers(&mut stdout(), &times, args.runs, ceiling)?;
        let mib = memory.map_or_else(|| "unknown".into(), |bytes| format!("{} MiB", bytes >> 20));
        writeln!(
            stdout(),
            "{} {what}, batch {n}, {precision}, {threads} thread(s), {}: {median:.2} img/s (median of {}; {:.2} to {:.2}), peak memory {mib}",
            args.backbone,
            level.name(),
            rates.len(),
            rates[0],
            rates[rates.len() - 1],
        )?;
    }
    Ok(End::Done)
}

fn layer_json(time: &LayerTime, runs: u32) -> serde_json::Value {
    json!({
        "layer": time.layer,
        "pass": time.pass,
        "kernel": time.kernel,
        "ms": 1e3 * time.seconds / f64::from(runs),
        "gflops": time.operations / time.seconds / 1e9,
    })
}

/// A table of the layers in the order of the work, and their sum by kernel. The rate of a convolution counts the
/// operations of its definition, so that Winograd's, which needs fewer, may pass the machine's ceiling.
fn write_layers(out: &mut impl Write, times: &[LayerTime], runs: u32, ceiling: f64) -> Result<()> {
    let total: f64 = times.iter().map(|time| time.seconds).sum();
    let row = |time: &LayerTime| {
        let rate = time.operations / time.seconds;
        let rate = match time.operations {
            0.0 => String::new(),
            _ => format!("{:>8.0}{:>6.0}%", rate / 1e9, 100.0 * rate / ceiling),
        };
        format!("{:>9.2}{:>6.1}%{rate}", 1e3 * time.seconds / f64::from(runs), 100.0 * time.seconds / total)
    };
    writeln!(out, "{:32}{:17}{:14}{:>9}{:>7}{:>8}{:>7}", "layer", "pass", "kernel", "ms", "share", "GFLOP/s", "peak")?;
    let mut sums: Vec<LayerTime> = Vec::new();
    for time in times {
        writeln!(out, "{:32}{:17}{:14}{}", time.layer, time.pass, time.kernel, row(time))?;
        match sums.iter_mut().find(|sum| (sum.pass, sum.kernel) == (time.pass, time.kernel)) {
            Some(sum) => {
                sum.seconds += time.seconds;
                sum.operations += time.operations;
            }
            None => sums.push(LayerTime { layer: "all".into(), ..time.clone() }),
        }
    }
    for sum in &sums {
        writeln!(out, "{:32}{:17}{:14}{}", sum.layer, sum.pass, sum.kernel, row(sum))?;
    }
    writeln!(out, "peak: {:.0} GFLOP/s of multiply-adds in registers, all threads", ceiling / 1e9)?;
    Ok(())
}

/// The most memory this process has held so far, where the system tells (Linux).
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

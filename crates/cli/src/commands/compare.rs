//! `regraft compare`: which backbone to take for a folder of photos.

use std::io::{Write, stdout};

use anyhow::Result;
use regraft::{
    Backbone, Candidate, CompareOptions, Comparison, EMBEDDED, Embedded, Entry, FoundWeights, Hub, Progress,
    SIGNIFICANT, WeightSpec,
};
use regraft_hub::Cached;
use regraft_learn::linear::HeadKind;
use serde_json::{Value, json};

use crate::End;
use crate::args::{Common, Compare};
use crate::terminal::Terminal;
use crate::tools::Tools;

pub fn run(common: &Common, args: &Compare) -> Result<End> {
    let tools = Tools::new(common)?;
    let (hub, context) = (tools.hub(args.offline)?, tools.context());
    let mut candidates = Vec::new();
    for (backbone, spec) in chosen(args, &hub, &tools.terminal) {
        let backbone = Backbone::from(backbone);
        let found = FoundWeights::find(&spec, &backbone, &hub, &tools.terminal)?;
        let preprocessing = found.preprocessing.clone();
        let (weights, _) = found.load(&hub, &context)?;
        candidates.push(Candidate { backbone, weights, preprocessing });
    }
    let options =
        CompareOptions { data: args.data.clone(), strict: args.strict, folds: args.folds.into(), seed: args.seed };
    let comparison = regraft::compare(&candidates, &options, &context)?;
    let mut out = stdout();
    if common.json {
        writeln!(out, "{}", in_json(&comparison))?;
    } else {
        write(&mut out, &comparison)?;
    }
    Ok(End::Done)
}

/// The backbones that were named, or the one inside the program and all whose published weights are here.
fn chosen(args: &Compare, hub: &Hub, terminal: &Terminal) -> Vec<(String, WeightSpec)> {
    if !args.backbones.is_empty() {
        return args.backbones.clone();
    }
    let here =
        hub.registry.all().iter().filter(|weights| weights.default && hub.settings.cached(weights) == Cached::Whole);
    let here = here.map(|weights| (weights.backbone.clone(), WeightSpec::Named(weights.name.clone())));
    let inside = (Embedded::ROOTSTOCK.backbone.to_owned(), WeightSpec::Named(EMBEDDED.to_owned()));
    let all: Vec<_> = std::iter::once(inside).chain(here).collect();
    if all.len() == 1 {
        terminal.note(
            "no published weights have been downloaded yet, so there is one backbone alone; name others, such as \
             --backbone resnet18 --backbone mobilenet_v2=FILE",
        );
    }
    all
}

fn write(out: &mut impl Write, comparison: &Comparison) -> Result<()> {
    let Comparison { entries, recommended, photos, classes, kind, folds } = comparison;
    let (of, score) = match kind {
        HeadKind::Softmax | HeadKind::Ovr => (format!("of {classes} classes"), "accuracy"),
        HeadKind::Labels => (format!("with {classes} labels"), "mAP"),
        HeadKind::Value => ("with numbers".into(), "R²"),
    };
    writeln!(out, "{photos} photos {of}, each answered by a head that was fitted on the other {folds} folds'")?;
    let widest = entries.iter().map(|entry| entry.backbone.len()).max().unwrap_or(0).max("backbone".len());
    writeln!(
        out,
        "{:widest$}  {:7}  {score:8}  95% interval      C chosen           features  head    params  against the best",
        "backbone", "head"
    )?;
    for (i, entry) in entries.iter().enumerate() {
        let verdict = match entry.p_value {
            _ if i == 0 => "the best".to_owned(),
            p if p < SIGNIFICANT => format!("worse (p {p:.3})"),
            p => format!("within noise (p {p:.2})"),
        };
        let interval = entry.interval.map_or(String::new(), |(low, high)| format!("{low:.4} to {high:.4}"));
        writeln!(
            out,
            "{:widest$}  {:7}  {:.4}    {interval:16}  {:17}  {:6.1} s  {:4.1} s  {:5.1}M  {verdict}",
            entry.backbone,
            entry.head.to_string(),
            entry.score,
            spread(&entry.cs),
            entry.feature_seconds,
            entry.fit_seconds,
            entry.parameters as f64 / 1e6,
        )?;
    }
    let entry = &entries[*recommended];
    let why = if *recommended == 0 {
        "the most accurate, and nothing equally accurate is faster"
    } else {
        "the fastest of those that may be equally accurate"
    };
    writeln!(out, "Recommended: {}, {}: {why}", entry.backbone, entry.head)?;
    Ok(())
}

/// The values of `C` that were chosen, from the least to the most.
fn spread(cs: &[f64]) -> String {
    match cs {
        [] => String::new(),
        [c] => format!("{c:.3}"),
        [least, .., most] => format!("{least:.3} to {most:.3}"),
    }
}

fn in_json(comparison: &Comparison) -> Value {
    let score = match comparison.kind {
        HeadKind::Softmax | HeadKind::Ovr => "accuracy",
        HeadKind::Labels => "map",
        HeadKind::Value => "r2",
    };
    let entry = |entry: &Entry| {
        json!({
            "backbone": entry.backbone,
            "head": entry.head,
            (score): entry.score,
            "accuracy_ci95": entry.interval,
            "c": entry.cs,
            "feature_seconds": entry.feature_seconds,
            "fit_seconds": entry.fit_seconds,
            "parameters": entry.parameters,
            "p_value": entry.p_value,
            "within_noise": entry.p_value >= SIGNIFICANT,
        })
    };
    let recommended = &comparison.entries[comparison.recommended];
    json!({
        "photos": comparison.photos,
        "classes": comparison.classes,
        "folds": comparison.folds,
        "entries": comparison.entries.iter().map(entry).collect::<Vec<_>>(),
        "recommended": {"backbone": recommended.backbone, "head": recommended.head},
    })
}

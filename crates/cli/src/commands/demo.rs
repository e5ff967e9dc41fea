//! `regraft demo`: transfer learning on a collection that the program draws itself.

use std::fs;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use regraft::{
    Answer, Embedded, Head, Mode, Outcome, PredictOptions, Prediction, Predictor, PreparedRun, Progress, Settings,
    Source, Trained, evaluate,
};
use regraft_flowers::{KINDS, write_collection};
use regraft_io::write_atomically;
use regraft_learn::metrics::wilson;
use serde_json::json;

use crate::End;
use crate::args::{Common, Demo};
use crate::terminal::percent;
use crate::tools::Tools;

/// One in so many pictures is set aside.
const VAL_SHARE: usize = 4;

/// Side of the pictures in pixels.
const SIDE: u32 = 160;

/// The file by which a folder is known to be a demo's: what lies in it may be replaced.
const MARK: &str = "regraft-demo.txt";
const MARKED: &str = "This folder was made by `regraft demo`, which replaces what is in it when it runs again.\n";

/// Pictures that are named at the end.
const NAMED: usize = 3;

pub fn run(common: &Common, args: &Demo) -> Result<End> {
    let tools = Tools::new(common)?;
    let (started, terminal) = (Instant::now(), &tools.terminal);
    let photos = collection(args, &tools)?;

    let Embedded { backbone, .. } = Embedded::ROOTSTOCK;
    let preprocessing = Embedded::ROOTSTOCK.preprocessing()?;
    let config = |weights: Source| Settings {
        mode: Mode::Probe,
        head: Head::Softmax,
        weights,
        seed: args.seed,
        preprocessing: preprocessing.clone(),
        ..Settings::tutorial(photos.clone(), backbone.into())
    };
    terminal.note(&format!("training on features of {backbone}, the backbone inside this program"));
    let Some(run) = train(config(Source::Embedded), &args.output_dir.join("run"), &tools)? else {
        return Ok(End::Interrupted);
    };
    terminal.note("training the same head on features of the same network with random weights, for comparison");
    let Some(random) = train(config(Source::Random), &args.output_dir.join("random"), &tools)? else {
        return Ok(End::Interrupted);
    };

    let model_path = run.folder.best_path();
    let evaluation = evaluate(&model_path, &photos, false, None, &tools.context())?.evaluation()?;
    let text = evaluation.to_string();
    write_atomically(&run.folder.path().join("evaluation.txt"), |file| file.write_all(text.as_bytes()))?;
    let some: Vec<PathBuf> =
        (0..NAMED).map(|i| first_photo(&photos.join("val"), KINDS[i * KINDS.len() / NAMED])).collect::<Result<_>>()?;
    let options = PredictOptions { top_k: Some(1), threads: tools.threads, ..PredictOptions::default() };
    let mut predictor = Predictor::open(&model_path, tools.engine(), options)?;
    let mut named = Vec::new();
    for Prediction { name, answer, .. } in predictor.predict(some)? {
        if let Ok(Answer::Classes(top)) = answer {
            named.push((name, top[0].label.clone(), top[0].prob));
        }
    }

    let seconds = started.elapsed().as_secs_f64();
    let mut out = stdout();
    let (accuracy, n) = (run.best_val_score, run.val_n);
    if common.json {
        let named: Vec<_> =
            named.iter().map(|(path, label, prob)| json!({"path": path, "label": label, "prob": prob})).collect();
        let line = json!({
            "photos": photos,
            "model": model_path,
            "best_val_acc": accuracy,
            "random_features_val_acc": random.best_val_score,
            "val_n": n,
            "predictions": named,
            "seconds": seconds,
        });
        writeln!(out, "{line}")?;
        return Ok(End::Done);
    }
    let (low, high) = wilson((accuracy * n as f64).round() as u64, n as u64);
    let pictures = args.per_kind as usize * KINDS.len();
    writeln!(out, "\n{pictures} pictures of {} kinds of flowers: {}", KINDS.len(), photos.display())?;
    writeln!(
        out,
        "transferred features: {} of {n} pictures it had not seen (95% interval {} to {})",
        percent(accuracy),
        percent(low),
        percent(high)
    )?;
    let (random, guessing) = (percent(random.best_val_score), percent(1.0 / KINDS.len() as f64));
    writeln!(out, "random features:      {random}; guessing: {guessing}")?;
    for (path, label, prob) in &named {
        writeln!(out, "{path}: {label} {}", percent(*prob))?;
    }
    writeln!(out, "Model: {}", model_path.display())?;
    writeln!(out, "Class by class: regraft eval {} {}", model_path.display(), photos.display())?;
    writeln!(out, "Done in {seconds:.0} s. Now with your own photos, in a folder with one folder for each class:")?;
    writeln!(out, "    regraft train PHOTOS")?;
    Ok(End::Done)
}

/// The drawn pictures, in a folder of the demo's own.
fn collection(args: &Demo, tools: &Tools) -> Result<PathBuf> {
    let Demo { output_dir: folder, per_kind, seed } = args;
    let (photos, per_kind) = (folder.join("flowers"), *per_kind as usize);
    let mark = folder.join(MARK);
    if folder.exists() && !mark.exists() && fs::read_dir(folder)?.next().is_some() {
        bail!("{} holds other things; give another --output-dir", folder.display());
    }
    let context = tools.context();
    context.progress.begin("drawing flowers", "pictures", (per_kind * KINDS.len()) as u64);
    fs::create_dir_all(folder).with_context(|| format!("cannot draw into {}", folder.display()))?;
    write_atomically(&mark, |file| file.write_all(MARKED.as_bytes()))?;
    // What an earlier demo left would be learned from, too.
    if photos.exists() {
        fs::remove_dir_all(&photos).with_context(|| format!("cannot replace {}", photos.display()))?;
    }
    let val = per_kind / VAL_SHARE;
    let mut before = 0;
    // Pictures of another seed are other pictures.
    for (part, per_kind, seed) in [("train", per_kind - val, *seed), ("val", val, !*seed)] {
        let advance = |done: usize| context.progress.advance((before + done) as u64, "");
        let drawn = write_collection(&photos.join(part), per_kind, seed, SIDE, advance);
        drawn.with_context(|| format!("cannot draw into {}", photos.display()))?;
        before += per_kind * KINDS.len();
    }
    context.progress.end();
    Ok(photos)
}

/// Trains into a folder; none if it was interrupted.
fn train(config: Settings, folder: &Path, tools: &Tools) -> Result<Option<Trained>> {
    match PreparedRun::check(config, Some(folder), true, &tools.context())?.train(&tools.context())? {
        Outcome::Trained(run) => Ok(Some(run)),
        Outcome::Distilled(_) | Outcome::Interrupted(_) => Ok(None),
    }
}

/// The first picture of a kind.
fn first_photo(photos: &Path, kind: &str) -> Result<PathBuf> {
    let folder = photos.join(kind);
    let mut paths = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    paths.into_iter().next().with_context(|| format!("{} is empty", folder.display()))
}

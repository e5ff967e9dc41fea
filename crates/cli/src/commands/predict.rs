//! `regraft predict`.

use std::io::{BufRead, Write, stdin, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use regraft::{Answer, Context, Error, Model, Prediction, Progress, Ranked, YES};
use regraft_data::{Task, image_paths};
use serde_json::{Value, json};

use crate::args::{Common, Predict};
use crate::terminal::Terminal;
use crate::{End, setup};

/// Classes named for each photo, where the number was not given: a line of CSV has one.
const TOP_K: usize = 5;

pub fn run(common: &Common, args: &Predict) -> Result<End> {
    let threads = setup::threads(common);
    let engine = setup::engine(threads)?;
    let terminal = Terminal::new(common.json);
    let cancel = setup::cancel_on_interrupt()?;
    let context = Context { engine: &engine, progress: &terminal, cancel: &cancel, threads };
    let model = Model::open(&args.model)?;
    let mut session = model.session(&engine, &args.model)?;
    let (paths, findings) = image_paths(&listed(&args.paths)?)?;
    findings.items.iter().for_each(|finding| terminal.warn(&finding.to_string()));
    if paths.is_empty() {
        anyhow::bail!("no photos found in what was given");
    }

    // Of labels, any number may be right.
    let usual = match model.task() {
        Task::Labels => model.classes.len(),
        Task::Classes | Task::Value => {
            if args.csv {
                1
            } else {
                TOP_K
            }
        }
    };
    let top_k = args.top_k.map_or(usual, |k| k as usize).min(model.classes.len());
    let mut printer = Printer::new(common, args, columns(model.task(), top_k));
    let mut failed = 0usize;
    let mut broken_pipe = None;
    let tta = args.tta.map(Into::into);
    let result = regraft::predict(&model, session.as_mut(), &paths, top_k, tta, &context, |answer| {
        failed += usize::from(answer.answer.is_err());
        printer.print(&answer).map_err(|error| {
            broken_pipe = Some(error);
            Error::Interrupted
        })
    });
    if let Some(error) = broken_pipe {
        return Err(error);
    }
    result?;
    if failed > 0 {
        anyhow::bail!("{failed} of {} files could not be read; the others are answered", paths.len());
    }
    Ok(End::Done)
}

/// The paths given, with `-` replaced by the lines of stdin.
fn listed(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            for line in stdin().lock().lines() {
                let line = line.context("cannot read the list of paths on stdin")?;
                if !line.is_empty() {
                    all.push(PathBuf::from(line));
                }
            }
        } else {
            all.push(path.clone());
        }
    }
    Ok(all)
}

/// One answer a line, in the form asked for.
enum Printer {
    Text,
    Json,
    Csv { writer: Box<csv::Writer<std::io::Stdout>>, columns: Vec<String>, header_written: bool },
}

impl Printer {
    fn new(common: &Common, args: &Predict, columns: Vec<String>) -> Self {
        match (common.json, args.csv) {
            (true, _) => Printer::Json,
            (_, true) => {
                let writer = Box::new(csv::Writer::from_writer(stdout()));
                Printer::Csv { writer, columns, header_written: false }
            }
            _ => Printer::Text,
        }
    }

    fn print(&mut self, prediction: &Prediction) -> Result<()> {
        match self {
            Printer::Text => text(prediction),
            Printer::Json => Ok(writeln!(stdout(), "{}", line(prediction))?),
            Printer::Csv { writer, columns, header_written } => {
                if !std::mem::replace(header_written, true) {
                    writer.write_record(&*columns)?;
                }
                writer.write_record(csv_record(prediction, columns.len()))?;
                Ok(writer.flush()?)
            }
        }
    }
}

/// The columns of CSV. Of classes `path,label,prob,label2,prob2,...,error`: those of the best class keep their names
/// however many follow. Of labels `path,labels,error`, with `|` between them as in a manifest, and of a number
/// `path,value,error`.
fn columns(task: Task, top_k: usize) -> Vec<String> {
    let mut columns: Vec<String> = vec!["path".into()];
    match task {
        Task::Classes => {
            columns.extend(["label".into(), "prob".into()]);
            columns.extend((2..=top_k).flat_map(|rank| [format!("label{rank}"), format!("prob{rank}")]));
        }
        Task::Labels => columns.push("labels".into()),
        Task::Value => columns.push("value".into()),
    }
    columns.push("error".into());
    columns
}

fn csv_record(prediction: &Prediction, columns: usize) -> Vec<String> {
    let mut fields = vec![prediction.path.to_string_lossy().into_owned()];
    match &prediction.answer {
        Ok(Answer::Classes(top)) => {
            fields.extend(top.iter().flat_map(|Ranked { label, prob }| [label.clone(), prob.to_string()]));
        }
        Ok(Answer::Labels(labels)) => fields.push(yes(labels).collect::<Vec<_>>().join("|")),
        Ok(Answer::Value(value)) => fields.push(value.to_string()),
        Err(error) => {
            fields.resize(columns - 1, String::new());
            fields.push(error.clone());
        }
    }
    fields.resize(columns, String::new());
    fields
}

/// The labels that a photo has.
fn yes(labels: &[Ranked]) -> impl Iterator<Item = &str> {
    labels.iter().filter(|ranked| ranked.prob >= YES).map(|ranked| ranked.label.as_str())
}

fn text(prediction: &Prediction) -> Result<()> {
    let path = prediction.path.display();
    let ranked =
        |top: &[Ranked]| top.iter().map(|r| format!("{} {:.4}", r.label, r.prob)).collect::<Vec<_>>().join(", ");
    match &prediction.answer {
        Ok(Answer::Classes(top)) => writeln!(stdout(), "{path}: {}", ranked(top))?,
        Ok(Answer::Labels(labels)) => {
            let has: Vec<Ranked> = labels.iter().filter(|ranked| ranked.prob >= YES).cloned().collect();
            match (has.as_slice(), labels.first()) {
                ([], Some(best)) => writeln!(stdout(), "{path}: none (the nearest: {} {:.4})", best.label, best.prob)?,
                (has, _) => writeln!(stdout(), "{path}: {}", ranked(has))?,
            }
        }
        Ok(Answer::Value(value)) => writeln!(stdout(), "{path}: {value:.4}")?,
        Err(error) => eprintln!("error: {path}: {error}"),
    }
    Ok(())
}

fn line(prediction: &Prediction) -> Value {
    let path = prediction.path.to_string_lossy();
    let all = |ranked: &[Ranked]| -> Vec<Value> {
        ranked.iter().map(|r| json!({"label": r.label, "prob": r.prob})).collect()
    };
    match &prediction.answer {
        Ok(Answer::Classes(top)) => json!({"path": path, "label": top[0].label, "prob": top[0].prob, "top": all(top)}),
        Ok(Answer::Labels(labels)) => {
            json!({"path": path, "labels": yes(labels).collect::<Vec<_>>(), "top": all(labels)})
        }
        Ok(Answer::Value(value)) => json!({"path": path, "value": value}),
        Err(error) => json!({"path": path, "error": error}),
    }
}

//! `regraft predict`.

use std::io::{BufRead, Write, stdin, stdout};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use regraft::{Answer, Model, PredictOptions, Prediction, Predictor, Progress, Ranked, YES};
use regraft_data::{Task, image_paths};

use crate::End;
use crate::args::{Common, Predict};
use crate::terminal::percent;
use crate::tools::Tools;

/// Classes named for each photo, where the number was not given: a line of CSV has one.
const TOP_K: usize = 5;

pub fn run(common: &Common, args: &Predict) -> Result<End> {
    let tools = Tools::new(common)?;
    let model = Model::open(&args.model)?;
    let (paths, findings) = image_paths(&listed(&args.paths)?)?;
    findings.items.iter().for_each(|finding| tools.terminal.warn(&finding.to_string()));
    if paths.is_empty() {
        anyhow::bail!("no photos found in what was given");
    }

    // Of labels, any number may be right.
    let usual = match model.task() {
        Task::Labels => model.classes.len(),
        Task::Classes | Task::Value if args.csv => 1,
        Task::Classes | Task::Value => TOP_K,
    };
    let top_k = args.top_k.map_or(usual, |k| k as usize).min(model.classes.len());
    let mut printer = Printer::new(common, args, columns(model.task(), top_k));
    let options = PredictOptions { top_k: Some(top_k), tta: args.tta, features: false, threads: tools.threads };
    let mut predictor = Predictor::new(model, &args.model, tools.engine(), options)?;
    let (total, mut failed, mut unprinted) = (paths.len(), 0usize, Ok(()));
    predictor.predict_each(paths, &tools.cancel, |prediction| {
        failed += usize::from(prediction.answer.is_err());
        unprinted = printer.print(&prediction);
        if unprinted.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    unprinted?;
    match failed {
        0 => Ok(End::Done),
        1 if total == 1 => anyhow::bail!("The file could not be read."),
        _ => anyhow::bail!("{failed} of {total} files could not be read; the others are answered."),
    }
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
            Printer::Json => Ok(writeln!(stdout(), "{}", serde_json::to_string(prediction)?)?),
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
    let mut fields = vec![prediction.name.clone()];
    match &prediction.answer {
        Ok(Answer::Classes(top)) => {
            fields.extend(top.iter().flat_map(|Ranked { label, prob }| [label.clone(), prob.to_string()]));
        }
        Ok(answer @ Answer::Labels(_)) => fields.push(answer.labels().join("|")),
        Ok(Answer::Value(value)) => fields.push(value.to_string()),
        Err(error) => {
            fields.resize(columns - 1, String::new());
            fields.push(error.clone());
        }
    }
    fields.resize(columns, String::new());
    fields
}

fn text(prediction: &Prediction) -> Result<()> {
    let name = &prediction.name;
    let ranked = |top: &[Ranked]| {
        top.iter().map(|it| format!("{} {}", it.label, percent(it.prob))).collect::<Vec<_>>().join(", ")
    };
    match &prediction.answer {
        Ok(Answer::Classes(top)) => {
            // Runners-up that round to nothing say nothing.
            let shown = top.iter().skip(1).take_while(|it| it.prob >= 0.0005).count();
            writeln!(stdout(), "{name}: {}", ranked(&top[..(1 + shown).min(top.len())]))?;
        }
        Ok(Answer::Labels(labels)) => {
            let has: Vec<Ranked> = labels.iter().filter(|it| it.prob >= YES).cloned().collect();
            match (has.as_slice(), labels.first()) {
                ([], Some(best)) => {
                    writeln!(stdout(), "{name}: none (the nearest: {} {})", best.label, percent(best.prob))?;
                }
                (has, _) => writeln!(stdout(), "{name}: {}", ranked(has))?,
            }
        }
        Ok(Answer::Value(value)) => writeln!(stdout(), "{name}: {value:.4}")?,
        Err(error) => eprintln!("error: {name}: {error}"),
    }
    Ok(())
}

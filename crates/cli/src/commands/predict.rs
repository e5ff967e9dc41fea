//! `regraft predict`.

use std::io::{BufRead, Write, stdin, stdout};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use regraft_data::image_paths;
use regraft_transfer::{Context, Error, Model, Prediction, Ranked, Reporter};
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
    let interrupt = setup::interrupt_flag()?;
    let context = Context { engine: &engine, reporter: &terminal, interrupt: &interrupt, threads };
    let model = Model::open(&args.model)?;
    let mut session = model.session(&engine, &args.model)?;
    let (paths, findings) = image_paths(&listed(&args.paths)?)?;
    findings.items.iter().for_each(|finding| terminal.warn(&finding.to_string()));
    if paths.is_empty() {
        anyhow::bail!("no photos found in what was given");
    }

    let top_k = args.top_k.map_or(if args.csv { 1 } else { TOP_K }, |k| k as usize).min(model.classes.len());
    let mut printer = Printer::new(common, args, top_k);
    let mut failed = 0usize;
    let mut broken_pipe = None;
    let tta = args.tta.map(Into::into);
    let result = regraft_transfer::predict(&model, session.as_mut(), &paths, top_k, tta, &context, |answer| {
        failed += usize::from(answer.top.is_err());
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
    Csv { writer: Box<csv::Writer<std::io::Stdout>>, top_k: usize, header_written: bool },
}

impl Printer {
    fn new(common: &Common, args: &Predict, top_k: usize) -> Self {
        match (common.json, args.csv) {
            (true, _) => Printer::Json,
            (_, true) => {
                let writer = Box::new(csv::Writer::from_writer(stdout()));
                Printer::Csv { writer, top_k, header_written: false }
            }
            _ => Printer::Text,
        }
    }

    fn print(&mut self, answer: &Prediction) -> Result<()> {
        match self {
            Printer::Text => text(answer),
            Printer::Json => Ok(writeln!(stdout(), "{}", line(answer))?),
            Printer::Csv { writer, top_k, header_written } => {
                if !std::mem::replace(header_written, true) {
                    writer.write_record(csv_header(*top_k))?;
                }
                writer.write_record(csv_record(answer, *top_k))?;
                Ok(writer.flush()?)
            }
        }
    }
}

/// `path,label,prob,label2,prob2,...,error`: the columns of the best class keep their names however many follow.
fn csv_header(top_k: usize) -> Vec<String> {
    let mut columns = vec!["path".into(), "label".into(), "prob".into()];
    columns.extend((2..=top_k).flat_map(|rank| [format!("label{rank}"), format!("prob{rank}")]));
    columns.push("error".into());
    columns
}

fn csv_record(answer: &Prediction, top_k: usize) -> Vec<String> {
    let mut fields = vec![answer.path.to_string_lossy().into_owned()];
    match &answer.top {
        Ok(top) => {
            fields.extend(top.iter().flat_map(|Ranked { label, prob }| [label.clone(), prob.to_string()]));
            fields.push(String::new());
        }
        Err(error) => {
            fields.extend(vec![String::new(); 2 * top_k]);
            fields.push(error.clone());
        }
    }
    fields
}

fn text(answer: &Prediction) -> Result<()> {
    let path = answer.path.display();
    match &answer.top {
        Ok(top) => {
            let ranked: Vec<String> = top.iter().map(|r| format!("{} {:.4}", r.label, r.prob)).collect();
            writeln!(stdout(), "{path}: {}", ranked.join(", "))?;
        }
        Err(error) => eprintln!("error: {path}: {error}"),
    }
    Ok(())
}

fn line(answer: &Prediction) -> Value {
    let path = answer.path.to_string_lossy();
    match &answer.top {
        Ok(top) => {
            let ranked: Vec<Value> = top.iter().map(|r| json!({"label": r.label, "prob": r.prob})).collect();
            json!({"path": path, "label": top[0].label, "prob": top[0].prob, "top": ranked})
        }
        Err(error) => json!({"path": path, "error": error}),
    }
}

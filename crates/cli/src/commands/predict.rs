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

    let mut printer = Printer::new(common, args);
    let mut failed = 0usize;
    let mut broken_pipe = None;
    let result = regraft_transfer::predict(&model, session.as_mut(), &paths, args.top_k as usize, &context, |answer| {
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
    Csv(Box<csv::Writer<std::io::Stdout>>, bool),
}

impl Printer {
    fn new(common: &Common, args: &Predict) -> Self {
        match (common.json, args.csv) {
            (true, _) => Printer::Json,
            (_, true) => Printer::Csv(Box::new(csv::Writer::from_writer(stdout())), false),
            _ => Printer::Text,
        }
    }

    fn print(&mut self, answer: &Prediction) -> Result<()> {
        match self {
            Printer::Text => text(answer),
            Printer::Json => Ok(writeln!(stdout(), "{}", line(answer))?),
            Printer::Csv(writer, header_written) => {
                if !std::mem::replace(header_written, true) {
                    writer.write_record(["path", "label", "prob", "error"])?;
                }
                let path = answer.path.to_string_lossy();
                match &answer.top {
                    Ok(top) => {
                        let Ranked { label, prob } = &top[0];
                        writer.write_record([path.as_ref(), label, &prob.to_string(), ""])?;
                    }
                    Err(error) => writer.write_record([path.as_ref(), "", "", error])?,
                }
                Ok(writer.flush()?)
            }
        }
    }
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

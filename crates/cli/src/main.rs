//! `regraft`: transfer learning for people with a folder of photos.
//!
//! Arguments, printing and exit codes; the work is the library's.

mod args;
mod commands;
mod setup;
mod terminal;

use std::io;
use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command};

/// Exit code of a run that Ctrl-C ended, as shells count a SIGINT.
const INTERRUPTED: u8 = 130;

/// How a command ended, where nothing went wrong.
pub(crate) enum End {
    Done,
    Interrupted,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Train(train) => commands::train::train(&arguments.common, train),
        Command::Resume(resume) => commands::train::resume(&arguments.common, &resume),
        Command::Eval(eval) => commands::eval::run(&arguments.common, &eval),
        Command::Predict(predict) => commands::predict::run(&arguments.common, &predict),
        Command::Info(info) => commands::info::run(&arguments.common, &info),
        Command::Bench(bench) => commands::bench::run(&arguments.common, &bench),
    };
    match result {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if is_interruption(&error) => {
            eprintln!("interrupted; nothing had to be saved");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            let usage = matches!(error.downcast_ref(), Some(regraft_transfer::Error::Setting(_)));
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

/// Whether the reader of our output has gone, as `head` does: no reason to complain.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
        let csv = cause
            .downcast_ref::<csv::Error>()
            .is_some_and(|e| matches!(e.kind(), csv::ErrorKind::Io(e) if e.kind() == io::ErrorKind::BrokenPipe));
        io || csv
    })
}

fn is_interruption(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(regraft_transfer::Error::is_interruption)
}

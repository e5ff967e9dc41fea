//! `regraft`: transfer learning for people with a folder of photos.
//!
//! Arguments, printing and exit codes; the work is the library's.

mod args;
mod commands;
mod flags;
mod setup;
mod terminal;
mod tools;
mod values;

use std::io;
use std::process::ExitCode;

use args::{Arguments, Command};
use regraft::ErrorKind;

/// Exit code where the work could not be done.
const FAILED: u8 = 1;

/// Exit code where the command line is at fault; clap uses the same.
const USAGE: u8 = 2;

/// Exit code of a run that Ctrl-C ended, as shells count a SIGINT.
const INTERRUPTED: u8 = 130;

/// How a command ended, where nothing went wrong.
pub(crate) enum End {
    Done,
    Interrupted,
}

fn main() -> ExitCode {
    let arguments = Arguments::read();
    let result = match arguments.command {
        Command::Demo(demo) => commands::demo::run(&arguments.common, &demo),
        Command::Train(train) => commands::train::train(&arguments.common, *train),
        Command::Resume(resume) => commands::train::resume(&arguments.common, &resume),
        Command::Eval(eval) => commands::eval::run(&arguments.common, &eval),
        Command::Predict(predict) => commands::predict::run(&arguments.common, &predict),
        Command::Backbones => commands::backbones::run(&arguments.common),
        Command::Compare(compare) => commands::compare::run(&arguments.common, &compare),
        Command::Distill(distill) => commands::distill::run(&arguments.common, &distill),
        Command::Info(info) => commands::info::run(&arguments.common, &info),
        Command::Bench(bench) => commands::bench::run(&arguments.common, &bench),
    };
    match result {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if is_interruption(&error) => {
            match error.downcast_ref() {
                Some(regraft::Error::Hub(download)) => eprintln!("{download}"),
                _ => eprintln!("Interrupted; nothing had to be saved."),
            }
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("error: {}", message(&error));
            ExitCode::from(if is_usage(&error) { USAGE } else { FAILED })
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

/// The error and its causes, without those that a message before them has already told, and with flags for settings.
fn message(error: &anyhow::Error) -> String {
    let text = error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        _ if told.contains(&cause) => told,
        _ => format!("{told}: {cause}"),
    });
    match error.downcast_ref() {
        Some(regraft::Error::Data(_)) => flags::with_flags_of(&flags::OF_DATA, &text),
        _ => flags::with_flags(&text),
    }
}

/// Whether a flag's value is at fault, which only the library could tell.
fn is_usage(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(|error: &regraft::Error| error.kind() == ErrorKind::Setting)
}

fn is_interruption(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(|error: &regraft::Error| error.kind() == ErrorKind::Cancelled)
}

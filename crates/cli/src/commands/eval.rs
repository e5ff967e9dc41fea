//! `regraft eval`.

use std::io::{Write, stdout};

use anyhow::Result;
use regraft::Context;

use crate::args::{Common, Eval};
use crate::terminal::Terminal;
use crate::{End, setup};

pub fn run(common: &Common, args: &Eval) -> Result<End> {
    let threads = setup::threads(common);
    let engine = setup::engine(threads)?;
    let terminal = Terminal::new(common.json);
    let cancel = setup::cancel_on_interrupt()?;
    let context = Context { engine: &engine, progress: &terminal, cancel: &cancel, threads };
    let evaluation = regraft::evaluate(&args.model, &args.data, args.strict, args.tta.map(Into::into), &context)?;
    if common.json {
        writeln!(stdout(), "{}", serde_json::to_string(&evaluation)?)?;
    } else {
        write!(stdout(), "{evaluation}")?;
    }
    Ok(End::Done)
}

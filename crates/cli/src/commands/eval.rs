//! `regraft eval`.

use std::io::{Write, stdout};

use anyhow::Result;

use crate::End;
use crate::args::{Common, Eval};
use crate::tools::Tools;

pub fn run(common: &Common, args: &Eval) -> Result<End> {
    let tools = Tools::new(common)?;
    let scores = regraft::evaluate(&args.model, &args.data, args.strict, args.tta, &tools.context())?;
    if let Some(path) = &args.predictions {
        scores.write_csv(path)?;
    }
    let evaluation = scores.evaluation()?;
    if common.json {
        writeln!(stdout(), "{}", serde_json::to_string(&evaluation)?)?;
    } else {
        write!(stdout(), "{evaluation}")?;
    }
    Ok(End::Done)
}

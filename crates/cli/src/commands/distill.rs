//! `regraft distill`: a small network learns from larger ones on any photos.

use std::io::{Write, stdout};

use anyhow::Result;
use regraft::{DistillSettings, Distilled, FoundWeights, Source, TeacherSpec, distill};
use regraft_data::Preprocessing;
use regraft_graph::zoo;
use serde_json::json;

use crate::End;
use crate::args::{Common, Distill};
use crate::terminal::quoted;
use crate::tools::Tools;
use crate::values::TeacherArg;

pub fn run(common: &Common, args: &Distill) -> Result<End> {
    let tools = Tools::new(common)?;
    let (hub, context) = (tools.hub(args.offline)?, tools.context());
    let mut teachers = Vec::new();
    for teacher in &args.teachers {
        teachers.push(match teacher {
            TeacherArg::Model(path) => TeacherSpec::Model { path: path.clone() },
            TeacherArg::Backbone(backbone, spec) => {
                let found = FoundWeights::find(spec, &backbone.as_str().into(), &hub, &tools.terminal)?;
                let preprocessing = found.preprocessing.clone();
                let (Source::File(weights), _) = found.load(&hub, &context)? else {
                    anyhow::bail!(
                        "--teacher {backbone} has no weights of a file, so it has nothing to teach; give some"
                    );
                };
                TeacherSpec::Backbone { backbone: backbone.clone(), weights, preprocessing }
            }
        });
    }
    let (weights, published) = match &args.weights {
        None => (Source::Random, None),
        Some(spec) => {
            let wider = args.teachers.iter().filter_map(|teacher| match teacher {
                TeacherArg::Backbone(backbone, _) => Some(backbone.as_str()),
                TeacherArg::Model(_) => None,
            });
            let networks: Vec<&str> = std::iter::once(args.student.as_str()).chain(wider).collect();
            FoundWeights::for_student(spec, &networks, &hub)?.load(&hub, &context)?
        }
    };
    let usual = Preprocessing::default();
    // The side that the student is made for, and the border in proportion.
    let side = zoo::build(&args.student, 2)?.input_shape().len() / 3;
    let crop = args.imgsz.unwrap_or((side as f64).sqrt() as u32);
    let preprocessing = Preprocessing { resize: usual.resize_for(crop), crop, ..usual };
    let config = DistillSettings {
        weights,
        published,
        epochs: args.epochs,
        batch_size: args.batch_size,
        lr: args.lr,
        weight_decay: args.weight_decay,
        views: args.views,
        min_scale: args.min_scale,
        val_fraction: args.val_fraction,
        seed: args.seed,
        half: args.half,
        licence: args.licence.clone(),
        ..DistillSettings::new(args.images.clone(), args.student.clone(), teachers, preprocessing)
    };
    super::train::finish(common, distill(&config, args.output_dir.as_deref(), args.exist_ok, &context)?)
}

/// Reports a finished distillation.
pub fn write_student(common: &Common, student: &Distilled) -> Result<End> {
    let mut out = stdout();
    let Distilled { student, weights, model, val_r2, seen, seconds } = student;
    if common.json {
        let line = json!({"weights": weights, "model": model, "val_r2": val_r2, "seen": seen, "seconds": seconds});
        writeln!(out, "{line}")?;
        return Ok(End::Done);
    }
    let (minutes, rest) = ((seconds / 60.0) as u64, seconds % 60.0);
    writeln!(out, "Distillation complete in {minutes}m {rest:.0}s, {seen} photos seen")?;
    writeln!(out, "R² of the teachers' outputs on photos kept aside: {val_r2:.4}")?;
    writeln!(out, "Weights: {}", weights.display())?;
    match model {
        Some(model) => {
            writeln!(out, "Model: {}", model.display())?;
            eprintln!("Next: regraft eval {} PHOTOS, with photos whose classes are known", quoted(model));
        }
        None => eprintln!("Next: regraft train PHOTOS --backbone {student} --weights {}", quoted(weights)),
    }
    Ok(End::Done)
}

//! `regraft info`.

use std::io::{Write, stdout};

use anyhow::Result;
use regraft::{Backbone, Model, score_name};
use regraft_data::Task;
use regraft_graph::{Graph, Trainable};
use serde_json::{Value, json};

use crate::End;
use crate::args::{Common, Info};

pub fn run(common: &Common, args: &Info) -> Result<End> {
    let mut out = stdout();
    if let Some(path) = &args.model {
        let model = Model::open(path)?;
        let trainable = Trainable::all(&model.graph);
        if common.json {
            let about = json!({
                "classes": model.classes,
                "head": model.head,
                "unit": model.scale,
                "preprocessing": model.preprocessing,
                "provenance": model.provenance,
                "layers": layers(&model.graph, &trainable)?,
            });
            writeln!(out, "{about}")?;
            return Ok(End::Done);
        }
        write!(out, "{}", model.graph.summary(&trainable)?)?;
        let p = &model.provenance;
        let what = match model.task() {
            Task::Classes => "classes",
            Task::Labels => "labels",
            Task::Value => "a number",
        };
        writeln!(out, "{what}: {}", model.classes.join(", "))?;
        writeln!(out, "backbone: {}, weights {}", p.backbone, p.weights_sha256.as_deref().unwrap_or("random"))?;
        if let Some(published) = &p.weights {
            writeln!(out, "published as: {}, {}", published.name, published.url)?;
        }
        let mode = p.mode.map_or(String::new(), |mode| format!(", mode {mode}"));
        writeln!(out, "made by: regraft {}{mode}, seed {}, epoch {}", p.regraft, p.seed, p.epoch)?;
        if let Some(taught) = &p.distilled {
            writeln!(out, "taught by: {}, model {}", taught.teacher, taught.teacher_sha256)?;
            writeln!(out, "R² of the teacher's outputs: {:.4} on {} photos kept aside", taught.r2, p.val_n)?;
        }
        if let Some(val_score) = p.val_score {
            writeln!(out, "{}: {val_score:.4} on {} validation photos", score_name(model.head), p.val_n)?;
        }
        writeln!(out, "photos: {}", p.data_sha256)?;
        let pre = &model.preprocessing;
        writeln!(out, "input: resize {}, crop {}, mean {:?}, std {:?}", pre.resize, pre.crop, pre.mean, pre.std)?;
    } else if let Some(name) = &args.backbone {
        let graph = Backbone::from(name.as_str()).graph(None)?;
        let trainable = match &args.freeze_until {
            Some(layer) => Trainable::from_layer(&graph, layer).map_err(regraft::Error::from)?,
            None => Trainable::all(&graph),
        };
        if common.json {
            writeln!(out, "{}", json!({"backbone": name, "layers": layers(&graph, &trainable)?}))?;
        } else {
            write!(out, "{}", graph.summary(&trainable)?)?;
        }
    }
    Ok(End::Done)
}

fn layers(graph: &Graph, trainable: &Trainable) -> Result<Vec<Value>> {
    let layer = |layer: regraft_graph::LayerSummary| {
        json!({
            "name": layer.name,
            "op": layer.op,
            "output": layer.shape,
            "parameters": layer.parameters,
            "trainable": layer.trainable,
        })
    };
    Ok(graph.layers(trainable)?.into_iter().map(layer).collect())
}

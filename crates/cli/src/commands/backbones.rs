//! `regraft backbones`: the architectures, and what weights are published for them.

use std::io::{Write, stdout};

use anyhow::Result;
use regraft::{Embedded, Hub};
use regraft_graph::{Graph, Shape, zoo};
use regraft_hub::{Cached, Registry, Settings, Weights};
use serde_json::{Value, json};

use crate::End;
use crate::args::Common;

/// Classes that an architecture was published with.
const IMAGENET_CLASSES: usize = 1000;

pub fn run(common: &Common) -> Result<End> {
    let Hub { settings, registry } = Hub::from_env(false)?;
    let backbones = zoo::NAMES.iter().map(|name| Backbone::new(name, &registry)).collect::<Result<Vec<_>>>()?;
    let mut out = stdout();
    if common.json {
        let list: Vec<Value> = backbones.iter().map(|backbone| backbone.json(&settings)).collect();
        writeln!(out, "{}", json!({"cache": settings.home, "mirror": settings.mirror, "backbones": list}))?;
        return Ok(End::Done);
    }
    writeln!(
        out,
        "{:18} {:14} {:>7} {:>6} {:>5}  {:24} {:>8}  {:13} cached",
        "backbone", "weights", "params", "GMACs", "input", "accuracy", "file", "licence"
    )?;
    for backbone in &backbones {
        backbone.write(&mut out, &settings)?;
    }
    writeln!(out, "* is the default. Downloaded weights are kept in {}", settings.home.display())?;
    Ok(End::Done)
}

/// An architecture, and its published weights.
struct Backbone<'a> {
    name: &'a str,
    parameters: usize,
    /// Multiply-adds for one image of the size that the default weights were measured at.
    multiply_adds: u64,
    /// Published weights, with the multiply-adds at their own size.
    weights: Vec<(&'a Weights, u64)>,
}

impl<'a> Backbone<'a> {
    fn new(name: &'a str, registry: &'a Registry) -> Result<Self> {
        let sized = |weights: &'a Weights| Ok((weights, published(name, Some(weights))?.multiply_adds()?));
        let weights = registry.of(name).map(sized).collect::<Result<_>>()?;
        let graph = published(name, registry.find(name, regraft_hub::DEFAULT))?;
        let multiply_adds = graph.multiply_adds()?;
        Ok(Self { name, parameters: graph.parameter_count(), multiply_adds, weights })
    }

    fn write(&self, out: &mut impl Write, settings: &Settings) -> Result<()> {
        let params = self.parameters as f64 / 1e6;
        let start = |name: &str, products: u64| {
            format!("{:18} {name:14} {params:>6.1}M {:>6.2}", self.name, products as f64 / 1e9)
        };
        match Embedded::of(self.name) {
            Some(embedded) => {
                let mib = embedded.bytes.len() as f64 / f64::from(1 << 20);
                let (side, here) = (embedded.preprocessing()?.crop, "inside this program");
                let line = start("embedded*", self.multiply_adds);
                writeln!(out, "{line} {side:>5}  {:24} {mib:>4.0} MiB  {:13} {here}", "", "BSD-3-Clause")?;
            }
            None if self.weights.is_empty() => writeln!(out, "{}", start("-", self.multiply_adds))?,
            None => {}
        }
        for &(weights, products) in &self.weights {
            let name = weights.name.to_lowercase() + if weights.default { "*" } else { "" };
            let accuracy = format!("{:.2} {}", weights.accuracy, weights.metric);
            let line = format!(
                "{} {:>5}  {accuracy:24} {:>4.0} MiB  {:13} {}",
                start(&name, products),
                weights.crop,
                weights.mib(),
                weights.licence,
                cached(weights, settings)
            );
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    fn json(&self, settings: &Settings) -> Value {
        let weights = |&(weights, products): &(&Weights, u64)| {
            json!({
                "gmacs": products as f64 / 1e9,
                "name": weights.name.to_lowercase(),
                "default": weights.default,
                "metric": weights.metric,
                "accuracy": weights.accuracy,
                "resize": weights.resize,
                "crop": weights.crop,
                "interpolation": weights.interpolation.name(),
                "mean": weights.mean,
                "std": weights.std,
                "min_size": weights.min_size,
                "licence": weights.licence,
                "trained_on": weights.trained_on,
                "url": settings.url(weights),
                "sha256": weights.sha256,
                "mib": weights.mib(),
                "path": settings.path(weights),
                "cached": settings.cached(weights) == Cached::Whole,
            })
        };
        json!({
            "name": self.name,
            "parameters": self.parameters,
            "gmacs": self.multiply_adds as f64 / 1e9,
            "embedded": Embedded::of(self.name).is_some(),
            "weights": self.weights.iter().map(weights).collect::<Vec<_>>(),
        })
    }
}

/// The architecture as it was published, for pictures of the size that its weights were measured at.
fn published(name: &str, weights: Option<&Weights>) -> Result<Graph> {
    let graph = zoo::build(name, IMAGENET_CLASSES)?;
    Ok(match weights {
        Some(weights) => graph.with_input_shape(Shape::rgb(weights.crop as usize))?,
        None => graph,
    })
}

fn cached(weights: &Weights, settings: &Settings) -> String {
    match settings.cached(weights) {
        Cached::Whole => "yes".into(),
        Cached::Partial(bytes) => format!("{:.0}%", 100.0 * bytes as f64 / *weights.bytes().end() as f64),
        Cached::Damaged => "damaged".into(),
        Cached::Absent => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_as_large_as_published() {
        let registry = Registry::published();
        // Published numbers count Inception v3's auxiliary head, and the face network's thousands of people.
        let other_heads = ["inception_v3", "inception_resnet_v1"];
        let mut without = Vec::new();
        for &name in zoo::NAMES.iter().filter(|name| !other_heads.contains(name)) {
            let Some(weights) = registry.find(name, "default") else {
                without.push(name);
                continue;
            };
            let graph = published(name, Some(weights)).unwrap();
            assert_eq!(graph.parameter_count() as u64, weights.parameters, "{name}");
            let (found, expected) = (graph.multiply_adds().unwrap() as f64 / 1e9, weights.gmacs.unwrap());
            // Published to three places, some of them cut off.
            assert!((found - expected).abs() < 1.1e-3, "{name}: {found} and not {expected}");
        }
        // Who adds a network to the zoo sees here what is left.
        let missing: Vec<_> =
            registry.all().iter().filter(|weights| !zoo::NAMES.contains(&&*weights.backbone)).collect();
        let missing: Vec<_> = missing.iter().map(|weights| format!("{} {}", weights.backbone, weights.name)).collect();
        eprintln!("published, but not in the zoo: {}", missing.join(", "));
        eprintln!("in the zoo, but not published: {}", without.join(", "));
    }
}

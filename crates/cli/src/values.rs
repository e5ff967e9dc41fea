//! Values of arguments that are no settings of a run.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, PossibleValue, PossibleValuesParser, RangedI64ValueParser, TypedValueParser};
use regraft::{Backbone, Choice, WeightSpec};
use regraft_data::Preprocessing;
use regraft_graph::zoo;

use crate::flags::with_flags;

/// The largest seed that a settings file can hold: TOML's integers have a sign.
pub const MAX_SEED: u64 = i64::MAX as u64;

/// The most threads that can be asked for: far above any machine's cores, far below what a system refuses.
pub const MAX_THREADS: i64 = 1024;

/// The word for the embedded backbone.
pub const AUTO: &str = "auto";

/// Names that are suggested for one that does not exist.
const SUGGESTIONS: usize = 4;

/// Parses an architecture's name, or that of an ONNX file.
pub fn backbone(text: &str) -> Result<String, String> {
    if zoo::NAMES.contains(&text) || Backbone::from(text).onnx_file().is_some() {
        return Ok(text.into());
    }
    let mut near: Vec<(f64, &str)> =
        zoo::NAMES.iter().map(|&name| (strsim::jaro_winkler(name, &text.to_lowercase()), name)).collect();
    near.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let near: Vec<&str> = near.into_iter().take(SUGGESTIONS).map(|(_, name)| name).collect();
    Err(format!("there is no backbone {text}; similar ones are {}; regraft backbones lists all", near.join(", ")))
}

/// The same, or [`AUTO`].
pub fn backbone_or_auto(text: &str) -> Result<String, String> {
    if text == AUTO { Ok(text.into()) } else { backbone(text) }
}

/// A parser of what a network starts from.
pub fn weights() -> impl TypedValueParser<Value = WeightSpec> {
    OsStringValueParser::new().map(WeightSpec::from)
}

/// Parses a backbone's name with what it starts from: its default weights, unless `=` and something else follows.
pub fn backbone_and_weights(text: &str) -> Result<(String, WeightSpec), String> {
    if Backbone::from(text).onnx_file().is_some() {
        return Ok((text.into(), WeightSpec::default()));
    }
    let (name, weights) = text.split_once('=').map_or((text, None), |(name, weights)| (name, Some(weights)));
    let name = backbone(name)?;
    match weights {
        Some("") => Err(format!("after {name}= there must be a file, or the name of published weights")),
        Some(weights) => Ok((name, WeightSpec::from(weights))),
        None => Ok((name, WeightSpec::default())),
    }
}

/// A parser of one of a few names, each with a sentence of help.
pub fn names(choices: &[(&'static str, &'static str)]) -> PossibleValuesParser {
    choices.iter().map(|(name, help)| PossibleValue::new(*name).help(with_flags(help))).collect::<Vec<_>>().into()
}

/// A parser of a value that has a name.
pub fn choice<T: Choice + Send + Sync>() -> impl TypedValueParser<Value = T> {
    names(T::CHOICES).map(|name| T::from_name(&name).expect("clap lets no other name pass"))
}

/// A teacher.
#[derive(Clone, Debug)]
pub enum TeacherArg {
    /// A backbone and its weights.
    Backbone(String, WeightSpec),
    /// A model file.
    Model(PathBuf),
}

/// Parses a backbone's name as [`backbone_and_weights`], or the name of a model file.
pub fn teacher(text: &str) -> Result<TeacherArg, String> {
    if !text.contains('=') && text.ends_with(".safetensors") {
        return Ok(TeacherArg::Model(text.into()));
    }
    backbone_and_weights(text).map(|(backbone, weights)| TeacherArg::Backbone(backbone, weights))
}

/// A parser of finite numbers for which `holds`; `allowed` says which those are.
pub fn number(
    holds: fn(f64) -> bool,
    allowed: &'static str,
) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|&x: &f64| x.is_finite() && holds(x));
        number.ok_or_else(|| format!("it must be a number {allowed}"))
    }
}

/// A parser of positive numbers.
pub fn positive() -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    number(|x| x > 0.0, "above 0")
}

/// A parser of numbers that are not negative.
pub fn not_negative() -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    number(|x| x >= 0.0, "of at least 0")
}

/// Parses a count.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "it must be a whole number of at least 1".into())
}

/// A parser of an image's side.
pub fn pixels() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(Preprocessing::MAX_SIDE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backbone_suggests_similar_names() {
        assert_eq!(backbone("resnet18").as_deref(), Ok("resnet18"));
        assert_eq!(backbone("a/b.onnx").as_deref(), Ok("a/b.onnx"));
        let message = backbone("resnet-18").unwrap_err();
        assert!(message.contains("resnet18") && message.len() < 200, "{message}");
        assert!(backbone_and_weights("mobilenetv2=x.pth").unwrap_err().contains("mobilenet_v2"));
    }
}

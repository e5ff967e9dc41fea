//! Values of flags: read, and checked against what is allowed, so that the message names the flag.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, PossibleValue, PossibleValuesParser, RangedI64ValueParser, TypedValueParser};
use clap::{Arg, Command};
use regraft::Backbone;
use regraft_data::Preprocessing;
use regraft_graph::zoo;

use regraft::WeightSpec;

/// The largest seed that `config.toml` can hold: TOML's integers have a sign.
pub const MAX_SEED: u64 = i64::MAX as u64;

/// The most threads that can be asked for: far above any machine's cores, far below what a system refuses.
pub const MAX_THREADS: i64 = 1024;

/// A parser of an architecture's name, or that of an ONNX file.
pub fn backbone() -> impl TypedValueParser<Value = String> {
    BackboneParser(PossibleValuesParser::new(zoo::NAMES))
}

/// The word for the backbone that is inside the program.
pub const AUTO: &str = "auto";

/// The same, or [`AUTO`].
pub fn backbone_or_auto() -> impl TypedValueParser<Value = String> {
    BackboneParser(PossibleValuesParser::new([AUTO].iter().chain(zoo::NAMES)))
}

#[derive(Clone)]
struct BackboneParser(PossibleValuesParser);

impl TypedValueParser for BackboneParser {
    type Value = String;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<String, clap::Error> {
        match value.to_str() {
            Some(text) if Backbone::from(text).onnx_file().is_some() => Ok(text.to_owned()),
            _ => self.0.parse_ref(command, arg, value),
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        self.0.possible_values()
    }
}

/// A parser of what a network starts from.
pub fn weights() -> impl TypedValueParser<Value = WeightSpec> {
    OsStringValueParser::new().map(WeightSpec::from)
}

/// Parses a backbone's name with what it starts from: its default weights, unless `=` and something else follows.
pub fn backbone_and_weights(text: &str) -> Result<(String, WeightSpec), String> {
    if Backbone::from(text).onnx_file().is_some() {
        return Ok((text.into(), WeightSpec::Named(regraft_hub::DEFAULT.into())));
    }
    let (name, weights) = text.split_once('=').unwrap_or((text, regraft_hub::DEFAULT));
    if !zoo::NAMES.contains(&name) {
        return Err(format!("there is no backbone {name}; regraft backbones lists them"));
    }
    if weights.is_empty() {
        return Err(format!("after {name}= there must be a file, or the name of published weights"));
    }
    Ok((name.into(), WeightSpec::from(std::ffi::OsString::from(weights))))
}

/// Who is learned from.
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
    backbone_and_weights(text).map(|(backbone, choice)| TeacherArg::Backbone(backbone, choice))
}

/// A parser of finite numbers for which `fine` holds; `allowed` says which those are.
pub fn number(
    fine: fn(f64) -> bool,
    allowed: &'static str,
) -> impl Fn(&str) -> Result<f64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|&x: &f64| x.is_finite() && fine(x));
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

/// A parser of a picture's side.
pub fn pixels() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(Preprocessing::MAX_SIDE))
}

//! Values of flags: read, and checked against what is allowed, so that the message names the flag.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{OsStringValueParser, PossibleValue, PossibleValuesParser, RangedI64ValueParser, TypedValueParser};
use clap::{Arg, Command};
use regraft::{Backbone, ClassWeights};
use regraft_data::{Augmentation, ColorJitter, Preprocessing};
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

/// Parses three numbers, for red, green and blue.
pub fn colors(text: &str) -> Result<[f32; 3], String> {
    let found = numbers::<f32>(text).and_then(|list| <[f32; 3]>::try_from(list).ok());
    let found = found.filter(|list| list.iter().all(|x| x.is_finite()));
    found.ok_or_else(|| "it must be three numbers, for red, green and blue, such as 0.485,0.456,0.406".into())
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

/// Parses a length of time, such as `90s`, `10m`, `1h30m` or a number of seconds, into seconds.
pub fn seconds(text: &str) -> Result<f64, String> {
    let wrong = || "it must be a length of time, such as 90s, 10m or 1h30m".to_string();
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(seconds.into());
    }
    let (mut total, mut rest) = (0.0, text);
    // Each unit at most once, the longest first.
    for (unit, seconds) in [('h', 3600.0), ('m', 60.0), ('s', 1.0)] {
        if let Some((number, after)) = rest.split_once(unit) {
            total += number.parse::<u32>().map_err(|_| wrong())? as f64 * seconds;
            rest = after;
        }
    }
    if rest.is_empty() && !text.is_empty() { Ok(total) } else { Err(wrong()) }
}

/// Parses a count.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "it must be a whole number of at least 1".into())
}

/// A parser of a picture's side.
pub fn pixels() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(Preprocessing::MAX_SIDE))
}

/// Parses `uniform`, `balanced` or positive numbers with commas between them.
pub fn class_weights(text: &str) -> Result<ClassWeights, String> {
    match text {
        "uniform" => Ok(ClassWeights::Uniform),
        "balanced" => Ok(ClassWeights::Balanced),
        list => numbers::<f32>(list)
            .filter(|weights| weights.iter().all(|&weight| weight.is_finite() && weight > 0.0))
            .map(ClassWeights::Given)
            .ok_or_else(|| "it must be uniform, balanced or positive numbers with commas, such as 1,2.5".into()),
    }
}

/// Parses the strengths of brightness, contrast, saturation and hue.
pub fn color_jitter(text: &str) -> Result<ColorJitter, String> {
    let Some(&[brightness, contrast, saturation, hue]) = numbers::<f64>(text).as_deref() else {
        return Err("it must be four numbers, such as 0.4,0.4,0.4,0.1".into());
    };
    let jitter = ColorJitter { brightness, contrast, saturation, hue };
    let augmentation = Augmentation { color_jitter: Some(jitter), ..Augmentation::default() };
    augmentation.validate().map_err(|error| error.to_string())?;
    Ok(jitter)
}

/// Numbers with commas between them.
fn numbers<T: FromStr>(text: &str) -> Option<Vec<T>> {
    text.split(',').map(|part| part.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read() {
        for (text, expected) in
            [("0", 0.0), ("45", 45.0), ("90s", 90.0), ("10m", 600.0), ("1h30m", 5400.0), ("2h5s", 7205.0)]
        {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "m", "1m2h", "ten", "-5m", "1.5h", "10mm", "5 m"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}

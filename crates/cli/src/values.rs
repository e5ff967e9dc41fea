//! Values of flags: read, and checked against what is allowed, so that the message names the flag.

use std::str::FromStr;

use clap::builder::{OsStringValueParser, PossibleValuesParser, RangedI64ValueParser, TypedValueParser};
use regraft_data::{Augmentation, ColorJitter, Preprocessing};
use regraft_graph::zoo;
use regraft_transfer::ClassWeights;

use crate::weights::Choice;

/// The largest seed that `config.toml` can hold: TOML's integers have a sign.
pub const MAX_SEED: u64 = i64::MAX as u64;

/// The most threads that can be asked for: far above any machine's cores, far below what a system refuses.
pub const MAX_THREADS: i64 = 1024;

/// A parser of an architecture's name.
pub fn backbone() -> PossibleValuesParser {
    PossibleValuesParser::new(zoo::NAMES)
}

/// A parser of what a network starts from.
pub fn weights() -> impl TypedValueParser<Value = Choice> {
    OsStringValueParser::new().map(Choice::from)
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

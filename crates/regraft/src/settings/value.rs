//! Values of settings: from text and to text, for people, command lines and `config.toml`.

use std::str::FromStr;

use regraft_data::{Augmentation, ColorJitter};
use toml::Value;

use crate::{ClassWeights, Head};

/// A type that settings have.
pub(crate) trait SettingValue: Sized {
    /// What help calls a value.
    const VALUE_NAME: &'static str;

    /// The values there are, each with a sentence of help; empty if there are too many.
    const CHOICES: &'static [(&'static str, &'static str)] = &[];

    /// Whether it is on or off.
    const IS_FLAG: bool = false;

    /// Whether it is several numbers with commas between them.
    const IS_LIST: bool = false;

    /// Reads a value. The error says what it must be: `it must be ...`.
    fn parse(text: &str) -> Result<Self, String>;

    /// The value as [`parse`](Self::parse) reads it; empty where it is absent.
    fn text(&self) -> String;

    /// The absent value, if the type has one.
    fn absent() -> Option<Self> {
        None
    }

    /// The numbers in the value, which the setting's range is about.
    fn numbers(&self) -> Vec<f64> {
        Vec::new()
    }

    /// The value in a TOML file; absent where it is.
    fn toml(&self) -> Option<Value> {
        Some(Value::String(self.text()))
    }
}

macro_rules! numbers {
    ($($ty:ty: $name:literal, $what:literal, $number:expr, $toml:expr;)+) => {$(
        impl SettingValue for $ty {
            const VALUE_NAME: &'static str = $name;

            fn parse(text: &str) -> Result<Self, String> {
                let number = text.trim().parse::<$ty>().ok().filter(|&x| $number(x).is_finite());
                number.ok_or_else(|| format!("it must be {}", $what))
            }

            fn text(&self) -> String {
                self.to_string()
            }

            fn numbers(&self) -> Vec<f64> {
                vec![$number(*self)]
            }

            fn toml(&self) -> Option<Value> {
                Some($toml(*self))
            }
        }
    )+};
}

/// A whole number; infinite, which no setting may be, if TOML cannot hold it.
fn whole(value: impl TryInto<i64>) -> f64 {
    value.try_into().map_or(f64::INFINITY, |value| value as f64)
}

fn integer(value: impl TryInto<i64>) -> Value {
    Value::Integer(value.try_into().unwrap_or(i64::MAX))
}

numbers! {
    f64: "NUMBER", "a number", |x| x, Value::Float;
    usize: "N", "a whole number", whole, integer;
    u64: "N", "a whole number below 2^63", whole, integer;
    u32: "N", "a whole number", whole, integer;
    u8: "N", "a whole number", whole, integer;
}

impl SettingValue for bool {
    const VALUE_NAME: &'static str = "BOOL";
    const IS_FLAG: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| "it must be true or false".into())
    }

    fn text(&self) -> String {
        self.to_string()
    }

    fn toml(&self) -> Option<Value> {
        Some(Value::Boolean(*self))
    }
}

impl SettingValue for String {
    const VALUE_NAME: &'static str = "LAYER";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("it must be the name of a layer".into()) } else { Ok(text.into()) }
    }

    fn text(&self) -> String {
        self.clone()
    }
}

impl<T: SettingValue> SettingValue for Option<T> {
    const VALUE_NAME: &'static str = T::VALUE_NAME;
    const CHOICES: &'static [(&'static str, &'static str)] = T::CHOICES;
    const IS_LIST: bool = T::IS_LIST;

    fn parse(text: &str) -> Result<Self, String> {
        T::parse(text).map(Some)
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn text(&self) -> String {
        self.as_ref().map_or(String::new(), T::text)
    }

    fn numbers(&self) -> Vec<f64> {
        self.as_ref().map_or_else(Vec::new, T::numbers)
    }

    fn toml(&self) -> Option<Value> {
        self.as_ref().and_then(T::toml)
    }
}

impl SettingValue for Head {
    const VALUE_NAME: &'static str = "HEAD";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// Numbers with commas between them.
fn list<T: FromStr>(text: &str) -> Option<Vec<T>> {
    text.split(',').map(|part| part.trim().parse().ok()).collect()
}

fn joined<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(",")
}

impl SettingValue for [f32; 3] {
    const VALUE_NAME: &'static str = "R,G,B";
    const IS_LIST: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        let found = list::<f32>(text).and_then(|list| <[f32; 3]>::try_from(list).ok());
        let found = found.filter(|list| list.iter().all(|x| x.is_finite()));
        found.ok_or_else(|| "it must be three numbers, for red, green and blue, such as 0.485,0.456,0.406".into())
    }

    fn text(&self) -> String {
        joined(self)
    }

    fn numbers(&self) -> Vec<f64> {
        self.iter().map(|&x| x.into()).collect()
    }
}

impl SettingValue for ClassWeights {
    const VALUE_NAME: &'static str = "WEIGHTS";
    const IS_LIST: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "uniform" => Ok(Self::Uniform),
            "balanced" => Ok(Self::Balanced),
            weights => list::<f32>(weights)
                .filter(|weights| weights.iter().all(|&weight| weight.is_finite() && weight > 0.0))
                .map(Self::Given)
                .ok_or_else(|| "it must be uniform, balanced or positive numbers with commas, such as 1,2.5".into()),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Uniform => "uniform".into(),
            Self::Balanced => "balanced".into(),
            Self::Given(weights) => joined(weights),
        }
    }
}

impl SettingValue for ColorJitter {
    const VALUE_NAME: &'static str = "B,C,S,H";
    const IS_LIST: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        let Some(&[brightness, contrast, saturation, hue]) = list::<f64>(text).as_deref() else {
            return Err("it must be four numbers, such as 0.4,0.4,0.4,0.1".into());
        };
        let jitter = ColorJitter { brightness, contrast, saturation, hue };
        let augmentation = Augmentation { color_jitter: Some(jitter), ..Augmentation::default() };
        augmentation.validate().map(|()| jitter).map_err(|error| error.to_string())
    }

    fn text(&self) -> String {
        joined([self.brightness, self.contrast, self.saturation, self.hue])
    }
}

/// A length of time in seconds. As text a number of seconds, or `90s`, `10m`, `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seconds(pub f64);

impl SettingValue for Seconds {
    const VALUE_NAME: &'static str = "TIME";

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "it must be a length of time, such as 90s, 10m or 1h30m".to_string();
        if let Ok(seconds) = text.parse::<f64>() {
            return if seconds.is_finite() && seconds >= 0.0 { Ok(Self(seconds)) } else { Err(wrong()) };
        }
        let (mut total, mut rest) = (0.0, text);
        // Each unit at most once, the longest first.
        for (unit, seconds) in [('h', 3600.0), ('m', 60.0), ('s', 1.0)] {
            if let Some((number, after)) = rest.split_once(unit) {
                total += number.parse::<u32>().map_err(|_| wrong())? as f64 * seconds;
                rest = after;
            }
        }
        if rest.is_empty() && !text.is_empty() { Ok(Self(total)) } else { Err(wrong()) }
    }

    fn text(&self) -> String {
        if self.0 > 0.0 && self.0 % 60.0 == 0.0 { format!("{}m", self.0 / 60.0) } else { format!("{}s", self.0) }
    }

    fn numbers(&self) -> Vec<f64> {
        vec![self.0]
    }

    fn toml(&self) -> Option<Value> {
        Some(Value::Float(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_parse_units() {
        for (text, expected) in
            [("0", 0.0), ("45", 45.0), ("90s", 90.0), ("10m", 600.0), ("1h30m", 5400.0), ("2h5s", 7205.0)]
        {
            assert_eq!(Seconds::parse(text), Ok(Seconds(expected)), "{text}");
        }
        for text in ["", "m", "1m2h", "ten", "-5m", "-5", "1.5h", "10mm", "5 m", "inf"] {
            assert!(Seconds::parse(text).is_err(), "{text}");
        }
        for seconds in [0.0, 45.0, 600.0, 90.5] {
            let text = Seconds(seconds).toml().unwrap().to_string();
            assert_eq!(Seconds::parse(&text), Ok(Seconds(seconds)));
        }
        assert_eq!(Seconds(600.0).text(), "10m");
    }

    #[test]
    fn values_round_trip_as_text() {
        fn check<T: SettingValue + PartialEq + std::fmt::Debug>(value: T) {
            assert_eq!(T::parse(&value.text()), Ok(value));
        }
        check(0.1 + 0.2);
        check([0.485f32, 0.456, 0.406]);
        check(ClassWeights::Given(vec![0.5, 2.0]));
        check(ClassWeights::Balanced);
        check(ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 });
        check("conv:256,fc:128".parse::<Head>().unwrap());
        check(Some(7usize));
    }

    #[test]
    fn values_say_what_they_must_be() {
        assert!(f64::parse("x").unwrap_err().contains("must be a number"));
        assert!(usize::parse("-1").unwrap_err().contains("whole number"));
        assert!(<[f32; 3]>::parse("1,2").unwrap_err().contains("three numbers"));
        assert!(ClassWeights::parse("1,-2").unwrap_err().contains("positive numbers"));
        assert!(ColorJitter::parse("0,0,0,0.6").unwrap_err().contains("hue"));
        assert_eq!(u64::parse("9223372036854775807"), Ok(i64::MAX as u64));
        assert!(u64::parse("9223372036854775808").unwrap_err().contains("below 2^63"));
    }
}

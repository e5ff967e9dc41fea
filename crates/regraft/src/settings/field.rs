//! What is known about a setting besides its value.

use std::path::PathBuf;

use super::Settings;
use crate::{Backbone, Error, Mode, Result};

/// The values that a numeric setting may have.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    /// In words: `it must be ...`.
    pub allowed: &'static str,
    pub holds: fn(f64) -> bool,
}

/// When a setting has an effect.
#[derive(Clone, Copy)]
pub(crate) struct Condition {
    /// What it goes with, settings in backquotes.
    pub goes_with: &'static str,
    pub holds: fn(&Settings) -> bool,
}

/// A setting: its name, its help, and how it is read and checked. Command lines, keyword arguments and files derive from
/// [`FIELDS`](super::FIELDS).
pub struct Field {
    /// Name in code, in files and in messages.
    pub name: &'static str,
    /// Section that it belongs to.
    pub section: &'static str,
    /// Title of the section.
    pub title: &'static str,
    /// One sentence of help.
    pub help: &'static str,
    /// What help calls its value.
    pub value_name: &'static str,
    /// The values there are, each with a sentence of help; empty if there are too many.
    pub choices: &'static [(&'static str, &'static str)],
    /// Whether it is on or off.
    pub is_flag: bool,
    /// Whether it is several numbers with commas between them.
    pub is_list: bool,
    pub(super) range: Range,
    pub(super) conditions: &'static [Condition],
    /// What help says of the default, where a value for each mode does not say it.
    pub(super) default_text: Option<fn() -> String>,
    pub(super) set: fn(&mut Settings, &str) -> std::result::Result<(), String>,
    pub(super) clear: fn(&mut Settings),
    pub(super) text: fn(&Settings) -> String,
    pub(super) numbers: fn(&Settings) -> Vec<f64>,
    pub(super) toml: fn(&Settings) -> Option<toml::Value>,
}

impl Field {
    /// Its default for people: the same in all modes, or that of each mode which differs; settings in backquotes. Empty where
    /// there is none.
    pub fn default_text(&self) -> String {
        if let Some(text) = self.default_text {
            return text();
        }
        let of = |mode| (self.text)(&Settings::new(PathBuf::new(), Backbone::embedded(), mode));
        let base = of(Mode::Finetune);
        let differs = |mode: Mode| Some(of(mode)).filter(|text| *text != base).map(|text| (mode, text));
        let others = [Mode::Auto, Mode::Probe, Mode::Frozen].into_iter().filter_map(differs);
        let others: Vec<String> = others.map(|(mode, text)| format!("{text} with `mode` {mode}")).collect();
        match (base.is_empty(), others.is_empty()) {
            (_, true) => base,
            (true, false) => others.join(", "),
            (false, false) => format!("{base}; {}", others.join(", ")),
        }
    }

    /// Checks a value's range.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub(super) fn check(&self, settings: &Settings) -> Result<()> {
        if (self.numbers)(settings).into_iter().all(|number| number.is_finite() && (self.range.holds)(number)) {
            return Ok(());
        }
        let allowed = format!("it must be {}", self.range.allowed);
        Err(Error::Setting { field: self.name, value: (self.text)(settings), allowed })
    }

    /// Checks a text that is to become its value, without the other settings.
    ///
    /// # Errors
    /// [`Error::Setting`].
    pub fn check_text(&self, text: &str) -> Result<()> {
        Settings::new(PathBuf::new(), Backbone::embedded(), Mode::default()).set(self.name, text)
    }

    /// What it goes with, if it has no effect beside the other settings.
    pub fn idle(&self, settings: &Settings) -> Option<&'static str> {
        self.conditions.iter().find(|condition| !(condition.holds)(settings)).map(|condition| condition.goes_with)
    }
}

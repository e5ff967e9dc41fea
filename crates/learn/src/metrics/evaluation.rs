//! The result of an evaluation, whatever was asked.

use std::fmt::{Display, Formatter, Result};

use serde::{Deserialize, Serialize};

use super::{ClassEvaluation, LabelEvaluation, ValueEvaluation};

/// What an evaluation found. The JSON is that of what it holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Evaluation {
    /// Every sample is of one class.
    Classes(ClassEvaluation),
    /// A sample has any number of labels.
    Labels(LabelEvaluation),
    /// Every sample has a number.
    Values(ValueEvaluation),
}

impl Display for Evaluation {
    fn fmt(&self, f: &mut Formatter) -> Result {
        match self {
            Self::Classes(evaluation) => evaluation.fmt(f),
            Self::Labels(evaluation) => evaluation.fmt(f),
            Self::Values(evaluation) => evaluation.fmt(f),
        }
    }
}

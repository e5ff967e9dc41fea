//! What is asked about a photo, and what the right answer is.

use serde::{Deserialize, Serialize};

/// What is asked about every photo.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Which of the classes is it?
    #[default]
    Classes,
    /// Which of the labels does it have? Any number of them, or none.
    Labels,
    /// What number belongs to it?
    Value,
}

/// The right answer for a photo.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// The index of its class.
    Class(usize),
    /// The indices of its labels, ascending.
    Labels(Vec<usize>),
    /// Its number.
    Value(f64),
}

impl Target {
    /// The classes or labels that the photo counts for; none for a number.
    pub fn indices(&self) -> &[usize] {
        match self {
            Target::Class(class) => std::slice::from_ref(class),
            Target::Labels(labels) => labels,
            Target::Value(_) => &[],
        }
    }

    /// The answer as bytes to hash: different for different answers.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let number = |n: usize| (n as u64).to_le_bytes();
        match self {
            Target::Class(class) => number(*class).to_vec(),
            // A class has eight bytes; so that no set of labels looks like one, its size comes first.
            Target::Labels(labels) => {
                std::iter::once(labels.len()).chain(labels.iter().copied()).flat_map(number).chain([b'l']).collect()
            }
            Target::Value(value) => value.to_bits().to_le_bytes().into_iter().chain([b'v']).collect(),
        }
    }
}

//! What a look at the data found that a person should know, though the work can go on.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// What kind of thing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A hidden or system file or folder, passed over.
    Hidden,
    /// A file that is not an image, or an image of a format that cannot be read; passed over.
    NotAnImage,
    /// A folder without photos; not a class.
    EmptyFolder,
    /// A photo that cannot be decoded; left out.
    Unreadable,
    /// A choice made about the layout of the folders, or a class with little to go on.
    Layout,
}

/// One thing found, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of thing.
    pub kind: FindingKind,
    /// Where; written with replacement characters where it is not UTF-8.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// What was found and what became of it.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.message)
    }
}

/// All that was found, in the order of discovery: folders and files by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Findings {
    /// The findings.
    pub items: Vec<Finding>,
}

impl Findings {
    /// How many findings are of this kind.
    pub fn count(&self, kind: FindingKind) -> usize {
        self.items.iter().filter(|finding| finding.kind == kind).count()
    }

    /// Appends what another look found.
    pub fn extend(&mut self, other: Self) {
        self.items.extend(other.items);
    }

    pub(crate) fn add(&mut self, kind: FindingKind, path: &Path, message: impl Into<String>) {
        self.items.push(Finding { kind, path: path.to_owned(), message: message.into() });
    }
}

fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

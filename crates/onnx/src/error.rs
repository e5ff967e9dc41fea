//! What can be wrong with an ONNX file.

use std::fmt::Write;
use std::io;
use std::path::PathBuf;

/// Why a file could not be turned into a network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system would not let a file be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The file is no ONNX file, or damaged.
    #[error("{} is no whole ONNX file: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file is an ONNX file, but not that of a network from pictures.
    #[error("{} cannot be used: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Some of its nodes have no counterpart here.
    #[error("{}", describe(path, nodes))]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Every such node.
        nodes: Vec<UnsupportedNode>,
    },
}

/// A node that has no counterpart here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedNode {
    /// Its operator.
    pub op: String,
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// How many nodes of one kind a message names before it only counts.
const NAMES_SHOWN: usize = 3;

/// All nodes, those of one operator with one reason together.
fn describe(path: &std::path::Path, nodes: &[UnsupportedNode]) -> String {
    let mut kinds: Vec<(&UnsupportedNode, Vec<&str>)> = Vec::new();
    for node in nodes {
        match kinds.iter_mut().find(|(first, _)| (&first.op, &first.reason) == (&node.op, &node.reason)) {
            Some((_, names)) => names.push(&node.name),
            None => kinds.push((node, vec![&node.name])),
        }
    }
    let mut text = format!("{} has {} node(s) that cannot be taken over:", path.display(), nodes.len());
    for (node, names) in &kinds {
        let more = match names.len().saturating_sub(NAMES_SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let shown = names[..names.len().min(NAMES_SHOWN)].join(", ");
        write!(text, "\n  {} x {} ({shown}{more}): {}", names.len(), node.op, node.reason)
            .expect("writing to a string cannot fail");
    }
    write!(text, "\nsupported operators: {}", crate::SUPPORTED.join(", ")).expect("writing to a string cannot fail");
    text
}

/// A fault found below the level that knows the file's path.
#[derive(Debug)]
pub(crate) enum Problem {
    Read(PathBuf, io::Error),
    Malformed(String),
    Refused(String),
    Unsupported(Vec<UnsupportedNode>),
}

impl Problem {
    pub fn at(self, path: &std::path::Path) -> Error {
        let path = path.to_owned();
        match self {
            Self::Read(path, source) => Error::Read { path, source },
            Self::Malformed(reason) => Error::Malformed { path, reason },
            Self::Refused(reason) => Error::Refused { path, reason },
            Self::Unsupported(nodes) => Error::Unsupported { path, nodes },
        }
    }
}

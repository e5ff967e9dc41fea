//! Which network is grafted on.

use std::fmt;
use std::path::{Path, PathBuf};

use regraft_graph::{Graph, Shape, zoo};
use serde::{Deserialize, Serialize};

use crate::network::onnx;
use crate::{Embedded, Error, Result};

/// A network to graft on: an architecture of the zoo, or a user-supplied one.
///
/// As text (in settings and on the command line) it is the architecture's name or the file's path; everything that ends
/// in `.onnx` is a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Backbone {
    /// An architecture by torchvision's name. Whether there is one of that name is checked when its graph is built.
    Zoo(String),
    /// An ONNX file with the network and its weights.
    Onnx(PathBuf),
}

impl Backbone {
    /// The backbone whose weights are inside the program.
    pub fn embedded() -> Self {
        Self::Zoo(Embedded::ROOTSTOCK.backbone.into())
    }

    /// The architecture's name, if it is of the zoo.
    pub fn zoo_name(&self) -> Option<&str> {
        match self {
            Self::Zoo(name) => Some(name),
            Self::Onnx(_) => None,
        }
    }

    /// The ONNX file, if it is one.
    pub fn onnx_file(&self) -> Option<&Path> {
        match self {
            Self::Zoo(_) => None,
            Self::Onnx(path) => Some(path),
        }
    }

    /// The network with the head it was published with, for square images of `size` pixels; for those it was published
    /// for if absent.
    ///
    /// # Errors
    /// [`Error::Graph`] for an unknown name, [`Error::Onnx`] for a file that cannot be read, [`Error::Setting`] for a size
    /// that the network cannot take.
    pub fn graph(&self, size: Option<u32>) -> Result<Graph> {
        let name = match self {
            Self::Onnx(path) => return Ok(onnx::network(path, size)?.graph),
            Self::Zoo(name) => name,
        };
        let graph = zoo::build(name, 1000)?;
        let Some(size) = size else { return Ok(graph) };
        graph.with_input_shape(Shape::rgb(size as usize)).map_err(|error| Error::Setting {
            field: "imgsz",
            value: size.to_string(),
            allowed: format!("it does not go with {name}: {error}"),
        })
    }
}

impl From<&str> for Backbone {
    fn from(text: &str) -> Self {
        let path = Path::new(text);
        match path.extension() {
            Some(ending) if ending.eq_ignore_ascii_case("onnx") => Self::Onnx(path.into()),
            _ => Self::Zoo(text.into()),
        }
    }
}

impl From<String> for Backbone {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<Backbone> for String {
    fn from(backbone: Backbone) -> Self {
        backbone.to_string()
    }
}

impl fmt::Display for Backbone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zoo(name) => f.write_str(name),
            Self::Onnx(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backbone_is_a_file_if_it_ends_in_onnx() {
        assert_eq!(Backbone::from("folder/Net.ONNX"), Backbone::Onnx("folder/Net.ONNX".into()));
        for name in ["resnet18", "onnx"] {
            assert_eq!(Backbone::from(name), Backbone::Zoo(name.into()));
        }
        for text in ["resnet18", "/a/b.onnx"] {
            assert_eq!(Backbone::from(text).to_string(), text);
        }
    }

    #[test]
    fn backbone_graph_refuses_a_size_it_cannot_take() {
        let message = Backbone::from("vgg16").graph(Some(20)).err().unwrap().to_string();
        assert!(message.contains("`imgsz` is 20") && message.contains("larger images"), "{message}");
    }
}

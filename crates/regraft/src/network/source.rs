//! What a backbone starts from, and the embedded weights.

use std::fmt;
use std::path::{Path, PathBuf};

use regraft_data::Preprocessing;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What a backbone starts from. As text, `embedded` or a file's path; absent for random values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Option<PathBuf>", into = "Option<PathBuf>")]
pub enum Source {
    /// Random values from the seed.
    #[default]
    Random,
    /// The embedded weights.
    Embedded,
    /// A file.
    File(PathBuf),
}

/// The text for [`Source::Embedded`]. Settings hold absolute paths, so no file has this name.
const EMBEDDED: &str = "embedded";

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Random => f.write_str("random"),
            Self::Embedded => f.write_str(EMBEDDED),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Source {
    /// Whether the values are random.
    pub fn is_random(&self) -> bool {
        *self == Self::Random
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Random | Self::Embedded => None,
        }
    }
}

impl From<Option<PathBuf>> for Source {
    fn from(path: Option<PathBuf>) -> Self {
        match path {
            None => Self::Random,
            Some(path) if path == Path::new(EMBEDDED) => Self::Embedded,
            Some(path) => Self::File(path),
        }
    }
}

impl From<Source> for Option<PathBuf> {
    fn from(source: Source) -> Self {
        match source {
            Source::Random => None,
            Source::Embedded => Some(EMBEDDED.into()),
            Source::File(path) => Some(path),
        }
    }
}

/// Weights that are part of the program.
#[derive(Clone, Copy, Debug)]
pub struct Embedded {
    /// Name of the architecture.
    pub backbone: &'static str,
    /// The safetensors file.
    pub bytes: &'static [u8],
}

/// The bytes of [`Embedded::ROOTSTOCK`]. A static array, because bytes behind a reference may be duplicated for each use.
static ROOTSTOCK: [u8; include_bytes!("../../embedded/rootstock.safetensors").len()] =
    *include_bytes!("../../embedded/rootstock.safetensors");

impl Embedded {
    /// The project's own backbone, distilled by Regraft; its metadata say from what.
    pub const ROOTSTOCK: Self = Self { backbone: "rootstock", bytes: &ROOTSTOCK };

    /// The weights of an architecture, if they are embedded.
    pub fn of(backbone: &str) -> Option<Self> {
        (backbone == Self::ROOTSTOCK.backbone).then_some(Self::ROOTSTOCK)
    }

    /// How images are prepared for them.
    ///
    /// # Errors
    /// [`Error::Weights`] or [`Error::File`] if the program was built with other bytes.
    pub fn preprocessing(self) -> Result<Preprocessing> {
        let (_, metadata) = regraft_weights::parse_safetensors(self.bytes)?;
        let wrong = |reason: String| Error::File { path: "the weights inside this program".into(), reason };
        let text = metadata.get("preprocessing").ok_or_else(|| wrong("do not say how photos are prepared".into()))?;
        serde_json::from_str(text).map_err(|e| wrong(format!("do not say how photos are prepared: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pretrained;

    #[test]
    fn source_text_round_trips() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Settings {
            #[serde(default, skip_serializing_if = "Source::is_random")]
            weights: Source,
        }
        for (weights, text) in [
            (Source::Random, ""),
            (Source::Embedded, "weights = \"embedded\"\n"),
            (Source::File("/a/b.pth".into()), "weights = \"/a/b.pth\"\n"),
        ] {
            let settings = Settings { weights };
            assert_eq!(toml::to_string(&settings).unwrap(), text);
            assert_eq!(toml::from_str::<Settings>(text).unwrap(), settings);
        }
    }

    #[test]
    fn embedded_weights_fit_their_backbone() {
        let Embedded { backbone, bytes } = Embedded::ROOTSTOCK;
        assert!(bytes.len() <= 4 << 20, "{} bytes", bytes.len());
        let preprocessing = Embedded::ROOTSTOCK.preprocessing().unwrap();
        preprocessing.validate().unwrap();
        let loaded = Pretrained::load(&backbone.into(), &Source::Embedded, preprocessing.crop, 0).unwrap();
        assert_eq!(loaded.weights_sha256, Some(regraft_io::sha256(bytes)));
        assert!(!loaded.batch_norms_are_folded(), "fine-tuning starts from batch norms that can learn");
        let (_, metadata) = regraft_weights::parse_safetensors(bytes).unwrap();
        assert!(metadata["distilled"].contains("teachers"), "where it comes from: {metadata:?}");
        assert!(Embedded::of("resnet18").is_none());
    }
}

//! The registry: facts about every published file of weights.

use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

use regraft_io::{Sha256, read_bounded};
use serde::Deserialize;

use crate::{Error, Result};

/// Name of the weights that a network's publisher recommends.
pub const DEFAULT: &str = "default";

/// Resampling of the images that published accuracies were measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// PIL's `BILINEAR`.
    Bilinear,
    /// PIL's `BICUBIC`.
    Bicubic,
}

impl Interpolation {
    /// torchvision's name.
    pub fn name(self) -> &'static str {
        match self {
            Interpolation::Bilinear => "bilinear",
            Interpolation::Bicubic => "bicubic",
        }
    }
}

/// A published file of weights.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// Publisher's name of the network.
    pub backbone: String,
    /// Publisher's name of the weights, such as `IMAGENET1K_V1`.
    pub name: String,
    /// Whether the publisher recommends them for the network.
    pub default: bool,
    /// Address of the file.
    pub url: String,
    /// First digits of the file's SHA-256 in lower case: 8 at least, all 64 where they are known.
    pub sha256: String,
    /// Size in MiB, to three places, as torchvision publishes it.
    #[serde(default)]
    mib: Option<f64>,
    /// Exact size, if known.
    #[serde(default)]
    bytes: Option<u64>,
    /// Learnable elements, including the published head.
    pub parameters: u64,
    /// Multiply-adds for one image, in billions, as published.
    #[serde(default)]
    pub gmacs: Option<f64>,
    /// Name of the metric that `accuracy` is.
    pub metric: String,
    /// Published accuracy in percent.
    pub accuracy: f64,
    /// SPDX name of the licence.
    pub licence: String,
    /// Training images, which may have terms of their own.
    pub trained_on: String,
    /// Side of the smallest image that the network takes, in pixels.
    pub min_size: u32,
    /// Shorter side after resizing, in pixels.
    pub resize: u32,
    /// Side of the centre crop, in pixels.
    pub crop: u32,
    /// Resampling of the resize.
    pub interpolation: Interpolation,
    /// Mean of each channel (R, G, B), on the scale 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel (R, G, B), on the scale 0..1.
    pub std: [f32; 3],
}

impl Weights {
    /// Publisher's name of the file: the end of its address.
    pub fn file_name(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or(&self.url)
    }

    /// Sizes in bytes that the file may have: published sizes are rounded to a thousandth of a MiB.
    pub fn bytes(&self) -> RangeInclusive<u64> {
        match (self.bytes, self.mib) {
            (Some(bytes), _) => bytes..=bytes,
            (None, mib) => {
                let at = |thousandths: f64| (mib.unwrap_or(0.0) + thousandths * 1e-3) * f64::from(1 << 20);
                at(-0.5).floor() as u64..=at(0.5).ceil() as u64
            }
        }
    }

    /// Size in MiB.
    pub fn mib(&self) -> f64 {
        self.mib.unwrap_or_else(|| *self.bytes().end() as f64 / f64::from(1 << 20))
    }

    /// Fails with the rule that an entry breaks.
    fn validate(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        let (name, (low, high)) = (self.file_name(), self.bytes().into_inner());
        let rules = [
            (
                self.url.starts_with("https://") || self.url.starts_with("http://"),
                "url must begin with http:// or https://",
            ),
            // It becomes the name of a file in the cache, beside the registry and locks.
            (
                name.chars().all(plain) && !name.starts_with('.') && name != USER_REGISTRY && name.len() > 4,
                "url must end with a plain file name",
            ),
            (
                (8..=64).contains(&self.sha256.len()) && self.sha256.chars().all(hex),
                "sha256 must be 8 to 64 hexadecimal digits",
            ),
            (self.bytes.is_some() != self.mib.is_some(), "either bytes or mib must be given"),
            (low > 0 && high < 1 << 34, "the size must be above 0 and below 16 GiB"),
            (
                [self.resize, self.crop].iter().all(|side| (1..=4096).contains(side)),
                "resize and crop must be 1 to 4096",
            ),
            (self.mean.iter().all(|mean| mean.is_finite()), "mean must be finite"),
            (self.std.iter().all(|&std| std.is_normal() && std > 0.0), "std must be positive"),
        ];
        rules.iter().find(|(kept, _)| !kept).map_or(Ok(()), |(_, rule)| Err((*rule).into()))
    }

    /// Whether `digest`, 64 hexadecimal digits in lower case, begins with the published digits.
    pub(crate) fn has_digest(&self, digest: &str) -> bool {
        digest.starts_with(&self.sha256)
    }
}

/// All known files of weights.
#[derive(Clone, Debug)]
pub struct Registry {
    weights: Vec<Weights>,
}

/// Format of the registry's files.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tables {
    weights: Vec<Weights>,
}

/// Name of the user's own registry in the cache folder.
const USER_REGISTRY: &str = "registry.toml";

/// Largest size of the user's own registry.
const MAX_BYTES: u64 = 1 << 20;

/// How a file was recognised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Known<'a> {
    /// Size and the published digits of the hash are the published file's.
    Content(&'a Weights),
    /// The name is the published file's; the content differs.
    Name(&'a Weights),
}

impl Registry {
    /// The weights that torchvision and others publish.
    pub fn published() -> Self {
        let read = |text| toml::from_str::<Tables>(text).expect("the registry's files are valid").weights;
        let mut weights = read(include_str!("../registry/torchvision.toml"));
        weights.extend(read(include_str!("../registry/others.toml")));
        Self { weights }
    }

    /// The published weights and those of the user's own registry, `registry.toml` in the folder `home`, if it exists.
    ///
    /// Its format is that of `registry/torchvision.toml`. Its entries replace published ones of the same network and name.
    ///
    /// # Errors
    /// [`Error::Registry`] naming the file, the entry and what is wrong.
    pub fn with_user_entries(home: &Path) -> Result<Self> {
        let path = home.join(USER_REGISTRY);
        let wrong = |reason: String| Error::Registry { path: path.clone(), reason };
        let bytes = match read_bounded(&path, MAX_BYTES) {
            Err(regraft_io::Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::published());
            }
            Err(regraft_io::Error::Read { source, .. }) => return Err(wrong(format!("cannot be read: {source}"))),
            Err(_) => return Err(wrong(format!("is larger than {MAX_BYTES} bytes"))),
            Ok(bytes) => bytes,
        };
        let mut weights = toml::from_slice::<Tables>(&bytes).map_err(|e| wrong(e.to_string()))?.weights;
        for entry in &weights {
            entry.validate().map_err(|rule| wrong(format!("{} {}: {rule}", entry.backbone, entry.name)))?;
        }
        weights.extend(Self::published().weights);
        Ok(Self { weights })
    }

    /// Finds the file at `path` among the weights of `backbone`, by content or else by name; none if it cannot be read.
    pub fn recognise(&self, backbone: &str, path: &Path) -> Option<Known<'_>> {
        let mut file = File::open(path).ok()?;
        let len = file.metadata().ok()?.len();
        let mut candidates = self.weights.iter().filter(|weights| weights.backbone == backbone);
        // Hashing is slow, so only a file of a fitting size is hashed.
        if candidates.clone().any(|weights| weights.bytes().contains(&len)) {
            let mut hash = Sha256::new();
            hash.update_from(&mut file).ok()?;
            let digest = hash.finish_hex();
            let same = |weights: &&Weights| weights.bytes().contains(&len) && weights.has_digest(&digest);
            if let Some(weights) = candidates.clone().find(same) {
                return Some(Known::Content(weights));
            }
        }
        let name = path.file_name()?;
        candidates.find(|weights| name == weights.file_name()).map(Known::Name)
    }

    /// All weights.
    pub fn all(&self) -> &[Weights] {
        &self.weights
    }

    /// The weights of a network.
    pub fn of<'a>(&'a self, backbone: &'a str) -> impl Iterator<Item = &'a Weights> {
        self.weights.iter().filter(move |weights| weights.backbone == backbone)
    }

    /// The weights of a network with this name, ignoring case; [`DEFAULT`] means those that the publisher recommends.
    pub fn find(&self, backbone: &str, name: &str) -> Option<&Weights> {
        let wanted = |weights: &&Weights| {
            weights.backbone == backbone
                && if name.eq_ignore_ascii_case(DEFAULT) {
                    weights.default
                } else {
                    weights.name.eq_ignore_ascii_case(name)
                }
        };
        self.weights.iter().find(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn published_entries_are_complete() {
        let registry = Registry::published();
        let all = registry.all();
        for weights in all {
            let what = format!("{} {}", weights.backbone, weights.name);
            assert_eq!(weights.validate(), Ok(()), "{what}");
            assert!(weights.url.starts_with("https://"), "{what}");
            let (low, high) = weights.bytes().into_inner();
            assert!(low > 1 << 20 && high < 1 << 30 && high - low <= 1051, "{what}: {low} to {high} bytes");
            // Four bytes a parameter, or two, and the batch norms' statistics. GoogLeNet's file also has auxiliary heads,
            // which torchvision counts as parameters only for Inception v3.
            let bytes = low as f64 / weights.parameters as f64;
            let fine = (1.99..2.1).contains(&bytes) || (3.99..4.3).contains(&bytes);
            assert!(fine || weights.backbone == "googlenet", "{what}: {bytes} bytes a parameter");
            assert!((40.0..100.0).contains(&weights.accuracy), "{what}");
            assert!(weights.min_size <= weights.crop && weights.crop <= weights.resize, "{what}");
        }
        let names: HashSet<_> = all.iter().map(|weights| (&weights.backbone, &weights.name)).collect();
        let files: HashSet<_> = all.iter().map(Weights::file_name).collect();
        assert_eq!((names.len(), files.len()), (all.len(), all.len()), "names and files are unique");
    }

    #[test]
    fn published_networks_have_one_default() {
        let registry = Registry::published();
        for weights in registry.all() {
            let defaults = registry.of(&weights.backbone).filter(|weights| weights.default).count();
            assert_eq!(defaults, 1, "{}", weights.backbone);
        }
    }

    #[test]
    fn find_ignores_case_and_knows_default() {
        // ResNet50_Weights in torchvision/models/resnet.py
        let registry = Registry::published();
        let find = |backbone, name| registry.find(backbone, name);
        let v1 = find("resnet50", "imagenet1k_v1").unwrap();
        assert_eq!(v1.file_name(), "resnet50-0676ba61.pth");
        assert_eq!((v1.resize, v1.crop, v1.accuracy), (256, 224, 76.13));
        let v2 = find("resnet50", "DEFAULT").unwrap();
        assert_eq!(v2.name, "IMAGENET1K_V2");
        assert_eq!((v2.sha256.as_str(), v2.resize, v2.parameters), ("11ad3fa6", 232, 25_557_032));
        assert!(v2.has_digest(&format!("11ad3fa6{:056}", 0)) && !v2.has_digest(&"0".repeat(64)));
        assert!(find("resnet50", "imagenet1k_v3").is_none() && find("resnet51", "default").is_none());
        assert_eq!(registry.of("resnet50").count(), 2);
    }

    #[test]
    fn bytes_allows_for_rounding() {
        // The real resnet18-f37072fd.pth has 46,830,571 bytes, published as 44.661 MiB.
        let registry = Registry::published();
        let weights = registry.find("resnet18", "default").unwrap();
        assert!(weights.bytes().contains(&46_830_571), "{:?}", weights.bytes());
        assert_eq!(registry.find("inception_resnet_v1", "vggface2").unwrap().bytes(), 111_898_327..=111_898_327);
    }

    #[test]
    fn mean_and_std_include_a_networks_own_normalisation() {
        let registry = Registry::published();
        for name in ["googlenet", "inception_v3"] {
            let weights = registry.find(name, "default").unwrap();
            assert_eq!((weights.mean, weights.std), ([0.5; 3], [0.5; 3]), "{name}");
        }
        // facenet-pytorch's fixed_image_standardization, on the scale 0..255.
        let face = registry.find("inception_resnet_v1", "default").unwrap();
        for level in [0.0f32, 127.5, 255.0] {
            assert!(((level / 255.0 - face.mean[0]) / face.std[0] - (level - 127.5) / 128.0).abs() < 1e-6);
        }
    }

    #[test]
    fn with_user_entries_replaces_and_validates() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Registry::with_user_entries(dir.path()).unwrap().all().len(), Registry::published().all().len());
        let (_, published) = include_str!("../registry/torchvision.toml").split_once("[[weights]]").unwrap();
        let entry = published.split("[[weights]]").next().unwrap();
        let with = |old: &str, new: &str| {
            assert!(entry.contains(old), "{old}");
            let entry = entry.replace(old, new);
            std::fs::write(dir.path().join(USER_REGISTRY), format!("[[weights]]{entry}")).unwrap();
            Registry::with_user_entries(dir.path())
        };
        let registry = with("https://download.pytorch.org/models/", "http://localhost/own-").unwrap();
        assert_eq!(registry.find("resnet18", "default").unwrap().file_name(), "own-resnet18-f37072fd.pth");
        assert_eq!(registry.find("resnet34", "default").unwrap().url.as_bytes()[..6], *b"https:");
        let registry = with("IMAGENET1K_V1", "photos of ours").unwrap();
        assert_eq!(registry.find("resnet18", "Photos of Ours"), registry.find("resnet18", "default"));
        assert_eq!(registry.find("resnet18", "imagenet1k_v1").unwrap().name, "IMAGENET1K_V1");
        for (old, new, rule) in [
            ("https://", "ftp://", "url"),
            ("/resnet18-f37072fd.pth", "/..", "url"),
            ("/resnet18-f37072fd.pth", "/registry.toml", "url"),
            ("\"f37072fd\"", "\"F3\"", "sha256"),
            ("mib = 44.661", "", "bytes or mib"),
            ("mib = 44.661", "mib = nan", "size"),
            ("crop = 224", "crop = 0", "crop"),
            ("std = [0.229,", "std = [0.0,", "std"),
            ("crop = 224", "crap = 224", "crap"),
        ] {
            let message = with(old, new).unwrap_err().to_string();
            assert!(message.contains(USER_REGISTRY) && message.contains(rule), "{new}: {message}");
        }
    }
}

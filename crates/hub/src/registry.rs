//! What is known of every published file of weights.

use std::fs::File;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::path::Path;

use serde::Deserialize;
use sha2::Digest;

use crate::part::{hash, hex};
use crate::{Error, Result};

/// The name that stands for the weights which a network's publisher recommends.
pub const DEFAULT: &str = "default";

/// How the pictures that weights were measured on were resampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// PIL's `BILINEAR`.
    Bilinear,
    /// PIL's `BICUBIC`.
    Bicubic,
}

impl Interpolation {
    /// torchvision's name of it.
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
    /// The network they are of, by the publisher's name.
    pub backbone: String,
    /// The publisher's name for them, such as `IMAGENET1K_V1`.
    pub name: String,
    /// Whether they are what the publisher recommends for the network.
    pub default: bool,
    /// Where the publisher keeps the file.
    pub url: String,
    /// The first digits of the file's SHA-256, at least 8 and all 64 where they are known, in lower case.
    pub sha256: String,
    /// Size as torchvision publishes it: in MiB, to three places.
    #[serde(default)]
    mib: Option<f64>,
    /// Size where it is known to the byte.
    #[serde(default)]
    bytes: Option<u64>,
    /// Learnable elements, the published head among them.
    pub parameters: u64,
    /// Multiply-adds for one image, in billions, as published.
    #[serde(default)]
    pub gmacs: Option<f64>,
    /// What `accuracy` is measured on.
    pub metric: String,
    /// Accuracy as published, in percent.
    pub accuracy: f64,
    /// SPDX name of the publisher's licence.
    pub licence: String,
    /// The pictures that they have learned from, which may have terms of their own.
    pub trained_on: String,
    /// Side of the smallest picture that the network takes, in pixels.
    pub min_size: u32,
    /// Length of the shorter side after resizing, in pixels.
    pub resize: u32,
    /// Side of the square that the centre crop keeps, in pixels.
    pub crop: u32,
    /// How resizing resamples.
    pub interpolation: Interpolation,
    /// Mean of each channel (R, G, B), on the scale 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel (R, G, B), on the scale 0..1.
    pub std: [f32; 3],
}

impl Weights {
    /// The publisher's name of the file: the end of its address.
    pub fn file_name(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or(&self.url)
    }

    /// How many bytes the file may have: a published size is rounded to a thousandth of a MiB.
    pub fn bytes(&self) -> RangeInclusive<u64> {
        match (self.bytes, self.mib) {
            (Some(bytes), _) => bytes..=bytes,
            (None, mib) => {
                let at = |thousandths: f64| (mib.unwrap_or(0.0) + thousandths * 1e-3) * f64::from(1 << 20);
                at(-0.5).floor() as u64..=at(0.5).ceil() as u64
            }
        }
    }

    /// The file's size in MiB.
    pub fn mib(&self) -> f64 {
        self.mib.unwrap_or_else(|| *self.bytes().end() as f64 / f64::from(1 << 20))
    }

    /// Whether the values make sense; says which does not.
    fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        let (name, (low, high)) = (self.file_name(), self.bytes().into_inner());
        let checks = [
            (
                self.url.starts_with("https://") || self.url.starts_with("http://"),
                "url begins with http:// or https://",
            ),
            // It becomes the name of a file here, beside others of this program.
            (
                name.chars().all(plain) && !name.starts_with('.') && name != OWN && name.len() > 4,
                "url ends with a plain file name",
            ),
            (
                (8..=64).contains(&self.sha256.len()) && self.sha256.chars().all(hex),
                "sha256 is 8 to 64 hexadecimal digits",
            ),
            (self.bytes.is_some() != self.mib.is_some(), "either bytes or mib is given"),
            (low > 0 && high < 1 << 34, "the size is above 0 and below 16 GiB"),
            ([self.resize, self.crop].iter().all(|side| (1..=4096).contains(side)), "resize and crop are 1 to 4096"),
            (self.mean.iter().all(|mean| mean.is_finite()), "mean is finite"),
            (self.std.iter().all(|&std| std.is_normal() && std > 0.0), "std is positive"),
        ];
        checks.iter().find(|(fine, _)| !fine).map_or(Ok(()), |(_, rule)| Err(format!("it is a rule that {rule}")))
    }

    /// Whether `digest`, 64 hexadecimal digits in lower case, is the file's as far as it is published.
    pub fn has_digest(&self, digest: &str) -> bool {
        digest.starts_with(&self.sha256)
    }
}

/// Every file of weights that is known.
#[derive(Clone, Debug)]
pub struct Registry {
    weights: Vec<Weights>,
}

/// The form of the registry's files.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tables {
    weights: Vec<Weights>,
}

/// The name of a user's own entries in the folder of downloaded files.
pub const OWN: &str = "registry.toml";

/// The most bytes of a user's own entries that are read.
const LARGEST: u64 = 1 << 20;

/// How a file was recognised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Known<'a> {
    /// It is the published file, as far as its hash is published.
    Content(&'a Weights),
    /// It has the published file's name and another content.
    Name(&'a Weights),
}

impl Registry {
    /// What torchvision and others have published.
    pub fn published() -> Self {
        let read = |text| toml::from_str::<Tables>(text).expect("the registry's files are well formed").weights;
        let mut weights = read(include_str!("../registry/torchvision.toml"));
        weights.extend(read(include_str!("../registry/others.toml")));
        Self { weights }
    }

    /// The same, after the entries of the file [`OWN`] in the folder `home`, if there is one: they have the form of
    /// `registry/torchvision.toml` and take the place of published ones for the same network with the same name.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the file and what is wrong in it.
    pub fn with_own(home: &Path) -> Result<Self> {
        let path = home.join(OWN);
        let wrong = |what: String| Error::Setting(format!("{}: {what}", path.display()));
        let mut text = String::new();
        match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::published()),
            Err(e) => return Err(wrong(format!("cannot be read: {e}"))),
            Ok(file) => {
                file.take(LARGEST).read_to_string(&mut text).map_err(|e| wrong(format!("cannot be read: {e}")))?
            }
        };
        let mut weights = toml::from_str::<Tables>(&text).map_err(|e| wrong(e.to_string()))?.weights;
        for entry in &weights {
            entry.check().map_err(|what| wrong(format!("{} {}: {what}", entry.backbone, entry.name)))?;
        }
        weights.extend(Self::published().weights);
        Ok(Self { weights })
    }

    /// What the file at `path` is among the published weights of `backbone`: by its content, or else by its name. A file
    /// that cannot be read is nothing known.
    pub fn recognise(&self, backbone: &str, path: &Path) -> Option<Known<'_>> {
        let mut file = File::open(path).ok()?;
        let len = file.metadata().ok()?.len();
        let mut candidates = self.weights.iter().filter(|weights| weights.backbone == backbone);
        // Hashing takes a while, so that its size is asked first.
        if candidates.clone().any(|weights| weights.bytes().contains(&len)) {
            let digest = hex(&hash(&mut file).ok()?.finalize());
            let same = |weights: &&Weights| weights.bytes().contains(&len) && weights.has_digest(&digest);
            if let Some(weights) = candidates.clone().find(same) {
                return Some(Known::Content(weights));
            }
        }
        let name = path.file_name()?;
        candidates.find(|weights| name == weights.file_name()).map(Known::Name)
    }

    /// All of them.
    pub fn all(&self) -> &[Weights] {
        &self.weights
    }

    /// The weights for a network; none where none are known.
    pub fn of<'a>(&'a self, backbone: &'a str) -> impl Iterator<Item = &'a Weights> {
        self.weights.iter().filter(move |weights| weights.backbone == backbone)
    }

    /// The weights of a network called `name`, in any case; `default` for those that their publisher recommends.
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
    fn every_entry_is_complete() {
        let registry = Registry::published();
        let all = registry.all();
        for weights in all {
            let what = format!("{} {}", weights.backbone, weights.name);
            assert_eq!(weights.check(), Ok(()), "{what}");
            assert!(weights.url.starts_with("https://"), "{what}");
            let (low, high) = weights.bytes().into_inner();
            assert!(low > 1 << 20 && high < 1 << 30 && high - low <= 1051, "{what}: {low} to {high} bytes");
            // Four bytes a parameter, or two, and above that the batch norms' statistics. GoogLeNet's file has auxiliary
            // heads as well, which torchvision counts among the parameters of Inception v3 alone.
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
    fn every_network_has_one_default() {
        let registry = Registry::published();
        for weights in registry.all() {
            let defaults = registry.of(&weights.backbone).filter(|weights| weights.default).count();
            assert_eq!(defaults, 1, "{}", weights.backbone);
        }
    }

    #[test]
    fn weights_are_found_by_name_and_are_torchvisions() {
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
    fn sizes_hold_what_rounding_hides() {
        // The real resnet18-f37072fd.pth has 46,830,571 bytes, published as 44.661 MiB.
        let registry = Registry::published();
        let weights = registry.find("resnet18", "default").unwrap();
        assert!(weights.bytes().contains(&46_830_571), "{:?}", weights.bytes());
        assert_eq!(registry.find("inception_resnet_v1", "vggface2").unwrap().bytes(), 111_898_327..=111_898_327);
    }

    #[test]
    fn networks_that_normalise_again_have_both_steps_together() {
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
    fn a_users_own_entries_come_first() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Registry::with_own(dir.path()).unwrap().all().len(), Registry::published().all().len());
        let (_, published) = include_str!("../registry/torchvision.toml").split_once("[[weights]]").unwrap();
        let entry = published.split("[[weights]]").next().unwrap();
        let with = |old: &str, new: &str| {
            assert!(entry.contains(old), "{old}");
            let entry = entry.replace(old, new);
            std::fs::write(dir.path().join(OWN), format!("[[weights]]{entry}")).unwrap();
            Registry::with_own(dir.path())
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
            assert!(message.contains(OWN) && message.contains(rule), "{new}: {message}");
        }
    }
}

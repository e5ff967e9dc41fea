//! What a network starts from: published weights, a file, or random values.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use regraft::{Backbone, Cancel, Config, Embedded, Error, Progress, Published, Source, onnx};
use regraft_data::{Interpolation, Preprocessing};
use regraft_hub::{Known, Registry, Settings, Watch, Weights, fetch};

use crate::terminal::{BYTES, Terminal};

/// What else there is, where published weights cannot be had.
const OTHERWISE: &str = "or start from a file you have with --weights FILE, or from nothing with --weights random, or leave \
     --backbone out for the one inside this program";

/// The metadata entry of a file of weights that says how photos are prepared for them.
const PREPROCESSING: &str = "preprocessing";

/// The name of the weights inside the program.
pub const EMBEDDED: &str = "embedded";

/// What `--weights` says.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// Random values.
    Random,
    /// Published weights of the backbone, by their name.
    Named(String),
    /// A file.
    File(PathBuf),
}

impl From<OsString> for Choice {
    /// A word that could be a file's name as well is one if such a file is there; `./random` always is.
    fn from(text: OsString) -> Self {
        let path = PathBuf::from(text);
        match path.to_str() {
            Some("random") => Self::Random,
            Some(regraft_hub::DEFAULT) => Self::Named(regraft_hub::DEFAULT.into()),
            Some(name) if !name.contains(['/', '\\', '.']) && !path.exists() => Self::Named(name.into()),
            _ => Self::File(path),
        }
    }
}

/// What a network starts from.
#[derive(Debug)]
pub struct Start {
    /// What is here already.
    source: Source,
    /// The published weights that are to be fetched, or that the file holds.
    published: Option<Weights>,
    /// How photos are prepared, unless flags say otherwise.
    pub preprocessing: Preprocessing,
}

impl Start {
    /// Finds what `choice` means for a backbone. Nothing is downloaded yet.
    ///
    /// # Errors
    /// A name that no published weights of the backbone have.
    pub fn find(choice: &Choice, backbone: &str, registry: &Registry, progress: &dyn Progress) -> Result<Self> {
        if let Backbone::Onnx(path) = Backbone::from(backbone) {
            return Self::within(&path, choice, progress);
        }
        match choice {
            Choice::Random => {
                let preprocessing = match Embedded::of(backbone) {
                    Some(embedded) => embedded.preprocessing()?,
                    None => usual(backbone, registry, progress),
                };
                Ok(Self { source: Source::Random, published: None, preprocessing })
            }
            Choice::Named(name) if let Some(embedded) = inside(backbone, name) => {
                let preprocessing = embedded.preprocessing()?;
                Ok(Self { source: Source::Embedded, published: None, preprocessing })
            }
            Choice::Named(name) => {
                let weights = registry.find(backbone, name).ok_or_else(|| unknown(name, backbone, registry))?;
                let preprocessing = preprocessing(weights);
                Ok(Self { source: Source::Random, published: Some(weights.clone()), preprocessing })
            }
            Choice::File(path) => {
                let (known, published) = match registry.recognise(backbone, path) {
                    Some(Known::Content(weights)) => (Some(weights), Some(weights.clone())),
                    Some(Known::Name(weights)) => {
                        progress.warn(&format!(
                            "{} is called as {}, but has another content than the published file",
                            path.display(),
                            title(weights)
                        ));
                        (Some(weights), None)
                    }
                    None => (None, None),
                };
                // What a file says itself is about these very weights, unless they are the published ones.
                let said = if published.is_none() { said(path, progress) } else { None };
                let preprocessing = match (said, known, Embedded::of(backbone)) {
                    (Some(said), _, _) => said,
                    (None, Some(weights), _) => noted(weights, progress),
                    (None, None, Some(embedded)) => embedded.preprocessing()?,
                    (None, None, None) => usual(backbone, registry, progress),
                };
                Ok(Self { source: Source::File(path.clone()), published, preprocessing })
            }
        }
    }

    /// Finds what `choice` means for a student: a file, or weights of the first of `networks` that has some of that name, which
    /// are its own and those that it may be a narrower form of. How photos are prepared is not for weights to say here.
    ///
    /// # Errors
    /// A name that no published weights of them have.
    pub fn of_student(choice: &Choice, networks: &[&str], registry: &Registry) -> Result<Self> {
        let (preprocessing, own) = (Preprocessing::default(), networks[0]);
        let (source, published) = match choice {
            Choice::Random => (Source::Random, None),
            Choice::Named(name) if inside(own, name).is_some() => (Source::Embedded, None),
            Choice::Named(name) => {
                let found = networks.iter().find_map(|network| registry.find(network, name));
                let unknown = || {
                    Error::Setting(format!(
                        "--weights {name}: no published weights of {} have that name, and no file here; regraft backbones \
                         lists them, --weights FILE starts from a file you have, and --weights random from nothing",
                        networks.join(" or ")
                    ))
                };
                (Source::Random, Some(found.ok_or_else(unknown)?.clone()))
            }
            Choice::File(path) => {
                let known = networks.iter().find_map(|network| match registry.recognise(network, path) {
                    Some(Known::Content(weights)) => Some(weights.clone()),
                    _ => None,
                });
                (Source::File(path.clone()), known)
            }
        };
        Ok(Self { source, published, preprocessing })
    }

    /// A network from an ONNX file has its weights with it. How photos are prepared for it is not in the file.
    fn within(path: &Path, choice: &Choice, progress: &dyn Progress) -> Result<Self> {
        if !matches!(choice, Choice::Named(name) if name == regraft_hub::DEFAULT) {
            let text =
                format!("--weights does not go with --backbone {}, which has weights of its own", path.display());
            return Err(Error::Setting(text).into());
        }
        let usual = Preprocessing::default();
        let crop = onnx::image_size(path)?;
        let resize = (crop * usual.resize / usual.crop).min(Preprocessing::MAX_SIDE);
        let list = |values: [f32; 3]| values.map(|x| x.to_string()).join(",");
        let (mean, std) = (list(usual.mean), list(usual.std));
        progress.note(&format!(
            "photos are prepared as for ImageNet's networks unless flags say otherwise: --val-resize-size {resize}, \
             --imgsz {crop}, --mean {mean}, --std {std}"
        ));
        let preprocessing = Preprocessing { resize, crop, ..usual };
        Ok(Self { source: Source::Random, published: None, preprocessing })
    }

    /// Brings the weights here if need be: where they are then, and what they are if they are published ones.
    ///
    /// # Errors
    /// Those of [`fetch`], with what else there is.
    pub fn bring(self, settings: &Settings, watch: &dyn Watch) -> Result<(Source, Option<Published>)> {
        let source = match (self.source, &self.published) {
            (Source::Random, Some(weights)) => Source::File(bring(weights, settings, watch)?),
            (source, _) => source,
        };
        Ok((source, self.published.map(|weights| Published { name: weights.name, url: weights.url })))
    }
}

/// The weights inside the program, if a name of a backbone's weights means them.
fn inside(backbone: &str, name: &str) -> Option<Embedded> {
    Embedded::of(backbone).filter(|_| [regraft_hub::DEFAULT, EMBEDDED].contains(&name))
}

/// Brings published weights back that a run began with and that have gone since, to the place where it looks for them.
///
/// # Errors
/// Those of [`fetch`], with what else there is.
pub fn bring_back(config: &Config, registry: &Registry, settings: Settings, watch: &dyn Watch) -> Result<()> {
    let (Some(path), Some(published)) = (config.weights.file(), &config.published) else { return Ok(()) };
    let weights = registry.all().iter().find(|weights| weights.url == published.url);
    let (Some(weights), Some(home), false) = (weights, path.parent(), path.exists()) else { return Ok(()) };
    let settings = Settings { home: home.into(), ..settings };
    if settings.path(weights) == path {
        bring(weights, &settings, watch)?;
    }
    Ok(())
}

fn bring(weights: &Weights, settings: &Settings, watch: &dyn Watch) -> Result<PathBuf> {
    use regraft_hub::Error::{Fetch, Offline};
    match fetch(weights, settings, watch) {
        Ok(local) => Ok(local.path),
        Err(error @ (Fetch { .. } | Offline { .. })) => Err(anyhow!("{error}, {OTHERWISE}")),
        Err(error) => Err(error.into()),
    }
}

/// `resnet50 IMAGENET1K_V2`.
fn title(weights: &Weights) -> String {
    format!("{} {}", weights.backbone, weights.name)
}

fn unknown(name: &str, backbone: &str, registry: &Registry) -> anyhow::Error {
    let names: Vec<String> = registry.of(backbone).map(|weights| weights.name.to_lowercase()).collect();
    let known = match names.as_slice() {
        [] => "none are known".into(),
        names => format!("known are {} (and default)", names.join(", ")),
    };
    let text = format!(
        "--weights {name}: no published weights of {backbone} have that name, and no file here; {known}, {OTHERWISE}"
    );
    Error::Setting(text).into()
}

/// How photos are prepared for weights of unknown origin: in the usual way of ImageNet's networks, unless the published
/// weights of this backbone want pictures of another size, or colours on another scale.
fn usual(backbone: &str, registry: &Registry, progress: &dyn Progress) -> Preprocessing {
    let usual = Preprocessing::default();
    match registry.find(backbone, regraft_hub::DEFAULT) {
        Some(weights) if (weights.crop, weights.mean, weights.std) != (usual.crop, usual.mean, usual.std) => {
            noted(weights, progress)
        }
        _ => usual,
    }
}

/// How a file of weights says itself that photos are prepared for them: a distilled student's does, and a trained model.
fn said(path: &Path, progress: &dyn Progress) -> Option<Preprocessing> {
    // What cannot be read, or is of another form, is for those who read the weights.
    let text = regraft_weights::read_safetensors_metadata(path).ok()?.remove(PREPROCESSING)?;
    let read = serde_json::from_str(&text).map_err(|e| e.to_string());
    let checked =
        read.and_then(|prepared: Preprocessing| prepared.validate().map(|()| prepared).map_err(|e| e.to_string()));
    match checked {
        Ok(prepared) => {
            tell(&prepared, &format!("{} says", path.display()), progress);
            Some(prepared)
        }
        Err(reason) => {
            progress.warn(&format!(
                "{}: its metadata entry {PREPROCESSING:?} does not say how photos are prepared ({reason}), so they are prepared \
                 in the usual way unless flags say otherwise",
                path.display()
            ));
            None
        }
    }
}

/// [`preprocessing`], with a word about it.
fn noted(weights: &Weights, progress: &dyn Progress) -> Preprocessing {
    let prepared = preprocessing(weights);
    tell(&prepared, &format!("for {}", title(weights)), progress);
    prepared
}

fn tell(prepared: &Preprocessing, whose: &str, progress: &dyn Progress) {
    let Preprocessing { resize, crop, .. } = prepared;
    progress.note(&format!("photos are prepared as {whose}: resize {resize}, crop {crop}"));
}

/// How photos were prepared when the published accuracy was measured.
fn preprocessing(weights: &Weights) -> Preprocessing {
    let interpolation = match weights.interpolation {
        regraft_hub::Interpolation::Bilinear => Interpolation::Bilinear,
        regraft_hub::Interpolation::Bicubic => Interpolation::Bicubic,
    };
    let Weights { resize, crop, mean, std, .. } = *weights;
    Preprocessing { resize, crop, interpolation, mean, std, ..Preprocessing::default() }
}

/// Shows a download on the terminal, and ends it after Ctrl-C.
pub struct Downloads<'a> {
    pub terminal: &'a Terminal,
    pub cancel: &'a Cancel,
}

impl Watch for Downloads<'_> {
    fn note(&self, text: &str) {
        self.terminal.note(text);
    }

    fn warn(&self, text: &str) {
        self.terminal.warn(text);
    }

    fn begin(&self, file: &str, bytes: u64) {
        self.terminal.begin(file, BYTES, bytes);
    }

    fn advance(&self, bytes: u64) {
        self.terminal.advance(bytes, "");
    }

    fn end(&self) {
        self.terminal.end();
    }

    fn interrupted(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

/// The settings of downloads, and all weights that are known.
///
/// # Errors
/// A wrong environment variable, or a wrong entry among a user's own.
pub fn hub(offline: bool) -> Result<(Settings, Registry)> {
    let mut settings = Settings::from_env()?;
    settings.offline |= offline;
    let registry = Registry::with_own(&settings.home)?;
    Ok((settings, registry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_name_and_a_path_a_file() {
        let choice = |text: &str| Choice::from(OsString::from(text));
        assert_eq!(choice("random"), Choice::Random);
        assert_eq!(choice("default"), Choice::Named("default".into()));
        assert_eq!(choice("IMAGENET1K_V2"), Choice::Named("IMAGENET1K_V2".into()));
        for file in ["./random", "resnet18.pth", "weights/best", ".."] {
            assert_eq!(choice(file), Choice::File(file.into()), "{file}");
        }
        // What exists is a file; the tests run in the package's folder.
        assert_eq!(choice("src"), Choice::File("src".into()));
    }

    #[test]
    fn photos_can_be_prepared_for_all_published_weights() {
        for weights in Registry::published().all() {
            let prepared = preprocessing(weights);
            prepared.validate().unwrap_or_else(|error| panic!("{}: {error}", title(weights)));
            assert_eq!((prepared.resize, prepared.crop), (weights.resize, weights.crop));
            assert_eq!((prepared.mean, prepared.std), (weights.mean, weights.std));
            let bicubic = weights.backbone.starts_with("efficientnet");
            assert!(bicubic || prepared.interpolation == Interpolation::Bilinear, "{}", title(weights));
        }
    }
}

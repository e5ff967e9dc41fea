//! What a network starts from: published weights, a file, the embedded ones, or random values.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use regraft_data::{Interpolation, Preprocessing};
use regraft_hub::{Known, Registry, Weights, fetch};

use crate::{Backbone, Context, Embedded, Error, Progress, Published, Result, Settings, Source, onnx};

/// The metadata entry of a file of weights that says how images are prepared for them.
const PREPROCESSING: &str = "preprocessing";

/// The name of the weights inside the program.
pub const EMBEDDED: &str = "embedded";

/// What weights are asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum WeightSpec {
    /// Random values.
    Random,
    /// Published weights of the backbone, by their name; `default` for the recommended ones, which for the embedded
    /// backbone are inside the program.
    Named(String),
    /// A file.
    File(PathBuf),
}

impl Default for WeightSpec {
    fn default() -> Self {
        Self::Named(regraft_hub::DEFAULT.into())
    }
}

impl fmt::Display for WeightSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Random => f.write_str("random"),
            Self::Named(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl From<OsString> for WeightSpec {
    /// A word that could be a file's name as well is one if such a file is there; `./random` always is.
    fn from(text: OsString) -> Self {
        let path = PathBuf::from(text);
        match path.to_str() {
            Some("random") => Self::Random,
            Some(regraft_hub::DEFAULT) => Self::default(),
            Some(name) if !name.contains(['/', '\\', '.']) && !path.exists() => Self::Named(name.into()),
            _ => Self::File(path),
        }
    }
}

impl From<&str> for WeightSpec {
    fn from(text: &str) -> Self {
        OsString::from(text).into()
    }
}

impl From<PathBuf> for WeightSpec {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

/// Published weights: where they are kept here, and which ones there are.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Where files are kept, and how they are downloaded.
    pub settings: regraft_hub::Settings,
    /// All weights that are known.
    pub registry: Registry,
}

impl Hub {
    /// The settings of the environment, and all weights that are known, a user's own included. `offline` forbids downloads.
    ///
    /// # Errors
    /// [`Error::Hub`] for a wrong environment variable, or a wrong entry among a user's own.
    pub fn from_env(offline: bool) -> Result<Self> {
        let mut settings = regraft_hub::Settings::from_env()?;
        settings.offline |= offline;
        let registry = Registry::with_user_entries(&settings.home)?;
        Ok(Self { settings, registry })
    }
}

/// Weights that were found, and may have to be downloaded.
#[derive(Debug)]
pub struct FoundWeights {
    /// What is here already.
    source: Source,
    /// The published weights that are to be fetched, or that the file holds.
    published: Option<Weights>,
    /// How images are prepared for them.
    pub preprocessing: Preprocessing,
}

impl FoundWeights {
    /// Finds what `spec` means for a backbone. Nothing is downloaded yet.
    ///
    /// # Errors
    /// [`Error::Setting`] for a name that no published weights of the backbone have.
    pub fn find(spec: &WeightSpec, backbone: &Backbone, hub: &Hub, progress: &dyn Progress) -> Result<Self> {
        let backbone = match backbone {
            Backbone::Onnx(path) => return Self::of_onnx(path, spec, progress),
            Backbone::Zoo(name) => name.as_str(),
        };
        let registry = &hub.registry;
        match spec {
            WeightSpec::Random => {
                let preprocessing = match Embedded::of(backbone) {
                    Some(embedded) => embedded.preprocessing()?,
                    None => usual(backbone, registry, progress),
                };
                Ok(Self { source: Source::Random, published: None, preprocessing })
            }
            WeightSpec::Named(name) if let Some(embedded) = embedded(backbone, name) => {
                let preprocessing = embedded.preprocessing()?;
                Ok(Self { source: Source::Embedded, published: None, preprocessing })
            }
            WeightSpec::Named(name) => {
                let weights = registry.find(backbone, name).ok_or_else(|| unknown(name, backbone, registry))?;
                let preprocessing = preprocessing(weights);
                Ok(Self { source: Source::Random, published: Some(weights.clone()), preprocessing })
            }
            WeightSpec::File(path) => {
                let (known, published) = match registry.recognise(backbone, path) {
                    Some(Known::Content(weights)) => (Some(weights), Some(weights.clone())),
                    Some(Known::Name(weights)) => {
                        progress.warn(&format!(
                            "{} has the name of {}, but other content than the published file",
                            path.display(),
                            title(weights)
                        ));
                        (Some(weights), None)
                    }
                    None => (None, None),
                };
                // What a file says itself is about these very weights, unless they are the published ones.
                let stored = if published.is_none() { stored(path, progress) } else { None };
                let preprocessing = match (stored, known, Embedded::of(backbone)) {
                    (Some(stored), _, _) => stored,
                    (None, Some(weights), _) => noted(weights, progress),
                    (None, None, Some(embedded)) => embedded.preprocessing()?,
                    (None, None, None) => usual(backbone, registry, progress),
                };
                Ok(Self { source: Source::File(path.clone()), published, preprocessing })
            }
        }
    }

    /// Finds what `spec` means for a student: a file, or weights of the first of `networks` that has some of that name,
    /// which are its own and those that it may be a narrower form of. Ignores the preprocessing stored with the weights.
    ///
    /// # Errors
    /// [`Error::Setting`] for a name that no published weights of them have.
    pub fn for_student(spec: &WeightSpec, networks: &[&str], hub: &Hub) -> Result<Self> {
        let (preprocessing, own) = (Preprocessing::default(), networks[0]);
        let (source, published) = match spec {
            WeightSpec::Random => (Source::Random, None),
            WeightSpec::Named(name) if embedded(own, name).is_some() => (Source::Embedded, None),
            WeightSpec::Named(name) => {
                let found = networks.iter().find_map(|network| hub.registry.find(network, name));
                let unknown = || {
                    let allowed = format!(
                        "no published weights of {} have that name, and no file here; give another name, a file you have, or \
                         random",
                        networks.join(" or ")
                    );
                    Error::Setting { field: "weights", value: name.clone(), allowed }
                };
                (Source::Random, Some(found.ok_or_else(unknown)?.clone()))
            }
            WeightSpec::File(path) => {
                let known = networks.iter().find_map(|network| match hub.registry.recognise(network, path) {
                    Some(Known::Content(weights)) => Some(weights.clone()),
                    _ => None,
                });
                (Source::File(path.clone()), known)
            }
        };
        Ok(Self { source, published, preprocessing })
    }

    /// An ONNX file has its weights with it. How images are prepared for it is not in the file.
    fn of_onnx(path: &Path, spec: &WeightSpec, progress: &dyn Progress) -> Result<Self> {
        if *spec != WeightSpec::default() {
            let allowed = format!("{} has weights of its own: leave it out", path.display());
            return Err(Error::Setting { field: "weights", value: spec.to_string(), allowed });
        }
        let usual = Preprocessing::default();
        let crop = onnx::image_size(path)?;
        let preprocessing = Preprocessing { resize: usual.resize_for(crop), crop, ..usual };
        let list = |values: [f32; 3]| values.map(|x| x.to_string()).join(",");
        progress.note(&format!(
            "photos are prepared as for ImageNet's networks unless settings say otherwise: `val_resize_size` {}, `imgsz` \
             {crop}, `mean` {}, `std` {}",
            preprocessing.resize,
            list(preprocessing.mean),
            list(preprocessing.std)
        ));
        Ok(Self { source: Source::Random, published: None, preprocessing })
    }

    /// Downloads the weights if need be. Returns where they are then, and what they are if they are published ones.
    ///
    /// # Errors
    /// [`Error::Hub`], [`Error::Download`] with what else there is.
    pub fn load(self, hub: &Hub, context: &Context) -> Result<(Source, Option<Published>)> {
        let source = match (self.source, &self.published) {
            (Source::Random, Some(weights)) => Source::File(download(weights, &hub.settings, context)?),
            (source, _) => source,
        };
        Ok((source, self.published.map(|weights| Published { name: weights.name, url: weights.url })))
    }
}

/// The weights inside the program, if a name of a backbone's weights means them.
fn embedded(backbone: &str, name: &str) -> Option<Embedded> {
    Embedded::of(backbone).filter(|_| [regraft_hub::DEFAULT, EMBEDDED].contains(&name))
}

/// Downloads published weights again that a run began with and that have gone since, to where it looks for them.
///
/// # Errors
/// Errors of [`FoundWeights::load`].
pub(crate) fn restore(settings: &Settings, hub: &Hub, context: &Context) -> Result<()> {
    let (Some(path), Some(published)) = (settings.weights.file(), &settings.published) else { return Ok(()) };
    let weights = hub.registry.all().iter().find(|weights| weights.url == published.url);
    let (Some(weights), Some(home), false) = (weights, path.parent(), path.exists()) else { return Ok(()) };
    let cache = regraft_hub::Settings { home: home.into(), ..hub.settings.clone() };
    if cache.path(weights) == path {
        download(weights, &cache, context)?;
    }
    Ok(())
}

fn download(weights: &Weights, settings: &regraft_hub::Settings, context: &Context) -> Result<PathBuf> {
    use regraft_hub::Error::{Fetch, Offline};
    match fetch(weights, settings, context.progress, context.cancel) {
        Ok(local) => Ok(local.path),
        Err(source @ (Fetch { .. } | Offline { .. })) => Err(Error::Download { source }),
        Err(error) => Err(error.into()),
    }
}

/// `resnet50 IMAGENET1K_V2`.
fn title(weights: &Weights) -> String {
    format!("{} {}", weights.backbone, weights.name)
}

fn unknown(name: &str, backbone: &str, registry: &Registry) -> Error {
    let names: Vec<String> = registry.of(backbone).map(|weights| weights.name.to_lowercase()).collect();
    let known = match names.as_slice() {
        [] => "none are known".into(),
        names => format!("known are {} (and default)", names.join(", ")),
    };
    let allowed =
        format!("no published weights of {backbone} have that name, and no file here; {known}, {INSTEAD_OF_PUBLISHED}");
    Error::Setting { field: "weights", value: name.into(), allowed }
}

/// What else there is, where published weights cannot be had.
pub(crate) const INSTEAD_OF_PUBLISHED: &str = "or start from a file you have (`weights` FILE), or from nothing (`weights` \
     random), or leave out `backbone` for the one inside this program";

/// How images are prepared for weights of unknown origin: as usual for ImageNet's networks, unless the published weights
/// of this backbone want images of another size, or colours on another scale.
fn usual(backbone: &str, registry: &Registry, progress: &dyn Progress) -> Preprocessing {
    let usual = Preprocessing::default();
    match registry.find(backbone, regraft_hub::DEFAULT) {
        Some(weights) if (weights.crop, weights.mean, weights.std) != (usual.crop, usual.mean, usual.std) => {
            noted(weights, progress)
        }
        _ => usual,
    }
}

/// How a file of weights itself says that images are prepared for them: a distilled student's does, and a trained model.
fn stored(path: &Path, progress: &dyn Progress) -> Option<Preprocessing> {
    // What cannot be read, or is of another form, is for those who read the weights.
    let text = regraft_weights::read_safetensors_metadata(path).ok()?.remove(PREPROCESSING)?;
    let read = serde_json::from_str(&text).map_err(|e| e.to_string());
    let checked =
        read.and_then(|prepared: Preprocessing| prepared.validate().map(|()| prepared).map_err(|e| e.to_string()));
    match checked {
        Ok(prepared) => {
            note(&prepared, &format!("{} says", path.display()), progress);
            Some(prepared)
        }
        Err(reason) => {
            progress.warn(&format!(
                "{}: its metadata entry {PREPROCESSING:?} does not say how photos are prepared ({reason}), so they are prepared \
                 in the usual way unless settings say otherwise",
                path.display()
            ));
            None
        }
    }
}

/// [`preprocessing`], with a note about it.
fn noted(weights: &Weights, progress: &dyn Progress) -> Preprocessing {
    let prepared = preprocessing(weights);
    note(&prepared, &format!("for {}", title(weights)), progress);
    prepared
}

fn note(prepared: &Preprocessing, whose: &str, progress: &dyn Progress) {
    let Preprocessing { resize, crop, .. } = prepared;
    progress.note(&format!("photos are prepared as {whose}: resize {resize}, crop {crop}"));
}

/// How images were prepared when the published accuracy was measured.
fn preprocessing(weights: &Weights) -> Preprocessing {
    let interpolation = match weights.interpolation {
        regraft_hub::Interpolation::Bilinear => Interpolation::Bilinear,
        regraft_hub::Interpolation::Bicubic => Interpolation::Bicubic,
    };
    let Weights { resize, crop, mean, std, .. } = *weights;
    Preprocessing { resize, crop, interpolation, mean, std, ..Preprocessing::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_spec_is_a_name_or_a_path() {
        let choice = |text: &str| WeightSpec::from(OsString::from(text));
        assert_eq!(choice("random"), WeightSpec::Random);
        assert_eq!(choice("default"), WeightSpec::Named("default".into()));
        assert_eq!(choice("IMAGENET1K_V2"), WeightSpec::Named("IMAGENET1K_V2".into()));
        for file in ["./random", "resnet18.pth", "weights/best", ".."] {
            assert_eq!(choice(file), WeightSpec::File(file.into()), "{file}");
        }
        // What exists is a file; the tests run in the package's folder.
        assert_eq!(choice("src"), WeightSpec::File("src".into()));
    }

    #[test]
    fn preprocessing_of_all_published_weights_is_valid() {
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

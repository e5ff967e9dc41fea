//! The sealed model: one file with everything that serving needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regraft_data::{Preprocessing, Task};
use regraft_engine::{Engine, Session, SessionOptions};
use regraft_graph::{Graph, Shape, StateDict};
use regraft_io::Sha256;
use regraft_learn::linear::HeadKind;
use regraft_random::{Purpose, keyed, unit_f32};
use serde::{Deserialize, Serialize};

use crate::{Error, Mode, Published, Result, Unit};

/// The format's version, under the metadata key `regraft`.
const FORMAT: &str = "1";

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of the program that made it.
    pub regraft: String,
    /// Name of the backbone.
    pub backbone: String,
    /// SHA-256 of the pretrained weights' file; absent for random weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights_sha256: Option<String>,
    /// What these weights are, if they are published ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Published>,
    /// SHA-256 over the photos, their classes and their split.
    pub data_sha256: String,
    /// The road; absent where it learned from another model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The model that it learned from, if it did not learn from labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distilled: Option<Taught>,
    /// Seed of the run.
    pub seed: u64,
    /// Epoch whose weights these are, from 1.
    pub epoch: usize,
    /// Score on the validation photos: accuracy, 0 to 1; of labels, mean average precision; of numbers, R². Absent where the
    /// photos had no right answers.
    #[serde(default, alias = "val_acc", skip_serializing_if = "Option::is_none")]
    pub val_score: Option<f64>,
    /// Number of validation photos.
    pub val_n: usize,
}

/// How a model was taught by another one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Taught {
    /// Name of the teacher's backbone.
    pub teacher: String,
    /// SHA-256 of the teacher's file.
    pub teacher_sha256: String,
    /// How much of the variance of what the teacher says the model explains on the validation photos (R²).
    pub r2: f64,
}

/// An input that anyone can make again, and what the network answered when the model was sealed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Golden {
    /// Key of the input's noise.
    pub key: u64,
    /// The network's logits.
    pub logits: Vec<f32>,
}

/// How many golden inputs a model carries.
const GOLDEN_INPUTS: u64 = 2;

/// The metadata key of [`seal`].
const SEAL: &str = "sha256";

/// SHA-256 over all other metadata and all tensors, in hexadecimal. The golden logits tell whether an engine
/// computes what was meant, but a small or dead weight hardly moves them; this tells whether the file is whole.
fn seal(metadata: &BTreeMap<String, String>, state: &StateDict) -> String {
    let mut hasher = Sha256::new();
    // Every piece after its length, so that no two files give the same stream.
    let mut piece = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for (key, value) in metadata.iter().filter(|(key, _)| *key != SEAL) {
        piece(key.as_bytes());
        piece(value.as_bytes());
    }
    for (name, tensor) in state {
        piece(name.as_bytes());
        tensor.shape().iter().for_each(|&dim| piece(&(dim as u64).to_le_bytes()));
        let mut bytes = Vec::new();
        for values in tensor.data().chunks(1 << 12) {
            bytes.clear();
            bytes.extend(values.iter().flat_map(|x| x.to_le_bytes()));
            piece(&bytes);
        }
    }
    hasher.finish_hex()
}

/// How far golden logits may be off, relative to their scale: another instruction set rounds differently, at
/// most 1e-4 through the deepest networks here; a wrong weight or layer shows far above this.
const GOLDEN_TOLERANCE: f32 = 1e-3;

impl Golden {
    /// Asks the network about the golden inputs.
    ///
    /// # Errors
    /// Those of `infer`; [`Error::NotFinite`] for an answer that could be neither stored nor compared.
    pub fn record(input: Shape, mut infer: impl FnMut(&[f32]) -> Result<Vec<f32>>) -> Result<Vec<Self>> {
        let ask = |key| {
            let logits = infer(&Self::input(input, key))?;
            match logits.iter().find(|z| !z.is_finite()) {
                Some(&value) => Err(Error::NotFinite { value }),
                None => Ok(Self { key, logits }),
            }
        };
        (0..GOLDEN_INPUTS).map(ask).collect()
    }

    /// Uniform noise in `[-2, 2)`, the range of normalised photos.
    fn input(shape: Shape, key: u64) -> Vec<f32> {
        let mut rng = keyed(0, Purpose::Init, regraft_random::hash_name("golden"), key);
        (0..shape.len()).map(|_| 4.0 * unit_f32(&mut rng) - 2.0).collect()
    }

    /// Whether these logits are the recorded ones.
    fn agrees(&self, logits: &[f32]) -> bool {
        let scale = self.logits.iter().fold(f32::MIN_POSITIVE, |m, x| m.max(x.abs()));
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= GOLDEN_TOLERANCE * scale;
        logits.len() == self.logits.len() && logits.iter().zip(&self.logits).all(close)
    }
}

/// A trained classifier.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The network.
    pub graph: Graph,
    /// Its tensors, under torchvision's names and in PyTorch's layouts.
    pub state: StateDict,
    /// Names of the classes or labels, in the order of the logits; what the number is called.
    pub classes: Vec<String>,
    /// What is done to every photo.
    pub preprocessing: Preprocessing,
    /// What the logits mean.
    pub head: HeadKind,
    /// The unit of the output, if it is a number.
    pub unit: Option<Unit>,
    /// Where it comes from.
    pub provenance: Provenance,
    /// What the network must answer.
    pub golden: Vec<Golden>,
}

impl Model {
    /// Writes the model to one `.safetensors` file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Weights`] with the path and the reason.
    pub fn save(&self, path: &Path) -> Result<()> {
        let json = |value: serde_json::Result<String>| value.expect("these values have no JSON that can fail");
        let mut metadata = BTreeMap::from([
            // What huggingface's loaders expect to find.
            ("format".to_string(), "pt".to_string()),
            ("regraft".to_string(), FORMAT.to_string()),
            ("graph".to_string(), json(serde_json::to_string(&self.graph))),
            ("classes".to_string(), json(serde_json::to_string(&self.classes))),
            ("preprocessing".to_string(), json(serde_json::to_string(&self.preprocessing))),
            ("head".to_string(), json(serde_json::to_string(&self.head))),
            ("provenance".to_string(), json(serde_json::to_string(&self.provenance))),
            ("golden".to_string(), json(serde_json::to_string(&self.golden))),
        ]);
        if let Some(unit) = &self.unit {
            metadata.insert("unit".to_string(), json(serde_json::to_string(unit)));
        }
        metadata.insert(SEAL.to_string(), seal(&metadata, &self.state));
        Ok(regraft_weights::write_safetensors(path, &self.state, &metadata)?)
    }

    /// Reads a model. Nothing in the file is trusted: the graph is checked, the tensors must be just its own.
    ///
    /// # Errors
    /// [`Error::Weights`] if the file cannot be read, [`Error::File`] if it is not a whole Regraft model.
    pub fn open(path: &Path) -> Result<Self> {
        let wrong = |reason: String| Error::File { path: path.to_owned(), reason };
        if path.is_dir() {
            return Err(wrong("is a folder; give a model file, such as best.safetensors of a run".into()));
        }
        let not_a_model = || {
            let advice = "use it as --weights of `regraft train`, which makes a model";
            wrong(format!("holds weights, but it is not a Regraft model; {advice}"))
        };
        let (state, metadata) = match regraft_weights::read_safetensors_with_metadata(path) {
            Err(_) if regraft_weights::read(path).is_ok() => return Err(not_a_model()),
            result => result?,
        };
        match metadata.get("regraft").map(String::as_str) {
            Some(FORMAT) => {}
            Some(other) => return Err(wrong(format!("has format {other}, and this program reads format {FORMAT}"))),
            None => return Err(not_a_model()),
        }
        let text = |key: &str| metadata.get(key).ok_or_else(|| wrong(format!("lacks the metadata entry {key:?}")));
        if *text(SEAL)? != seal(&metadata, &state) {
            return Err(wrong(
                "has been changed or damaged since it was made; copy it again from where it is whole".into(),
            ));
        }
        let damaged = |key: &str, e: serde_json::Error| wrong(format!("its metadata entry {key:?} is damaged: {e}"));
        macro_rules! entry {
            ($key:literal) => {
                serde_json::from_str(text($key)?).map_err(|e| damaged($key, e))?
            };
        }
        let unit = match metadata.contains_key("unit") {
            true => Some(entry!("unit")),
            false => None,
        };
        let graph: Graph = entry!("graph");
        let classes: Vec<String> = entry!("classes");
        let preprocessing: Preprocessing = entry!("preprocessing");
        let model = Self {
            head: entry!("head"),
            provenance: entry!("provenance"),
            golden: entry!("golden"),
            unit,
            graph,
            state,
            classes,
            preprocessing,
        };
        model.check().map_err(wrong)?;
        Ok(model)
    }

    /// Whether the parts belong together.
    fn check(&self) -> Result<(), String> {
        self.preprocessing.validate().map_err(|e| e.to_string())?;
        if self.golden.len() as u64 != GOLDEN_INPUTS {
            return Err(format!("it has {} golden answers where {GOLDEN_INPUTS} belong", self.golden.len()));
        }
        let whole = |unit: Unit| unit.mean.is_finite() && unit.std.is_finite() && unit.std > 0.0;
        if (self.head == HeadKind::Value) != self.unit.is_some_and(whole) {
            return Err("its head and the unit of its output do not go together".into());
        }
        let shapes = self.graph.shapes().map_err(|e| e.to_string())?;
        let output = shapes[self.graph.output()];
        if output != Shape::Features(self.classes.len()) {
            return Err(format!("its network has an output of {output}, but it names {} classes", self.classes.len()));
        }
        if self.graph.input_shape() != Shape::rgb(self.preprocessing.crop as usize) {
            let (input, crop) = (self.graph.input_shape(), self.preprocessing.crop);
            return Err(format!("its network takes {input}, but its preprocessing gives 3x{crop}x{crop}"));
        }
        let expected: Vec<_> = self.graph.parameters().into_iter().map(|spec| (spec.name, spec.shape)).collect();
        regraft_weights::check(&expected, &self.state, &[]).map_err(|e| e.to_string())
    }

    /// What the model answers about a photo.
    pub fn task(&self) -> Task {
        match self.head {
            HeadKind::Softmax | HeadKind::Ovr => Task::Classes,
            HeadKind::Labels => Task::Labels,
            HeadKind::Value => Task::Value,
        }
    }

    /// The network on an engine, ready to infer, after it has given its golden answers.
    ///
    /// `path` is only for the error message.
    ///
    /// # Errors
    /// [`Error::Engine`] if it cannot be compiled, [`Error::File`] if its answers differ.
    pub fn session(&self, engine: &dyn Engine, path: &Path) -> Result<Box<dyn Session>> {
        let mut session = engine.compile(&self.graph, &self.state, SessionOptions::inference(&self.graph))?;
        for golden in &self.golden {
            let logits = session.infer(&Golden::input(self.graph.input_shape(), golden.key))?;
            if !golden.agrees(&logits) {
                let reason = "does not answer as it did when it was made: its weights have been changed or damaged";
                return Err(Error::File { path: PathBuf::from(path), reason: reason.into() });
            }
        }
        Ok(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Pretrained};
    use regraft_engine_cpu::CpuEngine;
    use regraft_graph::Grafted;

    fn model(engine: &CpuEngine) -> Model {
        let preprocessing = Preprocessing { resize: 40, crop: 32, ..Preprocessing::default() };
        let backbone = Pretrained::load(&"squeezenet1_1".into(), &crate::Source::Random, 32, 0).unwrap();
        let config = Config { mode: Mode::Probe, ..Config::tutorial("photos".into(), "squeezenet1_1".into()) };
        let (Grafted { graph, .. }, state) = config.graft(&backbone, 2).unwrap();
        let mut session = engine.compile(&graph, &state, SessionOptions::inference(&graph)).unwrap();
        let golden = Golden::record(graph.input_shape(), |input| Ok(session.infer(input)?)).unwrap();
        let provenance = Provenance {
            regraft: "test".into(),
            backbone: backbone.name,
            weights_sha256: None,
            weights: Some(Published { name: "V1".into(), url: "https://host/weights.pth".into() }),
            data_sha256: "0".into(),
            mode: Some(Mode::Probe),
            distilled: None,
            seed: 0,
            epoch: 1,
            val_score: Some(0.5),
            val_n: 2,
        };
        let classes = vec!["ants".into(), "bees".into()];
        Model { graph, state, classes, preprocessing, head: HeadKind::Ovr, unit: None, provenance, golden }
    }

    #[test]
    fn a_model_comes_back_as_it_was_saved_and_answers_as_before() {
        let engine = CpuEngine::new(1).unwrap();
        let (model, dir) = (model(&engine), tempfile::tempdir().unwrap());
        let path = dir.path().join("model.safetensors");
        model.save(&path).unwrap();
        let back = Model::open(&path).unwrap();
        assert_eq!(back, model);
        back.session(&engine, &path).unwrap();
    }

    #[test]
    fn provenance_says_how_a_model_learned_and_that_of_older_files_is_read() {
        let text = r#"{"regraft":"0.1.0","backbone":"resnet18","data_sha256":"0","mode":"probe","seed":3,"epoch":1,
            "val_acc":0.75,"val_n":8}"#;
        let trained: Provenance = serde_json::from_str(text).unwrap();
        assert_eq!((trained.mode, trained.val_score, &trained.distilled), (Some(Mode::Probe), Some(0.75), &None));
        let taught = Taught { teacher: "resnet50".into(), teacher_sha256: "1".into(), r2: 0.5 };
        let distilled = Provenance { mode: None, val_score: None, distilled: Some(taught), ..trained };
        let text = serde_json::to_string(&distilled).unwrap();
        assert!(!text.contains("mode") && !text.contains("val_score"), "{text}");
        assert_eq!(serde_json::from_str::<Provenance>(&text).unwrap(), distilled);
    }

    #[test]
    fn answers_that_are_not_finite_are_not_recorded() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = Golden::record(Shape::rgb(4), |_| Ok(vec![0.0, value])).unwrap_err();
            assert!(matches!(error, Error::NotFinite { .. }), "{error}");
            assert!(error.to_string().contains(&value.to_string()), "{error}");
        }
    }

    #[test]
    fn a_changed_weight_is_noticed() {
        let engine = CpuEngine::new(1).unwrap();
        let mut model = model(&engine);
        model.state.get_mut("features.0.weight").unwrap().data_mut().iter_mut().for_each(|w| *w *= 1.1);
        let message = model.session(&engine, Path::new("m.safetensors")).err().unwrap().to_string();
        assert!(message.contains("m.safetensors") && message.contains("changed or damaged"), "{message}");
    }

    #[test]
    fn parts_that_do_not_belong_together_are_refused() {
        let engine = CpuEngine::new(1).unwrap();
        let (good, dir) = (model(&engine), tempfile::tempdir().unwrap());
        let path = dir.path().join("model.safetensors");
        let refused = |change: &dyn Fn(&mut Model)| {
            let mut model = good.clone();
            change(&mut model);
            model.save(&path).unwrap();
            Model::open(&path).unwrap_err().to_string()
        };
        assert!(refused(&|m| m.classes.push("wasps".into())).contains("names 3 classes"));
        assert!(refused(&|m| m.head = HeadKind::Value).contains("unit"));
        assert!(refused(&|m| m.unit = Some(Unit { mean: 0.0, std: 1.0 })).contains("unit"));
        assert!(refused(&|m| m.preprocessing.crop = 64).contains("3x64x64"));
        assert!(refused(&|m| drop(m.state.remove("fc.bias"))).contains("fc.bias"));
    }

    #[test]
    fn plain_weights_are_told_from_a_model() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.safetensors");
        regraft_weights::write_safetensors(&path, &StateDict::new(), &BTreeMap::new()).unwrap();
        assert!(Model::open(&path).unwrap_err().to_string().contains("--weights"));
    }
}

//! The sealed model: one file with everything that serving needs.

use std::collections::BTreeMap;
use std::path::Path;

use regraft_data::{Preprocessing, Task};
use regraft_engine::{Engine, Precision};
use regraft_graph::{Graph, NodeId, Shape, StateDict};
use regraft_io::Sha256;
use regraft_learn::linear::HeadKind;

use crate::evaluation::scores::task;
use crate::model::golden::GOLDEN_INPUTS;
use crate::network::session::Network;
use crate::{DeviceChoice, Error, Golden, PredictOptions, Predictor, Provenance, Result, TargetScale};

/// The format's version, under the metadata key `regraft`.
const FORMAT: &str = "1";

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
    /// The scale of the output, if it is a number.
    pub scale: Option<TargetScale>,
    /// Where it comes from.
    pub provenance: Provenance,
    /// What the network must answer.
    pub golden: Vec<Golden>,
}

impl Model {
    /// Writes the model to one `.safetensors` file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] with the path and the reason.
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
        if let Some(scale) = &self.scale {
            metadata.insert("unit".to_string(), json(serde_json::to_string(scale)));
        }
        metadata.insert(SEAL.to_string(), seal(&metadata, &self.state));
        Ok(regraft_weights::write_safetensors(path, &self.state, &metadata)?)
    }

    /// Reads a model. Nothing in the file is trusted: the graph is checked, the tensors must be just its own.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Weights`] if the file cannot be read, [`Error::File`] if it is not a whole Regraft model.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let wrong = |reason: String| Error::File { path: path.to_owned(), reason };
        if path.is_dir() {
            return Err(wrong("is a folder; give a model file, such as best.safetensors of a run".into()));
        }
        let not_a_model = || {
            let advice = "use it as `weights` of `regraft train`, which makes a model";
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
        let scale = match metadata.contains_key("unit") {
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
            scale,
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
        let sound = |scale: TargetScale| scale.mean.is_finite() && scale.std.is_finite() && scale.std > 0.0;
        if (self.head == HeadKind::Value) != self.scale.is_some_and(sound) {
            return Err("its head and the scale of its output do not go together".into());
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

    /// What the model says about a photo.
    pub fn task(&self) -> Task {
        task(self.head)
    }

    /// The tensors of the network's last layer.
    ///
    /// # Errors
    /// [`Error::Graph`] if the network has no head.
    pub(crate) fn head_tensors(&self) -> Result<StateDict> {
        let head = format!("{}.", self.graph.nodes()[self.graph.head()?].name);
        let of_head = self.state.iter().filter(|(name, _)| name.starts_with(&head));
        Ok(of_head.map(|(name, tensor)| (name.clone(), tensor.clone())).collect())
    }

    /// The model on the CPU, ready to be asked, with all classes in each answer.
    ///
    /// # Errors
    /// [`Error::Engine`] if it cannot be compiled, [`Error::File`] if it does not give its golden answers.
    pub fn predictor(self) -> Result<Predictor> {
        let options = PredictOptions::default();
        let engine = crate::engine(DeviceChoice::Auto, options.threads)?;
        Predictor::new(self, Path::new("the model"), engine.as_ref(), options)
    }

    /// The network on an engine, ready to infer, after it has given its golden answers.
    ///
    /// `path` is only for the error message.
    ///
    /// # Errors
    /// [`Error::Engine`] if it cannot be compiled, [`Error::File`] if its answers differ.
    pub(crate) fn network(&self, engine: &dyn Engine, path: &Path) -> Result<Network> {
        let mut network = Network::new(engine, &self.graph, &self.state)?;
        self.check_golden(&mut network, engine, Precision::F32, path)?;
        Ok(network)
    }

    /// Checks that the network gives the model's golden answers.
    ///
    /// # Errors
    /// [`Error::File`] if they differ.
    pub(crate) fn check_golden(
        &self,
        network: &mut Network,
        engine: &dyn Engine,
        precision: Precision,
        path: &Path,
    ) -> Result<()> {
        for golden in &self.golden {
            let checked = golden.check(self.graph.input_shape(), engine, precision, |images| network.infer(images))?;
            checked.map_err(|reason| Error::File { path: path.to_owned(), reason })?;
        }
        Ok(())
    }

    /// The node whose value is what the network's head reads: the features of an image.
    ///
    /// # Errors
    /// [`Error::Graph`] if the network has no head.
    pub(crate) fn feature_node(&self) -> Result<NodeId> {
        Ok(self.graph.nodes()[self.graph.head()?].inputs[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mode, Pretrained, Published, Settings};
    use regraft_engine_cpu::CpuEngine;
    use regraft_graph::Grafted;

    fn model(engine: &CpuEngine) -> Model {
        let preprocessing = Preprocessing { resize: 40, crop: 32, ..Preprocessing::default() };
        let backbone = Pretrained::load(&"squeezenet1_1".into(), &crate::Source::Random, 32, 0).unwrap();
        let settings = Settings { mode: Mode::Probe, ..Settings::tutorial("photos".into(), "squeezenet1_1".into()) };
        let (Grafted { graph, .. }, state) = settings.graft(&backbone, 2).unwrap();
        let mut network = Network::new(engine, &graph, &state).unwrap();
        let golden = Golden::record(graph.input_shape(), |images| network.infer(images)).unwrap();
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
        Model { graph, state, classes, preprocessing, head: HeadKind::Ovr, scale: None, provenance, golden }
    }

    #[test]
    fn open_gives_back_what_save_wrote() {
        let engine = CpuEngine::new(1).unwrap();
        let (model, dir) = (model(&engine), tempfile::tempdir().unwrap());
        let path = dir.path().join("model.safetensors");
        model.save(&path).unwrap();
        let back = Model::open(&path).unwrap();
        assert_eq!(back, model);
        back.network(&engine, &path).unwrap();
    }

    #[test]
    fn network_refuses_a_changed_weight() {
        let engine = CpuEngine::new(1).unwrap();
        let mut model = model(&engine);
        model.state.get_mut("features.0.weight").unwrap().data_mut().iter_mut().for_each(|w| *w *= 1.1);
        let message = model.network(&engine, Path::new("m.safetensors")).err().unwrap().to_string();
        assert!(message.contains("m.safetensors") && message.contains("changed or damaged"), "{message}");
    }

    #[test]
    fn open_refuses_parts_that_do_not_belong_together() {
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
        assert!(refused(&|m| m.head = HeadKind::Value).contains("scale"));
        assert!(refused(&|m| m.scale = Some(TargetScale { mean: 0.0, std: 1.0 })).contains("scale"));
        assert!(refused(&|m| m.preprocessing.crop = 64).contains("3x64x64"));
        assert!(refused(&|m| drop(m.state.remove("fc.bias"))).contains("fc.bias"));
    }

    #[test]
    fn open_tells_plain_weights_from_a_model() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.safetensors");
        regraft_weights::write_safetensors(&path, &StateDict::new(), &BTreeMap::new()).unwrap();
        assert!(Model::open(&path).unwrap_err().to_string().contains("weights"));
    }
}

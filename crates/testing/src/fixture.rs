//! The committed golden values under `reference/`: inputs, outputs and gradients that PyTorch computed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use regraft_graph::{Graph, StateDict, Tensor};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

/// One case of `reference/ops`: what PyTorch made of a small network, or of a loss.
///
/// Tensors keep the names of the file, in PyTorch's layouts: `input`, `output`, `grad_output`,
/// `param.<name>`, `grad.input`, `grad.<name>`, `after.<buffer>` (running statistics after one step in
/// train mode), and for a loss `class_weights` if it has them and `probabilities`, `answers` or `values` if its labels are such.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// Name of the case: the file's, without the ending.
    pub name: String,
    /// All tensors of the file.
    pub tensors: StateDict,
    /// The network; absent if the case is a loss.
    pub graph: Option<Graph>,
    /// Whether batch norms used the statistics of the batch; otherwise they were frozen, their weight and
    /// bias still learning.
    pub training: bool,
    /// The loss, if the case is one: `input` holds its logits, `output` its value.
    pub loss: Option<Loss>,
}

/// A loss as PyTorch defines it, with the reduction `mean`: softmax cross-entropy, with `answers` binary cross-entropy of
/// logits, with `values` squared error.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    /// Class of each sample; none if the labels are of another kind.
    #[serde(default)]
    pub labels: Vec<usize>,
    /// Share of the target that is spread evenly over all classes.
    pub label_smoothing: f32,
}

/// The metadata entry `case`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    graph: Option<Graph>,
    #[serde(default)]
    training: bool,
    loss: Option<Loss>,
    /// Version of PyTorch that computed the values.
    #[serde(rename = "torch")]
    _torch: String,
}

impl Fixture {
    /// One tensor.
    ///
    /// # Panics
    /// If the file has none of that name.
    #[track_caller]
    pub fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("{} has no tensor {name:?}", self.name))
    }

    /// The tensors whose names start with `prefix`, without it: `param.` gives the `state_dict`, `after.`
    /// the running statistics after the step.
    pub fn under(&self, prefix: &str) -> StateDict {
        let stripped = |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.into(), tensor.clone()));
        self.tensors.iter().filter_map(stripped).collect()
    }
}

/// The path of `relative` under `reference/`.
pub fn path(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../reference").join(relative)
}

/// Loads one case, such as `ops/conv2d_3x3.safetensors`, from under `reference/`.
///
/// # Panics
/// Naming the file, if it is missing or not what `reference/ops/generate.py` writes.
#[track_caller]
pub fn load(relative: &str) -> Fixture {
    let (tensors, metadata) = read(relative);
    let case = metadata.get("case").unwrap_or_else(|| panic!("{relative} has no metadata entry \"case\""));
    let case: Case = serde_json::from_str(case).unwrap_or_else(|e| panic!("{relative}: {e}"));
    let name = path(relative).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Fixture { name, tensors, graph: case.graph, training: case.training, loss: case.loss }
}

/// Loads every case of `reference/ops`, in the order of their names.
///
/// # Panics
/// As [`load`], or if there is none.
#[track_caller]
pub fn all() -> Vec<Fixture> {
    let folder = path("ops");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "{} holds no fixtures", folder.display());
    names.iter().map(|name| load(&format!("ops/{name}"))).collect()
}

/// The tensors and the metadata of a `.safetensors` file of `f32` under `reference/`.
///
/// # Panics
/// Naming the file, if it is missing or damaged.
#[track_caller]
pub(crate) fn read(relative: &str) -> (StateDict, BTreeMap<String, String>) {
    let path = path(relative);
    let fail = |error: String| -> ! { panic!("{}: {error}", path.display()) };
    let bytes = std::fs::read(&path).unwrap_or_else(|e| fail(e.to_string()));
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap_or_else(|e| fail(e.to_string()));
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| fail(e.to_string()));
    let mut tensors = StateDict::new();
    for (name, view) in file.iter() {
        if view.dtype() != Dtype::F32 {
            fail(format!("tensor {name} is {:?}, not F32", view.dtype()));
        }
        let (values, _) = view.data().as_chunks::<4>();
        let data = values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        tensors.insert(name.to_string(), Tensor::new(view.shape(), data));
    }
    (tensors, header.metadata().clone().unwrap_or_default().into_iter().collect())
}

#[cfg(test)]
mod tests {
    use regraft_graph::{ParameterKind, Shape};
    use serde_json::Value;

    use super::*;

    fn batch_of(batch: usize, shape: Shape) -> Vec<usize> {
        match shape {
            Shape::Map { channels, height, width } => vec![batch, channels, height, width],
            Shape::Features(features) => vec![batch, features],
        }
    }

    #[test]
    fn the_tensors_of_every_network_are_those_its_graph_asks_for() {
        let mut networks = 0;
        for fixture in all() {
            let Some(graph) = &fixture.graph else { continue };
            let name = &fixture.name;
            let shapes = graph.shapes().unwrap();
            let batch = fixture.tensor("input").shape()[0];
            let input = batch_of(batch, shapes[0]);
            let output = batch_of(batch, shapes[graph.output()]);
            let mut expected: BTreeMap<String, Vec<usize>> = [
                ("input".into(), input.clone()),
                ("grad.input".into(), input),
                ("output".into(), output.clone()),
                ("grad_output".into(), output),
            ]
            .into();
            for spec in graph.parameters() {
                expected.insert(format!("param.{}", spec.name), spec.shape.clone());
                match spec.kind {
                    ParameterKind::Parameter => expected.insert(format!("grad.{}", spec.name), spec.shape),
                    ParameterKind::Buffer if fixture.training => {
                        expected.insert(format!("after.{}", spec.name), spec.shape)
                    }
                    ParameterKind::Buffer => None,
                };
            }
            let found: BTreeMap<_, _> =
                fixture.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect();
            assert_eq!(found, expected, "{name}");
            networks += 1;
        }
        assert!(networks > 40, "{networks} networks");
    }

    #[test]
    fn every_graph_is_written_as_serde_writes_it() {
        for fixture in all().iter().filter(|fixture| fixture.graph.is_some()) {
            let (_, metadata) = read(&format!("ops/{}.safetensors", fixture.name));
            let case: Value = serde_json::from_str(&metadata["case"]).unwrap();
            // Through text: as a number, an f32 such as 1e-5 would show digits that it prints none of.
            let ours = serde_json::to_string(&fixture.graph).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&ours).unwrap(), case["graph"], "{}", fixture.name);
        }
    }

    #[test]
    fn losses_come_with_logits_labels_and_the_gradient() {
        let fixtures = all();
        let losses: Vec<_> = fixtures.iter().filter(|fixture| fixture.graph.is_none()).collect();
        assert_eq!(losses.len(), 11);
        for fixture in losses {
            let loss = fixture.loss.as_ref().unwrap();
            let [batch, classes] = *fixture.tensor("input").shape() else { panic!("{}", fixture.name) };
            let targets = ["probabilities", "answers", "values"];
            match targets.iter().find_map(|&name| fixture.tensors.get(name)) {
                Some(targets) => assert_eq!(targets.shape(), [batch, classes], "{}", fixture.name),
                None => assert_eq!(loss.labels.len(), batch, "{}", fixture.name),
            }
            assert!(loss.labels.iter().all(|&label| label < classes), "{}", fixture.name);
            assert_eq!(fixture.tensor("grad.input").shape(), [batch, classes], "{}", fixture.name);
            assert_eq!(fixture.tensor("output").data().len(), 1, "{}", fixture.name);
            let weighted = fixture.tensors.get("class_weights").map(|weights| weights.data().len());
            assert_eq!(weighted, fixture.name.contains("weighted").then_some(classes), "{}", fixture.name);
        }
    }

    #[test]
    fn tensors_are_found_by_prefix() {
        let fixture = load("ops/basic_block_train.safetensors");
        assert_eq!(fixture.under("param.").len(), fixture.graph.as_ref().unwrap().parameters().len());
        assert_eq!(fixture.under("after.").len(), 6);
        assert_eq!(&fixture.under("after.")["bn1.running_var"], fixture.tensor("after.bn1.running_var"));
    }
}

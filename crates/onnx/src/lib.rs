//! Convolutional networks from ONNX files.
//!
//! [`read`] turns the file of a network from pictures into a [`Graph`] and its weights. It knows the operators that
//! the graph has a counterpart for ([`SUPPORTED`]), in the versions of opsets 11 to 21, and the patterns that
//! torch.onnx writes for them: shapes that are computed on the way, activations spelled out in several nodes, channels
//! moved to the end and back. What has no counterpart is reported all at once.
//!
//! Parameters keep PyTorch's names where the file has them, and otherwise get them from the paths of modules in the
//! names of nodes.
//!
//! # What a file may do
//! Files come from strangers. Every length is compared with the bytes that are there, the number of messages is bounded
//! before the first is decoded (`wire.rs`), and all weights together may take no more than a small multiple of the
//! file's size. Values in files beside the model are read only from within its folder.
//!
//! The messages (`messages.rs`) are written by hand for `prost`, so that building needs no `protoc`.

mod activation;
mod error;
mod lower;
pub mod messages;
mod names;
mod node;
mod tensor;
mod value;
mod wire;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use prost::Message;
use prost::bytes::Bytes;
use regraft_graph::{Graph, Shape, StateDict};

pub use error::{Error, UnsupportedNode};
pub use lower::SUPPORTED;

use error::Problem;
use lower::Lowering;
use messages::{ModelProto, TensorTypeProto, ValueInfoProto, data_type};
use node::OnnxNode;
use tensor::{Budget, Constant, printable};

/// The versions of ONNX's operators that are read.
const OPSETS: std::ops::RangeInclusive<i64> = 11..=21;

/// The most bytes of a file: protobuf's own limit. Larger networks keep their weights in files of their own.
const MAX_BYTES: u64 = 2 << 30;

/// The largest side of a picture that a file may fix.
const MAX_SIDE: usize = 4096;

/// A network from a file.
#[derive(Clone, Debug)]
pub struct Network {
    /// Its layers, up to the file's first output.
    pub graph: Graph,
    /// Its weights: every tensor that the graph names.
    pub state: StateDict,
    /// The program that wrote the file, as it says itself.
    pub producer: String,
    /// The side of the pictures in pixels, if the file fixes it.
    pub image_size: Option<usize>,
    /// What was left out or decided, for people.
    pub notes: Vec<String>,
    /// The file itself, and those beside it that hold weights.
    pub files: Vec<PathBuf>,
}

/// Reads the network in the ONNX file at `path`.
///
/// Where the file leaves the pictures' size open, they are taken to be `default_size` pixels wide and high.
///
/// # Errors
/// [`Error::Read`] if the file cannot be read, [`Error::Malformed`] if it is damaged or no ONNX file,
/// [`Error::Refused`] if it is not a network from pictures with three channels, [`Error::Unsupported`] with every
/// node that has no counterpart here.
pub fn read(path: &Path, default_size: usize) -> Result<Network, Error> {
    network(path, default_size).map_err(|problem| problem.at(path))
}

/// The side of the pictures in pixels that the ONNX file at `path` fixes, if it does. The whole file is read and decoded
/// for that, but no node and no weight is looked at, nor files beside it.
///
/// # Errors
/// As [`read`], as far as the file's form and the description of the input go.
pub fn image_size(path: &Path) -> Result<Option<usize>, Error> {
    let size = || Ok(Input::of(&load(path)?)?.size);
    size().map_err(|problem: Problem| problem.at(path))
}

/// The file's content, after a look at its bounds.
fn load(path: &Path) -> Result<ModelProto, Problem> {
    let failed = |e| Problem::Read(path.to_owned(), e);
    let mut file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    if len > MAX_BYTES {
        return Err(Problem::Refused(format!(
            "it has {len} bytes; export with external data to have the weights apart"
        )));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    // One more than allowed, should it grow meanwhile.
    file.by_ref().take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    wire::check(&bytes)?;
    ModelProto::decode(Bytes::from(bytes)).map_err(|e| Problem::Malformed(e.to_string()))
}

/// The pictures as the file describes them.
struct Input {
    name: String,
    /// The number of pictures in a batch, if it is fixed.
    batch: Option<i64>,
    /// Their side, if it is fixed.
    size: Option<usize>,
}

impl Input {
    fn of(model: &ModelProto) -> Result<Self, Problem> {
        let refused = |reason: String| Err(Problem::Refused(reason));
        let Some(graph) = &model.graph else {
            return Err(Problem::Malformed("it has no graph".into()));
        };
        // Older files list their weights among the inputs.
        let weights: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
        let inputs: Vec<&ValueInfoProto> =
            graph.input.iter().filter(|input| !weights.contains(input.name.as_str())).collect();
        let [input] = inputs[..] else {
            let names: Vec<String> = inputs.iter().take(8).map(|input| printable(&input.name)).collect();
            return refused(format!(
                "it has {} inputs ({}); a network from pictures has one",
                inputs.len(),
                names.join(", ")
            ));
        };
        let name = printable(&input.name);
        let tensor: Option<&TensorTypeProto> = input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
        let Some(tensor) = tensor else {
            return refused(format!("its input {name:?} is no tensor"));
        };
        let floats = [data_type::FLOAT, data_type::FLOAT16, data_type::BFLOAT16, data_type::DOUBLE];
        if !floats.contains(&tensor.elem_type) {
            return refused(format!(
                "its input {name:?} has elements of type {} of TensorProto.DataType; pictures are real numbers here",
                tensor.elem_type
            ));
        }
        let dims: Option<Vec<Option<i64>>> =
            tensor.shape.as_ref().map(|shape| shape.dim.iter().map(|dim| dim.dim_value).collect());
        // Not known is written as no value, as 0 or as -1.
        let known = |dim: Option<i64>| dim.filter(|&n| n > 0);
        let Some(&[batch, channels, height, width]) = dims.as_deref() else {
            let found = dims.map_or("no shape".into(), |dims| format!("{} dimensions", dims.len()));
            return refused(format!("its input {name:?} has {found}; pictures are N, 3, height, width here"));
        };
        if known(channels) != Some(3) {
            let found = channels.map_or("a number of channels that is left open".into(), |n| format!("{n} channels"));
            return refused(format!(
                "its input {name:?} has {found}; pictures have 3, in the order N, 3, height, width"
            ));
        }
        let side = |dim: Option<i64>| known(dim).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let size = match (side(height), side(width)) {
            (Some(height), Some(width)) if height != width => {
                return refused(format!("its pictures are {height}x{width}; square ones are supported"));
            }
            (height, width) => height.or(width),
        };
        if let Some(size) = size.filter(|&size| size > MAX_SIDE) {
            return refused(format!("its pictures are {size} pixels wide; up to {MAX_SIDE} are supported"));
        }
        Ok(Self { name: input.name.clone(), batch: known(batch), size })
    }
}

fn network(path: &Path, default_size: usize) -> Result<Network, Problem> {
    let model = load(path)?;
    let input = Input::of(&model)?;
    let opset = model.opset_import.iter().find(|set| matches!(set.domain.as_str(), "" | "ai.onnx"));
    let Some(opset) = opset.map(|set| set.version) else {
        return Err(Problem::Malformed("it does not say which version of ONNX's operators it uses".into()));
    };
    if !OPSETS.contains(&opset) {
        let (first, last) = (OPSETS.start(), OPSETS.end());
        return Err(Problem::Refused(format!(
            "it uses opset {opset}; {first} to {last} are read: export it with opset_version=17, or convert it with onnx.version_converter"
        )));
    }
    let Some(graph) = &model.graph else {
        return Err(Problem::Malformed("it has no graph".into()));
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut constants = Vec::with_capacity(graph.initializer.len());
    let mut external: HashMap<PathBuf, u64> = HashMap::new();
    for tensor in &graph.initializer {
        let constant = Constant::new(tensor, folder)?;
        if let Some((path, end)) = constant.external() {
            let read = external.entry(path.to_owned()).or_default();
            *read = end.max(*read);
        }
        constants.push((tensor.name.clone(), constant));
    }
    let bytes = external.values().fold(model.encoded_len() as u64, |sum, &bytes| sum.saturating_add(bytes));
    let Some(output) = graph.output.first() else {
        return Err(Problem::Malformed("it has no output".into()));
    };
    let mut files: Vec<PathBuf> = external.into_keys().collect();
    files.sort();
    files.insert(0, path.to_owned());
    let mut notes = Vec::new();
    if graph.output.len() > 1 {
        let (first, more) = (printable(&output.name), graph.output.len() - 1);
        notes.push(format!("the first output, {first}, is taken; {more} more left out"));
    }
    let shape = Shape::rgb(input.size.unwrap_or(default_size));
    let nodes: Vec<OnnxNode> = graph.node.iter().map(OnnxNode).collect();
    let lowered =
        Lowering::new(&input.name, shape, input.batch, constants, Budget::new(bytes)).run(&nodes, &output.name)?;
    if lowered.softmax_dropped {
        notes.push("the softmax at the end is left out, as logits are wanted".into());
    }
    let producer = printable(&format!("{} {}", model.producer_name, model.producer_version)).trim().to_owned();
    Ok(Network { graph: lowered.graph, state: lowered.state, producer, image_size: input.size, notes, files })
}

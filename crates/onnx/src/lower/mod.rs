//! From the file's nodes to the graph's: one walk, each operator in one place.

mod arithmetic;
mod integers;
mod layers;
mod layout;
mod pooling;

use std::collections::{HashMap, HashSet};

use regraft_graph::{Graph, Node, NodeId, Op, Shape, StateDict, Tensor};

use crate::activation::{self, MAX_STEPS, Step};
use crate::error::{Problem, UnsupportedNode};
use crate::names::{self, Names};
use crate::node::{Fault, OnnxNode, Result};
use crate::tensor::{Budget, Constant, printable};
use crate::value::{Data, Integers, Layout, Value};

/// The operators that are taken over, as far as the graph has a counterpart for what they do.
pub const SUPPORTED: &[&str] = &[
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Clip",
    "Concat",
    "Constant",
    "Conv",
    "Div",
    "Dropout",
    "Erf",
    "Flatten",
    "Gather",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LayerNormalization",
    "LogSoftmax",
    "MatMul",
    "MaxPool",
    "Mul",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Split",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
];

/// No shape has more entries; a file that computes longer lists of integers computes something else.
const MAX_SHAPE: usize = 64;

/// A message that lists more nodes helps nobody.
const MAX_UNSUPPORTED: usize = 256;

/// The state of the walk.
pub(crate) struct Lowering {
    graph: Graph,
    shapes: Vec<Shape>,
    state: StateDict,
    names: Names,
    values: HashMap<String, Value>,
    /// How many nodes read each name.
    readers: HashMap<String, usize>,
    /// Layers whose bias the file adds in a node of its own, which has not come yet.
    bare: HashSet<NodeId>,
    /// Activations that are nodes already: what was done to which node, and the result.
    settled: HashMap<NodeId, Vec<(Vec<Step>, NodeId)>>,
    budget: Budget,
    /// The number of pictures in a batch, if the file fixes it.
    batch: Option<i64>,
    unsupported: Vec<UnsupportedNode>,
}

/// What the walk ends with.
pub(crate) struct Lowered {
    pub graph: Graph,
    pub state: StateDict,
    /// Whether probabilities were asked for, and logits are given.
    pub softmax_dropped: bool,
}

impl Lowering {
    /// Starts with the pictures, under the name that the file gives them, and its initializers.
    pub fn new(
        input: &str,
        shape: Shape,
        batch: Option<i64>,
        constants: Vec<(String, Constant)>,
        budget: Budget,
    ) -> Self {
        let pictures = Data { node: 0, layout: Layout::Standard, steps: Vec::new(), name: "input".into() };
        let mut values: HashMap<String, Value> =
            constants.into_iter().map(|(name, constant)| (name, Value::Constant(constant))).collect();
        values.insert(input.to_owned(), Value::Data(pictures));
        Self {
            graph: Graph::new(shape),
            shapes: vec![shape],
            state: StateDict::new(),
            names: Names::new(),
            values,
            readers: HashMap::new(),
            bare: HashSet::new(),
            settled: HashMap::new(),
            budget,
            batch,
            unsupported: Vec::new(),
        }
    }

    /// Goes through the nodes that `output` depends on.
    ///
    /// # Errors
    /// [`Problem::Unsupported`] with every node that has no counterpart; [`Problem::Malformed`] if a node reads what no
    /// earlier one writes; [`Problem::Refused`] if the output does not depend on the pictures.
    pub fn run(mut self, nodes: &[OnnxNode], output: &str) -> std::result::Result<Lowered, Problem> {
        let needed = needed(nodes, output);
        for node in nodes.iter().zip(&needed).filter(|(_, needed)| **needed).map(|(node, _)| node) {
            for input in &node.0.input {
                *self.readers.entry(input.clone()).or_default() += 1;
            }
        }
        *self.readers.entry(output.to_owned()).or_default() += 1;
        for &node in nodes.iter().zip(&needed).filter(|(_, needed)| **needed).map(|(node, _)| node) {
            let mut values = match self.node(node) {
                Ok(values) => values,
                Err(Fault::File(problem)) => return Err(problem),
                Err(fault) => {
                    if let Fault::Unsupported(reason) = fault {
                        self.unsupported.push(UnsupportedNode { op: node.op(), name: node.name(), reason });
                    }
                    if self.unsupported.len() == MAX_UNSUPPORTED {
                        break;
                    }
                    vec![Value::Unknown; node.0.output.len()]
                }
            };
            values.resize(node.0.output.len(), Value::Extra);
            for (name, value) in node.0.output.iter().zip(values) {
                if !name.is_empty() && self.values.insert(name.clone(), value).is_some() {
                    return Err(Problem::Malformed(format!("two nodes write {:?}", printable(name))));
                }
            }
        }
        self.finish(output)
    }

    fn finish(mut self, output: &str) -> std::result::Result<Lowered, Problem> {
        if !self.unsupported.is_empty() {
            return Err(Problem::Unsupported(self.unsupported));
        }
        let shown = printable(output);
        let (data, softmax_dropped) = match self.values.get(output) {
            Some(Value::Data(data)) => (data.clone(), false),
            Some(Value::Probabilities(data)) => (data.clone(), true),
            Some(_) => return Err(Problem::Refused(format!("its output {shown:?} does not depend on the pictures"))),
            None => return Err(Problem::Malformed(format!("no node writes its output {shown:?}"))),
        };
        let end = self.settle(data).and_then(|data| match data.layout {
            Layout::Standard => Ok(data.node),
            _ => Err("its output is no map in the order N, C, H, W and no vector".into()),
        });
        let end = match end {
            Ok(end) => end,
            Err(Fault::Unsupported(reason)) => return Err(Problem::Refused(reason)),
            Err(Fault::File(problem)) => return Err(problem),
            Err(Fault::Follows) => return Err(Problem::Refused("its output cannot be computed".into())),
        };
        if end == 0 {
            return Err(Problem::Refused("it has no layers".into()));
        }
        // Parts of what became one operation are left behind here.
        let graph = self.graph.cut(end);
        let mut state = StateDict::new();
        for spec in graph.parameters() {
            match self.state.remove_entry(&spec.name) {
                Some((name, tensor)) => state.insert(name, tensor),
                None => return Err(Problem::Malformed(format!("it has no values for {:?}", spec.name))),
            };
        }
        Ok(Lowered { graph, state, softmax_dropped })
    }

    /// The values that a node gives.
    fn node(&mut self, node: OnnxNode) -> Result<Vec<Value>> {
        let op = node.op();
        let value = match op.as_str() {
            "Conv" => self.conv(node),
            "Gemm" => self.gemm(node),
            "MatMul" => self.matmul(node),
            "LayerNormalization" => self.layer_norm(node),
            "BatchNormalization" => self.batch_norm(node),
            "Relu" => {
                let data = self.settled(node, 0)?;
                self.apply(node, Op::ReLU, data)
            }
            "HardSwish" => {
                let data = self.settled(node, 0)?;
                self.apply(node, Op::Hardswish, data)
            }
            "Gelu" => match node.string("approximate").as_deref() {
                None | Some("none") => {
                    let data = self.settled(node, 0)?;
                    self.apply(node, Op::GELU, data)
                }
                Some(other) => Err(format!("its approximate is {other:?}; the exact function is supported").into()),
            },
            "Sigmoid" | "Erf" => {
                let data = self.data(node, 0)?;
                self.step(node, data, if op == "Erf" { Step::Erf } else { Step::Sigmoid })
            }
            "HardSigmoid" => self.hard_sigmoid(node),
            "Clip" => self.clip(node),
            "Dropout" => self.dropout(node),
            "MaxPool" => self.max_pool(node),
            "AveragePool" => self.average_pool(node),
            "GlobalAveragePool" => self.global_average_pool(node),
            "ReduceMean" => self.reduce_mean(node),
            "Add" | "Sub" | "Mul" | "Div" => self.arithmetic(node, &op),
            "Concat" => self.concat(node),
            "Flatten" => self.flatten(node),
            "Reshape" => self.reshape(node),
            "Squeeze" => self.squeeze(node),
            "Unsqueeze" => self.unsqueeze(node),
            "Transpose" => self.transpose(node),
            "Identity" => self.identity(node),
            "Cast" => self.cast(node),
            "Constant" => self.constant(node),
            "Shape" => self.shape(node),
            "Gather" => self.gather(node),
            "Slice" => self.slice(node),
            "Split" => return self.split(node),
            "Softmax" | "LogSoftmax" => match self.data(node, 0)? {
                data if matches!(self.shapes[data.node], Shape::Features(_)) => Ok(Value::Probabilities(data)),
                _ => {
                    Err("a softmax is left out at the end of a network, where logits are wanted, but not elsewhere"
                        .into())
                }
            },
            _ => Err("there is no such operator here".into()),
        };
        Ok(vec![value?])
    }

    /// What a node's input stands for, if it has that input.
    fn optional(&self, node: OnnxNode, index: usize) -> Result<Option<Value>> {
        let Some(name) = node.0.input.get(index).filter(|name| !name.is_empty()) else { return Ok(None) };
        match self.values.get(name) {
            Some(Value::Unknown) => Err(Fault::Follows),
            Some(Value::Extra) => Err("it reads a second output of another node, such as a mask or indices".into()),
            Some(value) => Ok(Some(value.clone())),
            None => Err(Fault::File(Problem::Malformed(format!(
                "node {:?} ({}) reads {:?}, which no node before it writes",
                node.name(),
                node.op(),
                printable(name)
            )))),
        }
    }

    fn input(&self, node: OnnxNode, index: usize) -> Result<Value> {
        let missing = || Problem::Malformed(format!("node {:?} ({}) lacks input {index}", node.name(), node.op()));
        self.optional(node, index)?.ok_or_else(|| Fault::File(missing()))
    }

    /// An input that depends on the pictures.
    fn data(&self, node: OnnxNode, index: usize) -> Result<Data> {
        match self.input(node, index)? {
            Value::Data(data) => Ok(data),
            Value::Probabilities(_) => {
                Err("it reads a softmax, which is supported only at the end of a network".into())
            }
            _ => Err(format!("its input {index} does not depend on the pictures").into()),
        }
    }

    /// An input that depends on the pictures, with what was still to be done to it done.
    fn settled(&mut self, node: OnnxNode, index: usize) -> Result<Data> {
        let data = self.data(node, index)?;
        self.settle(data)
    }

    /// The same, where the order of dimensions must be N, C, H, W, or N, F.
    fn standard(&mut self, node: OnnxNode, index: usize) -> Result<NodeId> {
        match self.settled(node, index)? {
            Data { node, layout: Layout::Standard, .. } => Ok(node),
            _ => Err("its input is not in the order N, C, H, W".into()),
        }
    }

    /// The same, where it must be a feature map: with channels, height and width.
    fn map(&mut self, node: OnnxNode, index: usize) -> Result<(NodeId, [usize; 3])> {
        let from = self.standard(node, index)?;
        match self.shapes[from] {
            Shape::Map { channels, height, width } => Ok((from, [channels, height, width])),
            Shape::Features(_) => Err("its input is a vector, not a feature map".into()),
        }
    }

    /// An input that is known beforehand.
    fn known(&self, node: OnnxNode, index: usize, what: &str) -> Result<Constant> {
        match self.input(node, index)? {
            Value::Constant(constant) => Ok(constant),
            _ => Err(format!("its {what} is computed, not a constant").into()),
        }
    }

    /// Whole numbers that an attribute or, in newer versions of an operator, an input gives.
    fn setting(&self, node: OnnxNode, attribute: &str, index: usize) -> Result<Option<Vec<i64>>> {
        if let Some(ints) = node.ints(attribute) {
            return Ok(Some(ints.to_vec()));
        }
        let Some(value) = self.optional(node, index)? else { return Ok(None) };
        let known = integers_of(&value).and_then(|list| list.values.iter().map(|dim| dim.known()).collect());
        known.map(Some).ok_or_else(|| format!("its {attribute} are computed, not constants").into())
    }

    /// Appends an operation.
    fn emit(&mut self, name: &str, op: Op, inputs: &[NodeId], parameters: Vec<(&str, Tensor)>) -> Result<NodeId> {
        let node = Node { name: self.names.take(name), op, inputs: inputs.to_vec() };
        let shapes: Vec<Shape> = inputs.iter().map(|&input| self.shapes[input]).collect();
        self.shapes.push(node.output_shape(&shapes)?);
        for (suffix, tensor) in parameters {
            self.state.insert(format!("{}.{suffix}", node.name), tensor);
        }
        Ok(self.graph.push(node.name, node.op, inputs))
    }

    /// Appends an operation on one value that leaves the order of dimensions as it is.
    fn apply(&mut self, node: OnnxNode, op: Op, data: Data) -> Result<Value> {
        let id = self.emit(&layer_name(node), op, &[data.node], Vec::new())?;
        Ok(Value::Data(Data { node: id, ..data }))
    }

    /// One more thing to be done to every element.
    fn step(&mut self, node: OnnxNode, mut data: Data, step: Step) -> Result<Value> {
        if data.steps.len() == MAX_STEPS {
            data = self.settle(data)?;
        }
        activation::push(&mut data.steps, step);
        data.name = layer_name(node).into();
        Ok(Value::Data(data))
    }

    /// The value with everything done that was still to be done.
    fn settle(&mut self, data: Data) -> Result<Data> {
        if data.steps.is_empty() {
            return Ok(data);
        }
        // A value that several nodes read is computed once.
        let known = self.settled.get(&data.node).and_then(|list| list.iter().find(|(steps, _)| *steps == data.steps));
        if let Some(&(_, id)) = known {
            return Ok(Data { node: id, steps: Vec::new(), ..data });
        }
        let id = if let Some(op) = activation::recognise(&data.steps) {
            self.emit(&data.name, op, &[data.node], Vec::new())?
        } else if let [Step::Mul(factor)] = data.steps[..] {
            self.emit(&data.name, Op::Scale { factor }, &[data.node], Vec::new())?
        } else if let Some((factor, summand)) = activation::affine(&data.steps) {
            let channels = self.shapes[data.node].channels();
            self.scale(&data.name, data.node, vec![factor; channels], vec![summand; channels])?
        } else {
            let steps: Vec<String> = data.steps.iter().map(ToString::to_string).collect();
            return Err(format!("what {} does ({}) is no activation known here", data.name, steps.join(", ")).into());
        };
        self.settled.entry(data.node).or_default().push((data.steps, id));
        Ok(Data { node: id, layout: data.layout, steps: Vec::new(), name: data.name })
    }

    /// The node's result as a value in the common order of dimensions.
    fn value(&self, node: NodeId) -> Value {
        let name = self.graph.nodes()[node].name.as_str().into();
        Value::Data(Data { node, layout: Layout::Standard, steps: Vec::new(), name })
    }

    /// The name of the layer whose weight this is, or that of its node.
    fn layer_of(&self, node: OnnxNode, weight: &Constant) -> String {
        names::owner(&weight.name).map_or_else(|| layer_name(node), str::to_owned)
    }

    /// A parameter of the wanted shape.
    fn parameter(&self, constant: &Constant, shape: &[usize]) -> Result<Tensor> {
        let values = constant.floats(&self.budget)?;
        if values.len() != shape.iter().product::<usize>() || values.is_empty() {
            return Err(format!("{:?} is {:?} where {shape:?} is needed", constant.name, constant.dims).into());
        }
        Ok(Tensor::new(shape, values))
    }
}

/// The name of the layer that a node stands for.
fn layer_name(node: OnnxNode) -> String {
    names::from_node(&node.name(), &printable(&node.0.op_type))
}

/// The integers that a value stands for.
fn integers_of(value: &Value) -> Option<Integers> {
    match value {
        Value::Integers(list) => Some(list.clone()),
        Value::Constant(constant) => {
            let values = constant
                .integers()
                .filter(|values| values.len() <= MAX_SHAPE)?
                .iter()
                .map(|&n| crate::value::Dim::Known(n))
                .collect();
            Some(Integers { values, scalar: constant.dims.is_empty() })
        }
        _ => None,
    }
}

/// Which nodes the output depends on.
fn needed(nodes: &[OnnxNode], output: &str) -> Vec<bool> {
    let mut wanted: HashSet<&str> = HashSet::from([output]);
    let mut needed = vec![false; nodes.len()];
    for (node, needed) in nodes.iter().zip(&mut needed).rev() {
        if node.0.output.iter().any(|name| wanted.contains(name.as_str())) {
            *needed = true;
            wanted.extend(node.0.input.iter().map(String::as_str));
        }
    }
    needed
}

//! Names of layers.

use std::collections::HashMap;

use crate::tensor::printable;

/// Endings of parameters' names in PyTorch.
const SUFFIXES: [&str; 5] = [".weight", ".bias", ".running_mean", ".running_var", ".layer_scale"];

/// Operators that no layer of PyTorch stands for, but an expression in a module's code.
const WITHOUT_MODULE: [&str; 9] = ["Add", "Sub", "Mul", "Div", "Concat", "Reshape", "ReduceMean", "Slice", "Split"];

/// The layer whose parameter has this name: `layer1.0.conv1` for `layer1.0.conv1.weight`; `None` if it is no name that
/// PyTorch gives, but one such as `onnx::Conv_193`.
pub(crate) fn owner(parameter: &str) -> Option<&str> {
    let owner = SUFFIXES.iter().find_map(|suffix| parameter.strip_suffix(suffix))?;
    (!owner.is_empty() && !owner.contains([':', '/'])).then_some(owner)
}

/// The layer that a node's name speaks of.
///
/// torch.onnx writes the path of modules, each with its own path where a `Sequential` is above it:
/// `/layer1/layer1.0/conv1/Conv` is `layer1.0.conv1`. Its newer exporter writes `node_conv2d_1`, which is `conv2d_1`.
/// Where a module does several things, the operation is part of the name: `/layer1/layer1.0/relu/Relu_1`.
pub(crate) fn from_node(node: &str, op: &str) -> String {
    let node = printable(node);
    if !node.contains('/') {
        let name = node.strip_prefix("node_").unwrap_or(&node);
        return if name.is_empty() { op.to_lowercase() } else { name.to_owned() };
    }
    let mut parts: Vec<&str> = node.split('/').filter(|part| !part.is_empty()).collect();
    let operation = parts.pop().unwrap_or(op);
    let mut path: Vec<&str> = Vec::new();
    for part in parts {
        if path.last().is_some_and(|above| part.strip_prefix(above).is_some_and(|rest| rest.starts_with('.'))) {
            path.pop();
        }
        path.push(part);
    }
    match operation.strip_prefix(op) {
        // A layer's own operation; where a module is called again, it is numbered.
        Some(number) if !path.is_empty() && !WITHOUT_MODULE.contains(&op) => path.join(".") + number,
        _ => {
            let operation = operation.to_lowercase();
            path.push(&operation);
            path.join(".")
        }
    }
}

/// The names given so far, each with the number that was last put after it.
pub(crate) struct Names(HashMap<String, usize>);

impl Names {
    /// None but the input's.
    pub fn new() -> Self {
        Self(HashMap::from([("input".to_owned(), 0)]))
    }

    /// `wanted`, or with a number after it if it is taken.
    pub fn take(&mut self, wanted: &str) -> String {
        let Some(mut number) = self.0.get(wanted).copied() else {
            self.0.insert(wanted.to_owned(), 0);
            return wanted.to_owned();
        };
        let name = loop {
            number += 1;
            let name = format!("{wanted}_{number}");
            if !self.0.contains_key(&name) {
                break name;
            }
        };
        self.0.insert(wanted.to_owned(), number);
        self.0.insert(name.clone(), 0);
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_named_as_in_pytorch() {
        assert_eq!(owner("layer1.0.conv1.weight"), Some("layer1.0.conv1"));
        assert_eq!(owner("onnx::Conv_193"), None);
        assert_eq!(from_node("/layer1/layer1.0/conv1/Conv", "Conv"), "layer1.0.conv1");
        assert_eq!(from_node("/layer1/layer1.0/relu/Relu_1", "Relu"), "layer1.0.relu_1");
        assert_eq!(from_node("/features/features.1/conv/conv.0/conv.0.0/Conv", "Conv"), "features.1.conv.0.0");
        assert_eq!(from_node("/layer1/layer1.0/Add", "Add"), "layer1.0.add");
        assert_eq!(from_node("/Flatten", "Flatten"), "flatten");
        assert_eq!(from_node("node_conv2d_3", "Conv"), "conv2d_3");
        assert_eq!(from_node("", "Relu"), "relu");
    }

    #[test]
    fn no_name_is_given_twice() {
        let mut names = Names::new();
        assert_eq!(["a", "a", "a", "input"].map(|name| names.take(name)), ["a", "a_1", "a_2", "input_1"]);
    }
}

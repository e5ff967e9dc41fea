//! Layers with parameters, and dropout.

use regraft_graph::{BatchNorm2d, Conv2d, Linear, NodeId, Op, Shape, Tensor};

use super::{Lowering, layer_name};
use crate::activation::Step;
use crate::messages::data_type;
use crate::node::{OnnxNode, Result};
use crate::tensor::Constant;
use crate::value::{Data, Layout, Value};

impl Lowering {
    pub(super) fn conv(&mut self, node: OnnxNode) -> Result<Value> {
        let (from, [channels, height, width]) = self.map(node, 0)?;
        let weight = self.known(node, 1, "weight")?;
        let [out_channels, in_per_group, kh, kw] = weight.dims[..] else {
            return Err(format!("its weight is {:?}; two-dimensional convolutions are supported", weight.dims).into());
        };
        let groups = usize::try_from(node.int("group").unwrap_or(1)).unwrap_or(0);
        let (stride, dilation) = (node.pair("strides", 1)?, node.pair("dilations", 1)?);
        let kernel_size = [kh, kw];
        if node.pair("kernel_shape", 0)? != kernel_size && node.ints("kernel_shape").is_some() {
            return Err("its kernel_shape is not that of its weight".into());
        }
        if groups == 0 || in_per_group.checked_mul(groups) != Some(channels) {
            return Err(format!("its weight is {:?} in {groups} groups for {channels} channels", weight.dims).into());
        }
        let padding = node.padding([height, width], kernel_size, stride, dilation)?;
        let bias = self.optional(node, 2)?.is_some();
        let conv = Conv2d { in_channels: channels, out_channels, kernel_size, stride, padding, dilation, groups, bias };
        let mut parameters = vec![("weight", self.parameter(&weight, &conv.weight_shape())?)];
        if bias {
            parameters.push(("bias", self.parameter(&self.known(node, 2, "bias")?, &[out_channels])?));
        }
        let name = self.layer_of(node, &weight);
        let id = self.emit(&name, Op::Conv2d(conv), &[from], parameters)?;
        Ok(self.value(id))
    }

    pub(super) fn gemm(&mut self, node: OnnxNode) -> Result<Value> {
        let from = self.standard(node, 0)?;
        let weight = self.known(node, 1, "weight")?;
        if node.int("transA").unwrap_or(0) != 0 {
            return Err("it transposes its first input".into());
        }
        let transposed = node.int("transB").unwrap_or(0) != 0;
        let weight = if transposed { Some(weight.clone()) } else { weight.transpose() };
        let Some(weight) = weight.filter(|weight| weight.dims.len() == 2) else {
            return Err("its weight is no matrix".into());
        };
        let bias = match self.optional(node, 2)? {
            Some(_) => Some(self.known(node, 2, "bias")?),
            None => None,
        };
        let (alpha, beta) = (node.float("alpha").unwrap_or(1.0), node.float("beta").unwrap_or(1.0));
        let (out_features, in_features) = (weight.dims[0], weight.dims[1]);
        let linear = Linear { in_features, out_features, bias: bias.is_some() };
        let scaled = |mut tensor: Tensor, factor: f32| {
            tensor.data_mut().iter_mut().for_each(|x| *x *= factor);
            tensor
        };
        let mut parameters = vec![("weight", scaled(self.parameter(&weight, &[out_features, in_features])?, alpha))];
        if let Some(bias) = bias {
            // One number may stand for all.
            let tensor = match bias.scalar(&self.budget) {
                Some(value) if out_features > 1 => {
                    self.budget.charge(out_features)?;
                    Tensor::full([out_features], value)
                }
                _ => self.parameter(&bias, &[out_features])?,
            };
            parameters.push(("bias", scaled(tensor, beta)));
        }
        let name = self.layer_of(node, &weight);
        let id = self.emit(&name, Op::Linear(linear), &[from], parameters)?;
        Ok(self.value(id))
    }

    /// A fully connected layer, on vectors or on a map whose channels come last.
    pub(super) fn matmul(&mut self, node: OnnxNode) -> Result<Value> {
        let data = self.settled(node, 0)?;
        let weight = self.known(node, 1, "second factor")?;
        let Some(weight) = weight.transpose() else { return Err("its second factor is no matrix".into()) };
        let (out_features, in_features) = (weight.dims[0], weight.dims[1]);
        if !matches!((self.shapes[data.node], data.layout), (Shape::Features(_), _) | (_, Layout::ChannelsLast)) {
            return Err("it is supported on vectors and on maps whose channels come last".into());
        }
        let op = Op::Linear(Linear { in_features, out_features, bias: false });
        let parameters = vec![("weight", self.parameter(&weight, &[out_features, in_features])?)];
        let name = self.layer_of(node, &weight);
        let id = self.emit(&name, op, &[data.node], parameters)?;
        // A sum that alone reads this is its bias.
        if self.readers.get(&node.0.output[0]) == Some(&1) {
            self.bare.insert(id);
        }
        Ok(Value::Data(Data { node: id, ..data }))
    }

    /// Takes a constant that is added to a layer as that layer's bias, if it can be one.
    pub(super) fn take_bias(&mut self, data: &Data, constant: &Constant) -> Result<bool> {
        let id = data.node;
        let (shape, outputs) = (self.shapes[id], self.shapes[id].channels());
        // A vector of constants belongs to the last dimension, which the file may have moved since.
        let channels_last = matches!(shape, Shape::Features(_)) || data.layout == Layout::ChannelsLast;
        if !channels_last || !data.steps.is_empty() || constant.dims != [outputs] || !self.bare.remove(&id) {
            return Ok(false);
        }
        let tensor = self.parameter(constant, &[outputs])?;
        let Op::Linear(linear) = self.graph.op_mut(id) else { return Ok(false) };
        linear.bias = true;
        let name = format!("{}.bias", self.graph.nodes()[id].name);
        self.state.insert(name, tensor);
        Ok(true)
    }

    /// Over the channels of each pixel.
    pub(super) fn layer_norm(&mut self, node: OnnxNode) -> Result<Value> {
        let data = self.settled(node, 0)?;
        let (shape, scale) = (self.shapes[data.node], self.known(node, 1, "scale")?);
        let (axis, last) = (node.int("axis").unwrap_or(-1), data.layout.dims(shape).len() as i64);
        let over_channels = matches!((shape, data.layout), (Shape::Features(_), _) | (_, Layout::ChannelsLast));
        if !over_channels || (axis != -1 && axis != last) {
            return Err(
                format!("it normalises from dimension {axis} on; normalising the channels alone is supported").into()
            );
        }
        let normalized_shape = shape.channels();
        let weight = self.parameter(&scale, &[normalized_shape])?;
        let bias = match self.optional(node, 2)? {
            Some(_) => self.parameter(&self.known(node, 2, "bias")?, &[normalized_shape])?,
            None => Tensor::full([normalized_shape], 0.0),
        };
        let op = Op::LayerNorm { normalized_shape, eps: node.float("epsilon").unwrap_or(1e-5) };
        let name = self.layer_of(node, &scale);
        let id = self.emit(&name, op, &[data.node], vec![("weight", weight), ("bias", bias)])?;
        Ok(Value::Data(Data { node: id, ..data }))
    }

    pub(super) fn batch_norm(&mut self, node: OnnxNode) -> Result<Value> {
        let (from, [num_features, ..]) = self.map(node, 0)?;
        if node.int("training_mode").unwrap_or(0) != 0 {
            return Err("it normalises by each batch; export the network after model.eval()".into());
        }
        let bn = BatchNorm2d {
            num_features,
            eps: node.float("epsilon").unwrap_or(1e-5),
            // ONNX weighs the old statistics, PyTorch the new ones.
            momentum: 1.0 - node.float("momentum").unwrap_or(0.9),
        };
        let scale = self.known(node, 1, "scale")?;
        let mut parameters = Vec::new();
        for (index, suffix) in ["weight", "bias", "running_mean", "running_var"].into_iter().enumerate() {
            let constant = self.known(node, index + 1, suffix)?;
            parameters.push((suffix, self.parameter(&constant, &[num_features])?));
        }
        let name = self.layer_of(node, &scale);
        let id = self.emit(&name, Op::BatchNorm2d(bn), &[from], parameters)?;
        Ok(self.value(id))
    }

    /// `x * factors + summands`, each for a channel: a convolution of one tap a channel.
    pub(super) fn scale(&mut self, name: &str, from: NodeId, factors: Vec<f32>, summands: Vec<f32>) -> Result<NodeId> {
        let Shape::Map { channels, .. } = self.shapes[from] else {
            return Err("scaling and shifting by constants is supported on feature maps".into());
        };
        self.budget.charge(2 * channels)?;
        let conv = Conv2d { groups: channels, bias: true, ..Conv2d::new(channels, channels, 1) };
        let weight = Tensor::new(conv.weight_shape(), factors);
        let parameters = vec![("weight", weight), ("bias", Tensor::new([channels], summands))];
        self.emit(name, Op::Conv2d(conv), &[from], parameters)
    }

    /// Kept, so that it takes part in training; with a probability of 0 it is nothing.
    pub(super) fn dropout(&mut self, node: OnnxNode) -> Result<Value> {
        let data = self.settled(node, 0)?;
        let ratio = match self.optional(node, 1)? {
            Some(Value::Constant(constant)) => constant.scalar(&self.budget),
            _ => node.float("ratio"),
        };
        let p = ratio.unwrap_or(0.5);
        if !(0.0..1.0).contains(&p) {
            return Err(format!("its ratio is {p}").into());
        }
        if p == 0.0 {
            return Ok(Value::Data(data));
        }
        self.apply(node, Op::Dropout { p }, data)
    }

    /// A copy, under the name that the file gives it: torch.onnx writes equal parameters once and names the others so.
    pub(super) fn identity(&mut self, node: OnnxNode) -> Result<Value> {
        Ok(match self.input(node, 0)? {
            Value::Constant(constant) => {
                let name = node.0.output.first().map_or("", String::as_str);
                Value::Constant(constant.named(name))
            }
            other => other,
        })
    }

    /// Changes nothing here: numbers are `f32` whatever the file keeps them in, and the integers of shapes are exact. One
    /// that would cut real numbers down to integers is refused.
    pub(super) fn cast(&mut self, node: OnnxNode) -> Result<Value> {
        let value = self.input(node, 0)?;
        let to = node.int("to").ok_or("it does not say to which type")?;
        let of_integers = match &value {
            Value::Integers(_) => true,
            Value::Constant(constant) => constant.integers().is_some(),
            _ => false,
        };
        let real = [data_type::FLOAT, data_type::FLOAT16, data_type::BFLOAT16, data_type::DOUBLE];
        match of_integers || real.iter().any(|&kind| i64::from(kind) == to) {
            true => Ok(value),
            false => Err(format!("it casts to type {to} of TensorProto.DataType; real numbers must stay real").into()),
        }
    }

    /// `min(max(alpha * x + beta, 0), 1)`.
    pub(super) fn hard_sigmoid(&mut self, node: OnnxNode) -> Result<Value> {
        let (alpha, beta) = (node.float("alpha").unwrap_or(0.2), node.float("beta").unwrap_or(0.5));
        let mut data = self.settled(node, 0)?;
        for step in [Step::Mul(alpha), Step::Add(beta), Step::Clip(0.0, 1.0)] {
            match self.step(node, data, step)? {
                Value::Data(next) => data = next,
                other => return Ok(other),
            }
        }
        Ok(Value::Data(data))
    }

    pub(super) fn clip(&mut self, node: OnnxNode) -> Result<Value> {
        let data = self.data(node, 0)?;
        let mut bounds = [f32::NEG_INFINITY, f32::INFINITY];
        for (index, (bound, name)) in bounds.iter_mut().zip(["min", "max"]).enumerate() {
            if let Some(value) = self.optional(node, index + 1)? {
                let Value::Constant(constant) = value else { return Err(format!("its {name} is computed").into()) };
                let value = constant.scalar(&self.budget);
                *bound = value.ok_or_else(|| format!("its {name} is not one real number"))?;
            } else if let Some(value) = node.float(name) {
                *bound = value;
            }
        }
        self.step(node, data, Step::Clip(bounds[0], bounds[1]))
    }

    /// The constant that a node holds.
    pub(super) fn constant(&mut self, node: OnnxNode) -> Result<Value> {
        let constant = if let Some(tensor) = node.tensor("value") {
            // Values in a file beside the model are the initializers' alone.
            let constant = Constant::new(tensor, std::path::Path::new("")).map_err(crate::node::Fault::File)?;
            let name = node.0.output.first().map_or("", String::as_str);
            constant.named(name)
        } else if let Some(value) = node.int("value_int") {
            Constant::integers_of(vec![value], Vec::new())
        } else if let Some(value) = node.float("value_float") {
            Constant::floats_of(vec![value], Vec::new())
        } else if let Some(values) = node.ints("value_ints") {
            Constant::integers_of(values.to_vec(), vec![values.len()])
        } else if let Some(values) = node.floats("value_floats") {
            Constant::floats_of(values.to_vec(), vec![values.len()])
        } else {
            return Err("it holds neither a tensor nor numbers".into());
        };
        Ok(Value::Constant(constant))
    }

    pub(super) fn concat(&mut self, node: OnnxNode) -> Result<Value> {
        let axis = node.int("axis").unwrap_or(1);
        let parts = (0..node.0.input.len()).map(|index| self.input(node, index)).collect::<Result<Vec<_>>>()?;
        if parts.iter().all(|part| super::integers_of(part).is_some()) {
            return self.join(&parts);
        }
        if axis != 1 && axis != -3 {
            return Err(format!("it joins along dimension {axis}; joining along the channels is supported").into());
        }
        let inputs = (0..parts.len()).map(|index| self.standard(node, index)).collect::<Result<Vec<_>>>()?;
        if let &[only] = &inputs[..] {
            return Ok(self.value(only));
        }
        let id = self.emit(&layer_name(node), Op::Concat, &inputs, Vec::new())?;
        Ok(self.value(id))
    }
}

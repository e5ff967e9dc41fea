//! Sums and products.

use regraft_graph::{Op, Shape, Tensor};

use super::{Lowering, integers_of, layer_name};
use crate::activation::Step;
use crate::node::{OnnxNode, Result};
use crate::tensor::Constant;
use crate::value::{Data, Dim, Integers, Layout, Value};

impl Lowering {
    pub(super) fn arithmetic(&mut self, node: OnnxNode, op: &str) -> Result<Value> {
        let (a, b) = (self.input(node, 0)?, self.input(node, 1)?);
        if let (Some(a), Some(b)) = (integers_of(&a), integers_of(&b)) {
            return combine(op, &a, &b);
        }
        match (a, b) {
            (Value::Data(a), Value::Data(b)) => self.of_two(node, op, a, b),
            (Value::Data(data), Value::Constant(constant)) => self.with_constant(node, op, data, &constant, false),
            (Value::Constant(constant), Value::Data(data)) => self.with_constant(node, op, data, &constant, true),
            (Value::Constant(a), Value::Constant(b)) => self.of_constants(op, &a, &b),
            (Value::Probabilities(_), _) | (_, Value::Probabilities(_)) => {
                Err("it reads a softmax, which is supported only at the end of a network".into())
            }
            _ => Err("it mixes shapes with real numbers".into()),
        }
    }

    /// Of two values that depend on the pictures.
    fn of_two(&mut self, node: OnnxNode, op: &str, a: Data, b: Data) -> Result<Value> {
        if a.layout != b.layout {
            return Err("its inputs have different orders of dimensions".into());
        }
        if op == "Mul"
            && let Some(product) = self.times_itself(node, &a, &b)?
        {
            return Ok(product);
        }
        let (a, b) = (self.settle(a)?, self.settle(b)?);
        let (shape, other) = (self.shapes[a.node], self.shapes[b.node]);
        match op {
            "Add" if shape == other => {
                let id = self.emit(&layer_name(node), Op::Add, &[a.node, b.node], Vec::new())?;
                Ok(Value::Data(Data { node: id, ..a }))
            }
            "Mul" => {
                // One of them has a single pixel: a factor for each channel of the other.
                let pixel = |shape| matches!(shape, Shape::Map { height: 1, width: 1, .. });
                let (map, gate) = if pixel(other) { (a, b) } else { (b, a) };
                if !pixel(self.shapes[gate.node]) || map.layout != Layout::Standard {
                    return Err(format!(
                        "its inputs are {shape} and {other}; a map times one factor a channel is supported"
                    )
                    .into());
                }
                let id = self.emit(&layer_name(node), Op::Mul, &[map.node, gate.node], Vec::new())?;
                Ok(Value::Data(Data { node: id, ..map }))
            }
            "Add" => Err(format!("its inputs are {shape} and {other}; equal shapes are supported").into()),
            _ => Err("its inputs both depend on the picture, for which no operation is known here".into()),
        }
    }

    /// `x * f(x)`: a part of an activation.
    fn times_itself(&mut self, node: OnnxNode, a: &Data, b: &Data) -> Result<Option<Value>> {
        if a.node != b.node {
            return Ok(None);
        }
        let factor = |data: &Data| match data.steps[..] {
            [] => Some(1.0),
            [Step::Mul(c)] => Some(c),
            _ => None,
        };
        let (function, factor) = match (factor(a), factor(b)) {
            (None, Some(c)) => (a, c),
            (Some(c), None) => (b, c),
            _ => return Ok(None),
        };
        let Value::Data(product) = self.step(node, function.clone(), Step::TimesInput)? else { return Ok(None) };
        if product.steps.len() == 1 {
            // The steps so far were too many and have become a node, of which this would be the square.
            return Ok(None);
        }
        if factor == 1.0 {
            Ok(Some(Value::Data(product)))
        } else {
            self.step(node, product, Step::Mul(factor)).map(Some)
        }
    }

    /// Of a value that depends on the picture and a constant; `first` says that the constant comes first.
    fn with_constant(
        &mut self,
        node: OnnxNode,
        op: &str,
        data: Data,
        constant: &Constant,
        first: bool,
    ) -> Result<Value> {
        if op == "Add" && self.take_bias(&data, constant)? {
            return Ok(Value::Data(data));
        }
        if op == "Div" && first {
            return Err("it divides by what depends on the picture".into());
        }
        let (negative, plus) = (Step::Mul(-1.0), Step::Add);
        if let Some(c) = constant.scalar(&self.budget)
            && constant.dims.len() <= 4
        {
            return match (op, first) {
                ("Add", _) => self.step(node, data, plus(c)),
                ("Sub", false) => self.step(node, data, plus(-c)),
                ("Sub", true) => match self.step(node, data, negative)? {
                    Value::Data(data) => self.step(node, data, plus(c)),
                    other => Ok(other),
                },
                ("Mul", _) => self.step(node, data, Step::Mul(c)),
                _ => self.step(node, data, Step::Mul(1.0 / c)),
            };
        }
        let data = self.settle(data)?;
        let channels = self.shapes[data.node].channels();
        let values = per_channel(&data, self.shapes[data.node], &constant.dims)
            .then(|| constant.floats(&self.budget))
            .ok_or_else(|| {
                format!("its constant is {:?}; one number, or one for each channel, is supported", constant.dims)
            })??;
        if op == "Mul" && data.layout == Layout::Standard {
            let op = Op::LayerScale { channels };
            let name = crate::names::owner(&constant.name).map_or_else(|| layer_name(node), str::to_owned);
            let parameters = vec![("layer_scale", Tensor::new([channels, 1, 1], values))];
            let id = self.emit(&name, op, &[data.node], parameters)?;
            return Ok(Value::Data(Data { node: id, ..data }));
        }
        let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
        let each = |f: fn(f32) -> f32| values.iter().map(|&x| f(x)).collect();
        let (factors, summands) = match (op, first) {
            ("Add", _) => (ones, values),
            ("Sub", false) => (ones, each(|x| -x)),
            ("Sub", true) => (vec![-1.0; channels], values),
            ("Mul", _) => (values, zeros),
            _ => (each(|x| 1.0 / x), zeros),
        };
        let id = self.scale(&layer_name(node), data.node, factors, summands)?;
        Ok(Value::Data(Data { node: id, ..data }))
    }

    /// Of two single numbers.
    fn of_constants(&mut self, op: &str, a: &Constant, b: &Constant) -> Result<Value> {
        let (Some(x), Some(y)) = (a.scalar(&self.budget), b.scalar(&self.budget)) else {
            return Err("it computes a constant from others; export with constant folding".into());
        };
        let result = match op {
            "Add" => x + y,
            "Sub" => x - y,
            "Mul" => x * y,
            _ => x / y,
        };
        let dims = if a.dims.len() > b.dims.len() { &a.dims } else { &b.dims };
        Ok(Value::Constant(Constant::floats_of(vec![result], dims.clone())))
    }
}

/// Whether a constant of these dimensions has a number for each channel.
fn per_channel(data: &Data, shape: Shape, dims: &[usize]) -> bool {
    let channels = shape.channels();
    match data.layout {
        Layout::Standard => matches!(*dims, [c, 1, 1] | [1, c, 1, 1] if c == channels),
        Layout::ChannelsLast => matches!(*dims, [c] | [1, c] | [1, 1, c] | [1, 1, 1, c] if c == channels),
        _ => false,
    }
}

/// Integers element by element; one may stand for all.
fn combine(op: &str, a: &Integers, b: &Integers) -> Result<Value> {
    let longest = a.values.len().max(b.values.len());
    let at = |list: &Integers, i: usize| {
        if list.values.len() == 1 { list.values.first().copied() } else { list.values.get(i).copied() }
    };
    let values: Option<Vec<Dim>> = (0..longest).map(|i| at(a, i)?.combine(op, at(b, i)?)).collect();
    let values = values.ok_or("what it computes from the batch size is known only when the network runs")?;
    Ok(Value::Integers(Integers { values, scalar: a.scalar && b.scalar }))
}

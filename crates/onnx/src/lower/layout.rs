//! Operators that move elements or only rename dimensions.

use regraft_graph::{NodeId, Op, Shape};

use super::{Lowering, integers_of, layer_name};
use crate::node::{OnnxNode, Result};
use crate::value::{Data, Dim, Integers, Layout, Value};

impl Lowering {
    pub(super) fn flatten(&mut self, node: OnnxNode) -> Result<Value> {
        let data = self.settled(node, 0)?;
        let axis = node.int("axis").unwrap_or(1);
        let dims = data.layout.dims(self.shapes[data.node]);
        if axis != 1 && axis != -(dims.len() as i64) {
            return Err(format!("its axis is {axis}; flattening to a vector a picture (axis 1) is supported").into());
        }
        self.vector_of(node, &data)
    }

    /// The map as one vector for each picture.
    fn vector_of(&mut self, node: OnnxNode, data: &Data) -> Result<Value> {
        let same_order = match (data.layout, self.shapes[data.node]) {
            (_, Shape::Features(_)) => return Ok(self.value(data.node)),
            // The order of dimensions of one element does not matter.
            (Layout::ChannelsLast, Shape::Map { height: 1, width: 1, .. }) => true,
            (Layout::Standard | Layout::Grouped(_), _) => true,
            _ => false,
        };
        if !same_order {
            return Err("it flattens a map whose dimensions are not in the order N, C, H, W".into());
        }
        let id = self.emit(&layer_name(node), Op::Flatten, &[data.node], Vec::new())?;
        Ok(self.value(id))
    }

    pub(super) fn reshape(&mut self, node: OnnxNode) -> Result<Value> {
        let value = self.input(node, 1)?;
        let target = integers_of(&value).ok_or("its shape depends on the values of the picture")?;
        match self.input(node, 0)? {
            Value::Constant(constant) => {
                let known: Option<Vec<i64>> = target.values.iter().map(|dim| dim.known()).collect();
                let dims = known.and_then(|target| of_as_many(&target, &constant.dims));
                let constant = dims.and_then(|dims| constant.reshape(dims));
                return constant.map(Value::Constant).ok_or_else(|| "the shape of its constant does not fit".into());
            }
            value if integers_of(&value).is_some() => return Ok(value),
            _ => {}
        }
        let data = self.settled(node, 0)?;
        let dims = data.layout.dims(self.shapes[data.node]);
        let zero_is_zero = node.int("allowzero").unwrap_or(0) != 0;
        let Some(target) = self.per_picture(&target.values, &dims, zero_is_zero) else {
            return Err(format!(
                "it makes {} of the batch and {dims:?}, which are not the same pictures",
                show(&target.values)
            )
            .into());
        };
        self.shaped(node, data, &dims, &target)
    }

    /// Gives every picture's value of `dims` the dimensions `target`, where the graph has a way.
    fn shaped(&mut self, node: OnnxNode, data: Data, dims: &[usize], target: &[usize]) -> Result<Value> {
        if target == dims {
            return Ok(Value::Data(data));
        }
        if let &[_] = target {
            return self.vector_of(node, &data);
        }
        if let (Shape::Features(features), &[channels, 1, 1]) = (self.shapes[data.node], target)
            && channels == features
            && let Some(map) = self.unflattened(data.node)
        {
            return Ok(self.value(map));
        }
        match (data.layout, self.shapes[data.node], target) {
            (Layout::Standard, Shape::Map { height, width, .. }, &[groups, _, h, w]) if (h, w) == (height, width) => {
                Ok(Value::Data(Data { layout: Layout::Grouped(groups), ..data }))
            }
            (Layout::Grouped(_), Shape::Map { channels, height, width }, _) if *target == [channels, height, width] => {
                Ok(Value::Data(Data { layout: Layout::Standard, ..data }))
            }
            (Layout::Exchanged(groups), Shape::Map { channels, height, width }, _)
                if *target == [channels, height, width] =>
            {
                let id = self.emit(&layer_name(node), Op::ChannelShuffle { groups }, &[data.node], Vec::new())?;
                Ok(self.value(id))
            }
            _ => Err(format!("it makes {target:?} of {dims:?} for each picture").into()),
        }
    }

    /// Some of the channels of a map.
    fn narrow(&mut self, node: OnnxNode, data: &Data, axis: i64, start: usize, length: usize) -> Result<Value> {
        let shape = self.shapes[data.node];
        let rank = data.layout.dims(shape).len() as i64 + 1;
        if data.layout != Layout::Standard || (axis != 1 && axis != 1 - rank) || !matches!(shape, Shape::Map { .. }) {
            return Err(
                format!("it takes a part along dimension {axis}; parts of a map's channels are supported").into()
            );
        }
        if start == 0 && length == shape.channels() {
            return Ok(Value::Data(data.clone()));
        }
        let id = self.emit(&layer_name(node), Op::Narrow { start, length }, &[data.node], Vec::new())?;
        Ok(self.value(id))
    }

    /// The channels from `starts` to `ends`.
    pub(super) fn slice_channels(&mut self, node: OnnxNode, starts: &[i64], ends: &[i64]) -> Result<Value> {
        let data = self.settled(node, 0)?;
        let (axes, steps) = (self.setting(node, "axes", 3)?, self.setting(node, "steps", 4)?);
        let (&[start], &[end], Some(&[axis]), None | Some([1])) = (starts, ends, axes.as_deref(), steps.as_deref())
        else {
            return Err(
                "it takes a part along several dimensions, or every so many; parts of channels are supported".into()
            );
        };
        let channels = self.shapes[data.node].channels();
        let count = i64::try_from(channels).unwrap_or(i64::MAX);
        let clamp = |index: i64| {
            let index = if index < 0 { index.saturating_add(count) } else { index };
            usize::try_from(index.clamp(0, count)).unwrap_or(0)
        };
        let (start, end) = (clamp(start), clamp(end));
        self.narrow(node, &data, axis, start, end.saturating_sub(start))
    }

    /// The channels in parts, one after another.
    pub(super) fn split(&mut self, node: OnnxNode) -> Result<Vec<Value>> {
        let data = self.settled(node, 0)?;
        let (axis, parts) = (node.int("axis").unwrap_or(0), node.0.output.len());
        let channels = self.shapes[data.node].channels();
        let sizes: Vec<usize> = match self.setting(node, "split", 1)? {
            Some(sizes) => sizes.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect(),
            None => {
                let size = channels.div_ceil(parts.max(1)).max(1);
                (0..parts).map(|part| size.min(channels.saturating_sub(part * size))).collect()
            }
        };
        if sizes.len() != parts {
            return Err(format!("it has {parts} outputs for {} parts", sizes.len()).into());
        }
        let mut start = 0;
        let mut values = Vec::with_capacity(parts);
        for size in sizes {
            values.push(self.narrow(node, &data, axis, start, size)?);
            start = start.saturating_add(size);
        }
        Ok(values)
    }

    /// The map of one pixel that a vector was made of.
    fn unflattened(&self, node: NodeId) -> Option<NodeId> {
        let layer = &self.graph.nodes()[node];
        let from = *layer.inputs.first()?;
        let pixel = matches!(self.shapes[from], Shape::Map { height: 1, width: 1, .. });
        (layer.op == Op::Flatten && pixel).then_some(from)
    }

    /// The dimensions of one picture's value in a target shape, whose first dimension must be the batch; `None` if it
    /// is not, or the number of elements differs.
    fn per_picture(&self, target: &[Dim], dims: &[usize], zero_is_zero: bool) -> Option<Vec<usize>> {
        let (&first, rest) = target.split_first()?;
        let mut open = None;
        let mut sizes = Vec::with_capacity(rest.len());
        for (i, dim) in rest.iter().enumerate() {
            sizes.push(match dim.known()? {
                -1 if open.is_none() => {
                    open = Some(i);
                    1
                }
                0 if !zero_is_zero => *dims.get(i)?,
                n => usize::try_from(n).ok().filter(|&n| n > 0)?,
            });
        }
        let (all, given) = (product(dims)?, product(&sizes)?);
        let is_batch = match first {
            Dim::Batch(n) => n == 1,
            Dim::Known(0) => !zero_is_zero,
            // Whatever is left over must be the batch, and is where the rest is a picture's.
            Dim::Known(-1) => open.is_none(),
            Dim::Known(n) => self.batch == Some(n),
        };
        if let Some(i) = open {
            sizes[i] = all.checked_div(given)?;
        }
        (is_batch && product(&sizes)? == all).then_some(sizes)
    }

    pub(super) fn transpose(&mut self, node: OnnxNode) -> Result<Value> {
        let perm = node.ints("perm");
        if let Value::Constant(constant) = self.input(node, 0)? {
            let swaps = perm.is_none_or(|perm| perm == [1, 0]);
            let swapped = constant.transpose().filter(|_| swaps);
            return swapped.map(Value::Constant).ok_or_else(|| "its constant is no matrix".into());
        }
        let data = self.settled(node, 0)?;
        let layout = match (data.layout, perm) {
            (layout, Some([0, 1, 2, 3] | [0, 1])) => layout,
            (Layout::Standard, Some([0, 2, 3, 1])) => Layout::ChannelsLast,
            (Layout::ChannelsLast, Some([0, 3, 1, 2])) => Layout::Standard,
            (Layout::Grouped(groups), Some([0, 2, 1, 3, 4])) => Layout::Exchanged(groups),
            (Layout::Exchanged(groups), Some([0, 2, 1, 3, 4])) => Layout::Grouped(groups),
            (_, perm) => return Err(format!("its perm is {:?}", perm.unwrap_or_default()).into()),
        };
        if matches!(self.shapes[data.node], Shape::Features(_)) && layout != data.layout {
            return Err("it exchanges the dimensions of a vector".into());
        }
        Ok(Value::Data(Data { layout, ..data }))
    }

    pub(super) fn squeeze(&mut self, node: OnnxNode) -> Result<Value> {
        let axes = self.setting(node, "axes", 1)?;
        let value = self.input(node, 0)?;
        if let Some(list) = integers_of(&value) {
            let scalar = list.values.len() == 1;
            return Ok(Value::Integers(Integers { scalar, ..list }));
        }
        let data = self.settled(node, 0)?;
        let pixel = matches!(self.shapes[data.node], Shape::Map { height: 1, width: 1, .. });
        let mut axes: Vec<i64> =
            axes.unwrap_or_default().iter().map(|&axis| if axis < 0 { axis.saturating_add(4) } else { axis }).collect();
        axes.sort_unstable();
        if data.layout != Layout::Standard || !pixel || axes != [2, 3] {
            return Err("removing height and width of one pixel (axes 2, 3) is supported".into());
        }
        self.vector_of(node, &data)
    }

    pub(super) fn unsqueeze(&mut self, node: OnnxNode) -> Result<Value> {
        let axes = self.setting(node, "axes", 1)?.unwrap_or_default();
        match self.input(node, 0)? {
            Value::Constant(constant) if constant.integers().is_none() => {
                let mut dims = constant.dims.clone();
                let rank = dims.len() + axes.len();
                let mut places: Vec<usize> = axes
                    .iter()
                    .filter_map(|&axis| {
                        usize::try_from(if axis < 0 { axis.saturating_add(rank as i64) } else { axis }).ok()
                    })
                    .collect();
                places.sort_unstable();
                for place in places {
                    if place > dims.len() || dims.len() >= 8 {
                        return Err("its axes do not fit its constant".into());
                    }
                    dims.insert(place, 1);
                }
                constant.reshape(dims).map(Value::Constant).ok_or_else(|| "its constant is transposed".into())
            }
            value if integers_of(&value).is_some_and(|list| list.values.len() == 1) => {
                let list = integers_of(&value).expect("it was looked at");
                Ok(Value::Integers(Integers { scalar: false, ..list }))
            }
            _ => {
                let data = self.settled(node, 0)?;
                let map = (axes == [2, 3] || axes == [-2, -1]).then(|| self.unflattened(data.node)).flatten();
                map.map(|map| self.value(map))
                    .ok_or_else(|| "adding dimensions to a vector is supported where it was a map".into())
            }
        }
    }
}

fn product(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(1usize, |n, &size| n.checked_mul(size))
}

/// Resolves 0 and -1 in the shape that a constant is to have.
fn of_as_many(target: &[i64], dims: &[usize]) -> Option<Vec<usize>> {
    let given: Option<Vec<usize>> = target
        .iter()
        .enumerate()
        .map(|(i, &n)| match n {
            -1 => Some(1),
            0 => dims.get(i).copied(),
            n => usize::try_from(n).ok(),
        })
        .collect();
    let mut sizes = given?;
    if let Some(open) = target.iter().position(|&n| n == -1) {
        sizes[open] = product(dims)?.checked_div(product(&sizes)?)?;
    }
    (sizes.len() <= 8).then_some(sizes)
}

/// A shape as it is written in messages.
fn show(dims: &[Dim]) -> String {
    let each = dims.iter().map(|dim| match dim {
        Dim::Known(n) => n.to_string(),
        Dim::Batch(1) => "N".into(),
        Dim::Batch(n) => format!("{n}*N"),
    });
    format!("[{}]", each.collect::<Vec<_>>().join(", "))
}

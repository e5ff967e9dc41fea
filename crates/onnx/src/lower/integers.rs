//! Shapes as values: what torch.onnx writes where the code of a network asks for a size.

use super::{Lowering, integers_of};
use crate::node::{OnnxNode, Result};
use crate::value::{Dim, Integers, Value};

/// A place counted from the end if it is negative.
fn place(index: i64, len: usize) -> Option<usize> {
    usize::try_from(if index < 0 { index.checked_add(i64::try_from(len).ok()?)? } else { index }).ok()
}

impl Lowering {
    pub(super) fn shape(&mut self, node: OnnxNode) -> Result<Value> {
        let values: Vec<Dim> = match self.input(node, 0)? {
            Value::Constant(constant) => constant.dims.iter().map(|&n| Dim::Known(n as i64)).collect(),
            _ => {
                let data = self.data(node, 0)?;
                let dims = data.layout.dims(self.shapes[data.node]);
                std::iter::once(Dim::Batch(1)).chain(dims.iter().map(|&n| Dim::Known(n as i64))).collect()
            }
        };
        let clamp = |index: i64| place(index, values.len()).unwrap_or(0).min(values.len());
        let start = clamp(node.int("start").unwrap_or(0));
        let end = node.int("end").map_or(values.len(), clamp).max(start);
        Ok(Value::Integers(Integers { values: values[start..end].to_vec(), scalar: false }))
    }

    pub(super) fn gather(&mut self, node: OnnxNode) -> Result<Value> {
        let (from, indices) = (self.input(node, 0)?, self.input(node, 1)?);
        let Some(list) = integers_of(&from) else {
            return Err("it picks from what is no shape".into());
        };
        let Some(indices) = integers_of(&indices) else { return Err("its indices are computed".into()) };
        let pick = |index: &Dim| list.values.get(place(index.known()?, list.values.len())?).copied();
        let values: Option<Vec<Dim>> = indices.values.iter().map(pick).collect();
        let values = values.ok_or("it picks from outside of a shape")?;
        Ok(Value::Integers(Integers { values, scalar: indices.scalar }))
    }

    /// Shapes one after another.
    pub(super) fn join(&mut self, parts: &[Value]) -> Result<Value> {
        let mut values = Vec::new();
        for part in parts {
            values.extend(integers_of(part).into_iter().flat_map(|list| list.values));
            // Joined with itself again and again it would double each time.
            if values.len() > super::MAX_SHAPE {
                return Err("it joins more integers than any shape has".into());
            }
        }
        Ok(Value::Integers(Integers { values, scalar: false }))
    }

    pub(super) fn slice(&mut self, node: OnnxNode) -> Result<Value> {
        let starts = self.setting(node, "starts", 1)?.unwrap_or_default();
        let ends = self.setting(node, "ends", 2)?.unwrap_or_default();
        let steps = self.setting(node, "steps", 4)?;
        let from = self.input(node, 0)?;
        let Some(list) = integers_of(&from) else {
            return self.slice_channels(node, &starts, &ends);
        };
        let len = list.values.len();
        let (&[start], &[end], None | Some([1])) = (&starts[..], &ends[..], steps.as_deref()) else {
            return Err("it takes every so many entries of a shape".into());
        };
        let clamp = |index: i64| {
            if index < 0 { place(index, len).unwrap_or(0) } else { place(index, len).unwrap_or(len).min(len) }
        };
        let (start, end) = (clamp(start), clamp(end));
        let values = list.values.get(start..end.max(start)).unwrap_or_default().to_vec();
        Ok(Value::Integers(Integers { values, scalar: false }))
    }
}

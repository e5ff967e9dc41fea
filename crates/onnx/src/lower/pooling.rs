//! Pooling.

use regraft_graph::{AvgPool2d, MaxPool2d, NodeId, Op};

use super::{Lowering, layer_name};
use crate::node::{OnnxNode, Result};
use crate::value::{Layout, Value};

/// A window as the file gives it.
struct Window {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    ceil_mode: bool,
}

impl Window {
    fn of(node: OnnxNode, size: [usize; 2]) -> Result<Self> {
        let kernel = node.pair("kernel_shape", 0)?;
        let (stride, dilation) = (node.pair("strides", 1)?, node.pair("dilations", 1)?);
        if dilation != [1, 1] {
            return Err(format!("its dilations are {dilation:?}; pooling without dilation is supported").into());
        }
        if kernel.contains(&0) || stride.contains(&0) {
            return Err("its kernel_shape or strides are 0".into());
        }
        let padding = node.padding(size, kernel, stride, dilation)?;
        Ok(Self { kernel, stride, padding, ceil_mode: node.int("ceil_mode").unwrap_or(0) != 0 })
    }
}

fn square(what: &str, pair: [usize; 2]) -> Result<usize> {
    match pair {
        [a, b] if a == b => Ok(a),
        _ => Err(format!("its {what} is {pair:?}; pooling over squares is supported").into()),
    }
}

impl Lowering {
    pub(super) fn max_pool(&mut self, node: OnnxNode) -> Result<Value> {
        let (from, [_, height, width]) = self.map(node, 0)?;
        let window = Window::of(node, [height, width])?;
        let pool = MaxPool2d {
            kernel_size: square("kernel_shape", window.kernel)?,
            stride: square("strides", window.stride)?,
            padding: square("pads", window.padding)?,
            ceil_mode: window.ceil_mode,
        };
        let id = self.emit(&layer_name(node), Op::MaxPool2d(pool), &[from], Vec::new())?;
        Ok(self.value(id))
    }

    pub(super) fn average_pool(&mut self, node: OnnxNode) -> Result<Value> {
        let (from, [_, height, width]) = self.map(node, 0)?;
        let window = Window::of(node, [height, width])?;
        if window.padding == [0, 0] {
            if window.kernel == [1, 1] && window.stride == [1, 1] {
                return Ok(self.value(from));
            }
            if window.kernel == [height, width] {
                return self.mean(node, from);
            }
        }
        let zeros_count = node.int("count_include_pad").unwrap_or(0) != 0;
        if window.padding != [0, 0] && !zeros_count {
            return Err("its mean leaves the border out (count_include_pad is 0)".into());
        }
        let pool = AvgPool2d {
            kernel_size: square("kernel_shape", window.kernel)?,
            stride: square("strides", window.stride)?,
            padding: square("pads", window.padding)?,
        };
        let hangs_over = |n: usize| {
            let room = pool.padding.saturating_mul(2).saturating_add(n);
            !room.saturating_sub(pool.kernel_size).is_multiple_of(pool.stride)
        };
        if window.ceil_mode && (hangs_over(height) || hangs_over(width)) {
            return Err("its last window hangs over the edge (ceil_mode)".into());
        }
        let id = self.emit(&layer_name(node), Op::AvgPool2d(pool), &[from], Vec::new())?;
        Ok(self.value(id))
    }

    pub(super) fn global_average_pool(&mut self, node: OnnxNode) -> Result<Value> {
        let (from, _) = self.map(node, 0)?;
        self.mean(node, from)
    }

    pub(super) fn reduce_mean(&mut self, node: OnnxNode) -> Result<Value> {
        let data = self.settled(node, 0)?;
        let axes = self.setting(node, "axes", 1)?.unwrap_or_default();
        let mut axes: Vec<i64> =
            axes.iter().map(|&axis| if axis < 0 { axis.saturating_add(4) } else { axis }).collect();
        axes.sort_unstable();
        let keep = node.int("keepdims").unwrap_or(1) != 0;
        let wanted: &[i64] = match data.layout {
            Layout::Standard => &[2, 3],
            Layout::ChannelsLast if !keep => &[1, 2],
            _ => &[],
        };
        if wanted.is_empty() || axes != wanted || matches!(self.shapes[data.node], regraft_graph::Shape::Features(_)) {
            return Err(format!("it averages along {axes:?}; averaging over height and width is supported").into());
        }
        let pooled = self.mean(node, data.node)?;
        match pooled {
            Value::Data(pooled) if !keep => {
                let id = self.emit("flatten", Op::Flatten, &[pooled.node], Vec::new())?;
                Ok(self.value(id))
            }
            pooled => Ok(pooled),
        }
    }

    fn mean(&mut self, node: OnnxNode, from: NodeId) -> Result<Value> {
        let id = self.emit(&layer_name(node), Op::AdaptiveAvgPool2d { output_size: 1 }, &[from], Vec::new())?;
        Ok(self.value(id))
    }
}

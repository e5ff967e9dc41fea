//! Shapes of one sample's values, and how each operation changes them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{BatchNorm2d, Error, Graph, Node, Op};

/// Shape of the value of one sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// A feature map (or an image): `channels` planes of `height` by `width`.
    Map {
        /// Number of channels.
        channels: usize,
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// A vector of features.
    Features(usize),
}

impl Shape {
    /// An RGB image of `size` by `size` pixels.
    pub fn rgb(size: usize) -> Self {
        Shape::Map { channels: 3, height: size, width: size }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match *self {
            Shape::Map { channels, height, width } => channels * height * width,
            Shape::Features(features) => features,
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Channels of a map, or the length of a vector.
    pub fn channels(&self) -> usize {
        match *self {
            Shape::Map { channels, .. } => channels,
            Shape::Features(features) => features,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Map { channels, height, width } => write!(f, "{channels}x{height}x{width}"),
            Shape::Features(features) => write!(f, "{features}"),
        }
    }
}

/// No value of one sample may hold more elements than this (4 GiB of `f32`): a file from a stranger
/// must not be able to ask for more.
const MAX_ELEMENTS: usize = 1 << 30;

/// A filter is padded by this many times what it covers, at most.
///
/// Positions in padding beyond the filter's reach give nothing but the bias, so networks pad by less than it covers, and a
/// few (Caffe's) a 1x1 filter by 1. Far more than that is no network, but a file that wants work to be done for nothing.
const MAX_PADDING: usize = 2;

/// What a filter covers along one dimension: from its first tap to its last.
fn extent(kernel: usize, dilation: usize) -> Option<usize> {
    dilation.checked_mul(kernel.checked_sub(1)?)?.checked_add(1)
}

/// Length of a window's output along one dimension (`torch.nn.Conv2d`, `floor` form), or `None` if it does not fit.
fn window_output(input: usize, kernel: usize, stride: usize, padding: usize, dilation: usize) -> Option<usize> {
    let room = padding.checked_mul(2)?.checked_add(input)?.checked_sub(extent(kernel, dilation)?)?;
    Some(room.checked_div(stride)? + 1)
}

/// Length of a pooling output along one dimension (`torch.nn.MaxPool2d`).
fn pool_output(input: usize, kernel: usize, stride: usize, padding: usize, ceil_mode: bool) -> Option<usize> {
    let floor = window_output(input, kernel, stride, padding, 1)?;
    let hangs_over = !(padding * 2 + input - kernel).is_multiple_of(stride);
    // A hanging window counts only if it starts inside the input or its left border.
    Some(if ceil_mode && hangs_over && floor * stride < input + padding { floor + 1 } else { floor })
}

impl Graph {
    /// The shape of every node's value, for one sample.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Invalid`] naming the first layer that cannot take its inputs.
    pub fn shapes(&self) -> Result<Vec<Shape>, Error> {
        let mut shapes: Vec<Shape> = Vec::with_capacity(self.nodes().len());
        for node in self.nodes() {
            let inputs: Vec<Shape> = node.inputs.iter().map(|&input| shapes[input]).collect();
            let input = (node.op == Op::Input).then(|| self.input_shape());
            shapes.push(input.map_or_else(|| output_shape(node, &inputs), Ok).and_then(|shape| possible(node, shape))?);
        }
        Ok(shapes)
    }
}

impl Node {
    /// The shape this node gives for inputs of these shapes, for one sample; for those who build a graph node by node.
    ///
    /// # Errors
    /// As [`Graph::shapes`].
    pub fn output_shape(&self, inputs: &[Shape]) -> Result<Shape, Error> {
        output_shape(self, inputs).and_then(|shape| possible(self, shape))
    }
}

/// The shape, if a value may have it.
fn possible(node: &Node, shape: Shape) -> Result<Shape, Error> {
    let elements = match shape {
        Shape::Map { channels, height, width } => {
            channels.checked_mul(height).and_then(|plane| plane.checked_mul(width))
        }
        Shape::Features(features) => Some(features),
    };
    if elements.is_none_or(|elements| elements == 0 || elements > MAX_ELEMENTS) {
        return Err(Error::Invalid {
            layer: node.name.clone(),
            reason: format!("its value has the impossible shape {shape}"),
        });
    }
    Ok(shape)
}

/// The shape a node gives for inputs of these shapes.
fn output_shape(node: &Node, inputs: &[Shape]) -> Result<Shape, Error> {
    let wanted = match node.op {
        Op::Input => 0,
        Op::Add | Op::Mul => 2,
        Op::Concat => inputs.len().max(1),
        _ => 1,
    };
    if inputs.len() != wanted {
        return Err(Error::Invalid {
            layer: node.name.clone(),
            reason: format!("{} takes {wanted} input(s), not {}", node.op.name(), inputs.len()),
        });
    }
    let input = inputs[0];
    let wrong = |found: Shape, reason: String| {
        Err(Error::Shape { layer: node.name.clone(), op: node.op.name(), found, reason })
    };
    let too_small = |what: &str| format!("the {what} is larger than the padded input; give larger images");
    match (&node.op, input) {
        (Op::Conv2d(conv), Shape::Map { channels, height, width }) => {
            let divisible = conv.groups > 0
                && conv.in_channels.is_multiple_of(conv.groups)
                && conv.out_channels.is_multiple_of(conv.groups);
            if !divisible || conv.kernel_size.contains(&0) || conv.stride.contains(&0) || conv.dilation.contains(&0) {
                return wrong(input, format!("its settings contradict each other: {conv:?}"));
            }
            if channels != conv.in_channels {
                return wrong(input, format!("it needs {} channels", conv.in_channels));
            }
            for i in 0..2 {
                let (padding, covers) = (conv.padding[i], extent(conv.kernel_size[i], conv.dilation[i]));
                if let Some(covers) = covers.filter(|covers| padding > covers.saturating_mul(MAX_PADDING)) {
                    let reason = format!(
                        "its padding is {padding}, but its filter covers {covers}; pad by {MAX_PADDING} times that at most"
                    );
                    return wrong(input, reason);
                }
            }
            let along =
                |i: usize, n| window_output(n, conv.kernel_size[i], conv.stride[i], conv.padding[i], conv.dilation[i]);
            match (along(0, height), along(1, width)) {
                (Some(height), Some(width)) => Ok(Shape::Map { channels: conv.out_channels, height, width }),
                _ => wrong(input, too_small("filter")),
            }
        }
        (Op::BatchNorm2d(BatchNorm2d { num_features: channels, .. }), _)
        | (Op::LayerNorm { normalized_shape: channels, .. } | Op::LayerScale { channels }, _)
            if input.channels() != *channels =>
        {
            wrong(input, format!("it needs {channels} channels"))
        }
        (Op::MaxPool2d(pool), Shape::Map { channels, height, width }) => {
            if pool.kernel_size == 0 || pool.stride == 0 || pool.padding > pool.kernel_size / 2 {
                return wrong(input, format!("its settings contradict each other: {pool:?}"));
            }
            let along = |n| pool_output(n, pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode);
            match (along(height), along(width)) {
                (Some(height), Some(width)) => Ok(Shape::Map { channels, height, width }),
                _ => wrong(input, too_small("window")),
            }
        }
        (Op::AvgPool2d(pool), Shape::Map { channels, height, width }) => {
            if pool.kernel_size == 0 || pool.stride == 0 || pool.padding > pool.kernel_size / 2 {
                return wrong(input, format!("its settings contradict each other: {pool:?}"));
            }
            let along = |n| pool_output(n, pool.kernel_size, pool.stride, pool.padding, false);
            match (along(height), along(width)) {
                (Some(height), Some(width)) => Ok(Shape::Map { channels, height, width }),
                _ => wrong(input, too_small("window")),
            }
        }
        (Op::AdaptiveAvgPool2d { output_size }, Shape::Map { channels, .. }) => {
            Ok(Shape::Map { channels, height: *output_size, width: *output_size })
        }
        (Op::Linear(linear), Shape::Features(features)) if features == linear.in_features => {
            Ok(Shape::Features(linear.out_features))
        }
        (Op::Linear(linear), Shape::Map { channels, height, width }) if channels == linear.in_features => {
            Ok(Shape::Map { channels: linear.out_features, height, width })
        }
        (Op::Linear(linear), Shape::Map { .. }) => wrong(input, format!("it needs {} channels", linear.in_features)),
        (Op::Linear(linear), _) => wrong(input, format!("it needs a vector of {}", linear.in_features)),
        (Op::CosineLinear(cosine), Shape::Features(features)) if features == cosine.in_features => {
            Ok(Shape::Features(cosine.out_features))
        }
        (Op::CosineLinear(cosine), _) => wrong(input, format!("it needs a vector of {}", cosine.in_features)),
        (Op::Add, _) if inputs[1] != input => wrong(inputs[1], format!("its other input is {input}")),
        (Op::Concat, Shape::Map { height, width, .. }) => {
            let mut channels = 0usize;
            for &shape in inputs {
                match shape {
                    Shape::Map { channels: c, height: h, width: w } if (h, w) == (height, width) => {
                        channels = channels.saturating_add(c);
                    }
                    other => return wrong(other, format!("its first input is {input}")),
                }
            }
            Ok(Shape::Map { channels, height, width })
        }
        (Op::Mul, Shape::Map { channels, .. }) => match inputs[1] {
            Shape::Map { channels: factors, height: 1, width: 1 } if factors == channels => Ok(input),
            other => wrong(other, format!("it needs one factor for each channel of {input}")),
        },
        (Op::Narrow { start, length }, _) if start.checked_add(*length).is_none_or(|end| end > input.channels()) => {
            wrong(input, format!("it needs channels {start} to {}", start.saturating_add(*length)))
        }
        (Op::Narrow { length, .. }, Shape::Map { height, width, .. }) => {
            Ok(Shape::Map { channels: *length, height, width })
        }
        (Op::ChannelShuffle { groups }, _) if *groups == 0 || !input.channels().is_multiple_of(*groups) => {
            wrong(input, format!("its channels are no multiple of {groups}"))
        }
        (Op::ChannelShuffle { .. }, Shape::Map { .. }) => Ok(input),
        (Op::StochasticDepth { .. } | Op::Scale { .. } | Op::LayerNorm { .. } | Op::LayerScale { .. }, _) => Ok(input),
        (op, _) if op.is_activation() => Ok(input),
        (Op::Flatten, shape) => Ok(Shape::Features(shape.len())),
        (Op::BatchNorm2d(_) | Op::Dropout { .. } | Op::Add, shape) => Ok(shape),
        _ => wrong(input, "it needs a feature map".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conv2d, MaxPool2d};

    #[test]
    fn pooling_with_ceil_mode_follows_pytorch() {
        // (input, kernel, stride, padding) -> (floor, ceil), from torch.nn.MaxPool2d
        for ((input, kernel, stride, padding), (floor, ceil)) in
            [((111, 3, 2, 0), (55, 55)), ((54, 3, 2, 0), (26, 27)), ((13, 3, 2, 1), (7, 7)), ((5, 2, 3, 1), (2, 2))]
        {
            assert_eq!(pool_output(input, kernel, stride, padding, false), Some(floor), "{input} {kernel} {stride}");
            assert_eq!(pool_output(input, kernel, stride, padding, true), Some(ceil), "{input} {kernel} {stride}");
        }
    }

    #[test]
    fn errors_name_the_layer_and_both_shapes() {
        let mut graph = Graph::new(Shape::rgb(8));
        graph.push("stem", Op::Conv2d(Conv2d::new(4, 8, 3)), &[0]);
        let error = graph.shapes().unwrap_err().to_string();
        assert_eq!(error, "layer stem (Conv2d) cannot take an input of 3x8x8: it needs 4 channels");

        let mut graph = Graph::new(Shape::rgb(2));
        graph.push("pool", Op::MaxPool2d(MaxPool2d { kernel_size: 3, stride: 2, padding: 0, ceil_mode: false }), &[0]);
        assert!(graph.shapes().unwrap_err().to_string().contains("give larger images"));
    }

    #[test]
    fn padding_is_bounded_by_what_the_filter_covers() {
        let shapes = |conv: Conv2d| {
            let mut graph = Graph::new(Shape::rgb(16));
            graph.push("stem", Op::Conv2d(conv), &[0]);
            graph.shapes().map(|shapes| shapes[1])
        };
        let conv = |kernel: usize, padding: usize| Conv2d::new(3, 8, kernel).padding(padding);
        // A convolution of Caffe's SqueezeNet, and one with a wide view of a small map.
        assert_eq!(shapes(conv(1, 1)).unwrap(), Shape::Map { channels: 8, height: 18, width: 18 });
        let atrous = Conv2d { dilation: [36; 2], ..conv(3, 36) };
        assert_eq!(shapes(atrous).unwrap(), Shape::Map { channels: 8, height: 16, width: 16 });
        // Without a bound the result is small, and what is padded for it some gigabytes.
        let refused = |conv: Conv2d| shapes(conv).unwrap_err().to_string();
        let expected = "layer stem (Conv2d) cannot take an input of 3x16x16: its padding is 268435456, but its filter \
            covers 3; pad by 2 times that at most";
        assert_eq!(refused(conv(3, 1 << 28).stride(1 << 20)), expected);
        for padding in [[7, 0], [0, 7]] {
            assert!(refused(Conv2d { padding, ..Conv2d::new(3, 8, 3) }).contains("padding is 7"), "{padding:?}");
        }
    }

    #[test]
    fn absurd_sizes_are_refused_without_overflow() {
        let mut graph = Graph::new(Shape::Map { channels: usize::MAX, height: 3, width: 3 });
        graph.push("relu", Op::ReLU, &[0]);
        assert!(graph.shapes().is_err());
        let mut graph = Graph::new(Shape::rgb(8));
        let conv = Conv2d { padding: [usize::MAX / 2 + 1; 2], ..Conv2d::new(3, 8, 3) };
        graph.push("conv", Op::Conv2d(conv), &[0]);
        assert!(graph.shapes().is_err());
    }
}

//! What a step can compute.

use regraft_graph::{Conv2d, NodeId, Op};

/// A function of single elements. Names and definitions are those of `torch.nn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ActivationFn {
    /// `x`
    #[default]
    Identity,
    /// `max(x, 0)`
    ReLU,
    /// `min(max(x, 0), 6)`
    ReLU6,
    /// `x * min(max(x + 3, 0), 6) / 6`
    Hardswish,
    /// `min(max(x + 3, 0), 6) / 6`
    Hardsigmoid,
    /// `x / (1 + exp(-x))`
    SiLU,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// `x * (1 + erf(x / sqrt(2))) / 2`
    GELU,
}

impl ActivationFn {
    /// The function that an operation is, if it is one.
    pub fn of(op: &Op) -> Option<Self> {
        Some(match op {
            Op::ReLU => Self::ReLU,
            Op::ReLU6 => Self::ReLU6,
            Op::Hardswish => Self::Hardswish,
            Op::Hardsigmoid => Self::Hardsigmoid,
            Op::SiLU => Self::SiLU,
            Op::Sigmoid => Self::Sigmoid,
            Op::GELU => Self::GELU,
            _ => return None,
        })
    }

    /// Whether the derivative is a function of the output, so that the input need not be kept.
    pub fn derivative_from_output(self) -> bool {
        matches!(self, Self::Identity | Self::ReLU | Self::ReLU6)
    }
}

/// A square window of a pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolWindow {
    /// Side.
    pub kernel_size: usize,
    /// Step.
    pub stride: usize,
    /// Border on each side: it never wins a maximum, and counts as zeros in an average.
    pub padding: usize,
}

/// What an average is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Average {
    /// PyTorch's adaptive bins, which divide the input evenly and may overlap.
    Adaptive,
    /// A window; zeros in the padding count.
    Window(PoolWindow),
}

/// A batch norm in evaluation mode, folded into the convolution before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FoldedNorm {
    /// Its node.
    pub node: NodeId,
    /// Added to the variance under the root.
    pub eps: f32,
}

/// The operation of a step; the epilogue (residual, activation) comes on top.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A convolution, or a fully connected layer on the channels of each pixel.
    Conv {
        /// Its settings.
        conv: Conv2d,
        /// Height and width of the input.
        input: [usize; 2],
        /// Height and width of the output.
        output: [usize; 2],
        /// The batch norm folded into it.
        folded: Option<FoldedNorm>,
        /// The batch norm for which it gathers the statistics of its result.
        gathers: Option<NodeId>,
    },
    /// A batch norm on its own.
    BatchNorm {
        /// Whether it normalises with the batch's statistics and moves the running ones.
        batch_statistics: bool,
        /// Added to the variance under the root.
        eps: f32,
        /// Weight of the newest batch in the running statistics.
        momentum: f32,
        /// Index of the step that gathers the batch's statistics for it, if one does.
        from: Option<usize>,
    },
    /// A fully connected layer.
    Linear,
    /// Scaled cosines with the rows of a weight.
    Cosine,
    /// Maximum pooling.
    MaxPool {
        /// Its window.
        window: PoolWindow,
        /// Height and width of the input.
        input: [usize; 2],
        /// Height and width of the output.
        output: [usize; 2],
    },
    /// Average pooling.
    AvgPool {
        /// What each average is taken over.
        average: Average,
        /// Height and width of the input.
        input: [usize; 2],
        /// Height and width of the output.
        output: [usize; 2],
    },
    /// A layer norm over the channels.
    LayerNorm {
        /// Added to the variance under the root.
        eps: f32,
    },
    /// Each channel times a factor.
    ScaleChannels {
        /// The factor, if it is a constant; else it is the parameter `layer_scale`.
        factor: Option<f32>,
    },
    /// The first input's map times the second input's factor for each channel.
    Gate {
        /// Pixels of the map.
        pixels: usize,
    },
    /// Some of the input's channels.
    Narrow {
        /// The first of them.
        start: usize,
        /// Channels of the input.
        of: usize,
    },
    /// Channels of groups in another order: channel `j` of group `i` becomes channel `i` of group `j`.
    Shuffle {
        /// Groups of neighbouring channels.
        groups: usize,
    },
    /// Concatenation of the channels of the inputs.
    Concat {
        /// Channels of each input.
        channels: Vec<usize>,
    },
    /// Random masking of elements.
    Dropout {
        /// Probability of zeroing.
        p: f32,
    },
    /// Random masking of whole samples.
    StochasticDepth {
        /// Probability of zeroing.
        p: f32,
    },
    /// An activation whose derivative needs its input.
    Activation(ActivationFn),
    /// From pixels of channels to channels of pixels.
    Flatten {
        /// Pixels of the input.
        pixels: usize,
    },
    /// Nothing: the epilogue alone.
    Identity,
}

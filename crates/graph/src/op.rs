//! The operations a network is made of, with PyTorch's names, parameters and defaults.

use serde::{Deserialize, Serialize};

/// `torch.nn.Conv2d`. Weight `[out_channels, in_channels / groups, kh, kw]`, bias `[out_channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv2d {
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Height and width of the filter.
    pub kernel_size: [usize; 2],
    /// Step of the filter, vertical and horizontal.
    pub stride: [usize; 2],
    /// Zeros added on each side, vertical and horizontal.
    pub padding: [usize; 2],
    /// Distance between the filter's taps.
    pub dilation: [usize; 2],
    /// Input and output channels are divided into this many groups that don't see each other.
    pub groups: usize,
    /// Whether a bias is added to each output channel.
    pub bias: bool,
}

impl Conv2d {
    /// A square convolution with stride 1, no padding, one group and no bias.
    pub fn new(in_channels: usize, out_channels: usize, kernel_size: usize) -> Self {
        Self {
            in_channels,
            out_channels,
            kernel_size: [kernel_size; 2],
            stride: [1; 2],
            padding: [0; 2],
            dilation: [1; 2],
            groups: 1,
            bias: false,
        }
    }

    /// The same with another stride.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = [stride; 2];
        self
    }

    /// The same with another padding.
    pub fn padding(mut self, padding: usize) -> Self {
        self.padding = [padding; 2];
        self
    }

    /// The same with another number of groups.
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = groups;
        self
    }

    /// The same with a bias.
    pub fn bias(mut self) -> Self {
        self.bias = true;
        self
    }

    /// Shape of the weight as PyTorch keeps it.
    pub fn weight_shape(&self) -> [usize; 4] {
        [self.out_channels, self.in_channels / self.groups, self.kernel_size[0], self.kernel_size[1]]
    }
}

/// `torch.nn.BatchNorm2d`: parameters `weight`, `bias`, buffers `running_mean`, `running_var`, all `[num_features]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchNorm2d {
    /// Channels of the input.
    pub num_features: usize,
    /// Added to the variance under the root.
    pub eps: f32,
    /// Weight of the newest batch in the running statistics.
    pub momentum: f32,
}

/// `torch.nn.Linear`. Weight `[out_features, in_features]`, bias `[out_features]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linear {
    /// Length of the input vector.
    pub in_features: usize,
    /// Length of the output vector.
    pub out_features: usize,
    /// Whether a bias is added.
    pub bias: bool,
}

/// `torch.nn.MaxPool2d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxPool2d {
    /// Height and width of the window.
    pub kernel_size: usize,
    /// Step of the window.
    pub stride: usize,
    /// Border on each side, which never wins the maximum.
    pub padding: usize,
    /// Whether a last window that hangs over the edge counts.
    pub ceil_mode: bool,
}

/// `torch.nn.AvgPool2d`, with `count_include_pad`: zeros on the border count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AvgPool2d {
    /// Height and width of the window.
    pub kernel_size: usize,
    /// Step of the window.
    pub stride: usize,
    /// Zeros on each side.
    pub padding: usize,
}

/// One operation. Names and semantics are those of `torch.nn`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op")]
pub enum Op {
    /// The images, or the features a head is trained on.
    Input,
    /// Convolution.
    Conv2d(Conv2d),
    /// Batch normalisation.
    BatchNorm2d(BatchNorm2d),
    /// `max(x, 0)`.
    ReLU,
    /// `min(max(x, 0), 6)`.
    ReLU6,
    /// `x * min(max(x + 3, 0), 6) / 6` (Howard et al. 2019).
    Hardswish,
    /// `min(max(x + 3, 0), 6) / 6`.
    Hardsigmoid,
    /// `x * sigmoid(x)`, also called swish.
    SiLU,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `x * Phi(x)`, with the normal distribution's function by `erf` (Hendrycks and Gimpel 2016).
    GELU,
    /// Normalisation over the channels of each pixel, as torchvision's `LayerNorm2d`: parameters `weight` and `bias`,
    /// `[normalized_shape]`.
    LayerNorm {
        /// Channels of the input.
        normalized_shape: usize,
        /// Added to the variance under the root.
        eps: f32,
    },
    /// Each channel times a learned factor: the parameter `layer_scale`, `[channels, 1, 1]` (Touvron et al. 2021).
    LayerScale {
        /// Channels of the input.
        channels: usize,
    },
    /// Everything times a constant.
    Scale {
        /// The constant.
        factor: f32,
    },
    /// Maximum over a window.
    MaxPool2d(MaxPool2d),
    /// Mean over a window.
    AvgPool2d(AvgPool2d),
    /// Mean over bins that divide the map evenly into `output_size` by `output_size`.
    AdaptiveAvgPool2d {
        /// Height and width of the output.
        output_size: usize,
    },
    /// Fully connected layer; on a map it is applied to the channels of each pixel.
    Linear(Linear),
    /// In training, zeroes each element with probability `p` and scales the rest by `1 / (1 - p)`.
    Dropout {
        /// Probability of zeroing.
        p: f32,
    },
    /// `torchvision.ops.StochasticDepth` in mode "row": in training, zeroes whole samples with probability `p` and scales
    /// the rest by `1 / (1 - p)` (Huang et al. 2016).
    StochasticDepth {
        /// Probability of zeroing.
        p: f32,
    },
    /// Sum of two equally shaped inputs.
    Add,
    /// A map times one factor a channel, which the second input gives: a map of one pixel (squeeze-and-excitation, Hu et
    /// al. 2018).
    Mul,
    /// Concatenation along the channels.
    Concat,
    /// Some of the channels: `torch.narrow(x, 1, start, length)`.
    Narrow {
        /// The first channel.
        start: usize,
        /// Number of channels.
        length: usize,
    },
    /// `torch.nn.ChannelShuffle`: channel `j` of group `i` becomes channel `i` of group `j`.
    ChannelShuffle {
        /// Groups of neighbouring channels.
        groups: usize,
    },
    /// A map as one vector, channel by channel (PyTorch's order).
    Flatten,
}

/// Whether a named tensor is learned by gradient or kept as a statistic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterKind {
    /// Learned: a weight or a bias.
    Parameter,
    /// A running statistic of a batch norm.
    Buffer,
}

impl Op {
    /// The name of the operation, as PyTorch writes it.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Input => "Input",
            Op::Conv2d(_) => "Conv2d",
            Op::BatchNorm2d(_) => "BatchNorm2d",
            Op::ReLU => "ReLU",
            Op::ReLU6 => "ReLU6",
            Op::Hardswish => "Hardswish",
            Op::Hardsigmoid => "Hardsigmoid",
            Op::SiLU => "SiLU",
            Op::Sigmoid => "Sigmoid",
            Op::GELU => "GELU",
            Op::LayerNorm { .. } => "LayerNorm",
            Op::LayerScale { .. } => "LayerScale",
            Op::Scale { .. } => "Scale",
            Op::MaxPool2d(_) => "MaxPool2d",
            Op::AvgPool2d(_) => "AvgPool2d",
            Op::AdaptiveAvgPool2d { .. } => "AdaptiveAvgPool2d",
            Op::Linear(_) => "Linear",
            Op::Dropout { .. } => "Dropout",
            Op::StochasticDepth { .. } => "StochasticDepth",
            Op::Add => "Add",
            Op::Mul => "Mul",
            Op::Concat => "Concat",
            Op::Narrow { .. } => "Narrow",
            Op::ChannelShuffle { .. } => "ChannelShuffle",
            Op::Flatten => "Flatten",
        }
    }

    /// Suffix, shape and kind of each tensor the operation owns.
    pub fn parameters(&self) -> Vec<(&'static str, Vec<usize>, ParameterKind)> {
        use ParameterKind::{Buffer, Parameter};
        match self {
            Op::Conv2d(conv) => {
                let mut list = vec![("weight", conv.weight_shape().to_vec(), Parameter)];
                if conv.bias {
                    list.push(("bias", vec![conv.out_channels], Parameter));
                }
                list
            }
            Op::Linear(linear) => {
                let mut list = vec![("weight", vec![linear.out_features, linear.in_features], Parameter)];
                if linear.bias {
                    list.push(("bias", vec![linear.out_features], Parameter));
                }
                list
            }
            Op::BatchNorm2d(bn) => vec![
                ("weight", vec![bn.num_features], Parameter),
                ("bias", vec![bn.num_features], Parameter),
                ("running_mean", vec![bn.num_features], Buffer),
                ("running_var", vec![bn.num_features], Buffer),
            ],
            Op::LayerNorm { normalized_shape, .. } => {
                vec![("weight", vec![*normalized_shape], Parameter), ("bias", vec![*normalized_shape], Parameter)]
            }
            Op::LayerScale { channels } => vec![("layer_scale", vec![*channels, 1, 1], Parameter)],
            _ => Vec::new(),
        }
    }

    /// Whether it differs from sample to sample in training.
    pub fn is_random(&self) -> bool {
        matches!(self, Op::Dropout { .. } | Op::StochasticDepth { .. })
    }

    /// Whether it is a function of single elements, whose derivative is one, too.
    pub fn is_activation(&self) -> bool {
        use Op::{GELU, Hardsigmoid, Hardswish, ReLU, ReLU6, SiLU, Sigmoid};
        matches!(self, ReLU | ReLU6 | Hardswish | Hardsigmoid | SiLU | Sigmoid | GELU)
    }
}

//! How tensors are arranged for the kernels.

use regraft_graph::{Op, Shape};
use regraft_kernels::conv::{pack_weight, unpack_weight};

/// How a tensor's elements are arranged.
#[derive(Clone, Copy)]
pub(super) enum Layout {
    /// As in PyTorch.
    AsIs,
    /// A convolution's weight, packed for the kernels.
    ConvWeight { out_channels: usize, in_per_group: usize, taps: usize },
}

impl Layout {
    /// The layout of the tensor `suffix` of an operation whose result has the shape `output`.
    pub fn of(op: &Op, output: Shape, suffix: &str) -> Self {
        match op {
            // On a map it is computed as a convolution of single pixels.
            Op::Linear(linear) if suffix == "weight" && matches!(output, Shape::Map { .. }) => {
                Layout::ConvWeight { out_channels: linear.out_features, in_per_group: linear.in_features, taps: 1 }
            }
            Op::Conv2d(conv) if suffix == "weight" => Layout::ConvWeight {
                out_channels: conv.out_channels,
                in_per_group: conv.in_channels / conv.groups,
                taps: conv.kernel_size[0] * conv.kernel_size[1],
            },
            _ => Layout::AsIs,
        }
    }

    /// From PyTorch's layout.
    pub fn pack(self, values: &[f32]) -> Vec<f32> {
        match self {
            Layout::AsIs => values.to_vec(),
            Layout::ConvWeight { out_channels, in_per_group, taps } => {
                pack_weight(out_channels, in_per_group, taps, values)
            }
        }
    }

    /// To PyTorch's layout.
    pub fn unpack(self, values: &[f32]) -> Vec<f32> {
        match self {
            Layout::AsIs => values.to_vec(),
            Layout::ConvWeight { out_channels, in_per_group, taps } => {
                unpack_weight(out_channels, in_per_group, taps, values)
            }
        }
    }
}

//! The block of MobileNetV3 and EfficientNet: a mobile inverted bottleneck (Sandler et al. 2018) with squeeze-and-excitation.

use super::builder::Builder;
use crate::{Conv2d, NodeId, Op};

/// Its numbers and activations.
pub(super) struct InvertedBottleneck {
    /// Channels of the input, inside, and of the output.
    pub channels: usize,
    pub expanded: usize,
    pub width: usize,
    pub kernel: usize,
    pub stride: usize,
    pub activation: Op,
    /// Channels that are squeezed to, the activation there, and the one that makes the factors.
    pub squeeze: Option<(usize, Op, Op)>,
}

impl InvertedBottleneck {
    /// Appends the branch, `{path}.block.0` and so on; expansion and squeezing are left out where they are not wanted.
    pub fn branch(&self, b: &mut Builder, path: &str, x: NodeId) -> NodeId {
        let &Self { channels, expanded, width, kernel, stride, .. } = self;
        let mut index = 0;
        let mut next = || {
            index += 1;
            format!("{path}.block.{}", index - 1)
        };
        let mut y = x;
        if expanded != channels {
            y = b.conv_norm_activation(&next(), y, Conv2d::new(channels, expanded, 1), Some(self.activation.clone()));
        }
        let depthwise = Conv2d::new(expanded, expanded, kernel).stride(stride).padding(kernel / 2).groups(expanded);
        y = b.conv_norm_activation(&next(), y, depthwise, Some(self.activation.clone()));
        if let Some((squeezed, activation, scale_activation)) = self.squeeze.clone() {
            y = b.squeeze_excitation(&next(), y, [expanded, squeezed], activation, scale_activation);
        }
        b.conv_norm_activation(&next(), y, Conv2d::new(expanded, width, 1), None)
    }

    /// Whether the input is added to the branch.
    pub fn is_residual(&self) -> bool {
        self.stride == 1 && self.channels == self.width
    }
}

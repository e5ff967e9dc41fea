//! 3x3 convolution with stride 1 by Winograd's F(4x4, 3x3): 36 products give 16 pixels, where the direct
//! way takes 144 (Lavin and Gray 2016; [`transforms`] has the matrices).
//!
//! The output is cut into tiles of 4x4 pixels ([`tiling`]). A block of tiles is transformed (6x6 inputs to 36 points),
//! at each point the block's channels are multiplied with the transformed weight ([`filter`]; 36 matrix products, which
//! is where the time goes), and the result is transformed back, with the epilogue, while it is in cache ([`forward()`]).
//! The input's gradient is the same computation with the filter turned around; the weight's gradient is in
//! [`weight_gradient`].

mod filter;
mod forward;
mod maps;
mod tiling;
mod transforms;
mod weight_gradient;

pub(super) use filter::transform_filter;
pub(super) use forward::{forward, packs_by_panel};
pub(super) use weight_gradient::backward_weight;

use super::Shape;
use transforms::TAPS;

/// Whether a convolution can take this road.
pub(super) fn fits(shape: &Shape) -> bool {
    shape.kernel == [TAPS, TAPS]
        && shape.stride == [1, 1]
        && shape.dilation == [1, 1]
        && shape.groups == 1
        && shape.padding.iter().all(|&padding| padding < TAPS)
        && shape.output.iter().all(|&size| size > 0)
}

/// Tiles of a batch.
pub(super) fn tiles(shape: &Shape) -> usize {
    tiling::Tiling::new(shape).tiles()
}

/// The forward convolution whose result is the gradient of the input, with the filter turned around.
pub(super) fn gradient_shape(shape: &Shape) -> Shape {
    Shape {
        input: shape.output,
        output: shape.input,
        in_channels: shape.out_channels,
        out_channels: shape.in_channels,
        padding: shape.padding.map(|padding| TAPS - 1 - padding),
        ..*shape
    }
}

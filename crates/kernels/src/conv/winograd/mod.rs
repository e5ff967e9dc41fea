//! 3x3 convolution with stride 1 by Winograd's F(4x4, 3x3), which computes 16 pixels from 36 products instead of 144 (Lavin
//! and Gray 2016; the matrices are in [`transforms`]).
//!
//! The output is split into tiles of 4x4 pixels ([`tiling`]). A block of tiles is transformed from 6x6 inputs to 36 points.
//! At each point a matrix product multiplies the block's channels with the transformed weight ([`filter`]); these 36
//! products take most of the time. The result is transformed back, with the epilogue, while it is in cache
//! ([`forward()`]). The input gradient is the same computation with the filter flipped. The weight gradient is in
//! [`weight_gradient`].

mod filter;
mod forward;
mod maps;
mod tiling;
mod transforms;
mod weight_gradient;

pub(super) use filter::transform_filter;
pub(super) use forward::{forward, takes_raw_weight};
pub(super) use weight_gradient::backward_weight;

use super::Shape;
use transforms::TAPS;

/// Whether Winograd's algorithm can compute the shape.
pub(super) fn fits(shape: &Shape) -> bool {
    shape.kernel == [TAPS, TAPS]
        && shape.stride == [1, 1]
        && shape.dilation == [1, 1]
        && shape.groups == 1
        && shape.padding.iter().all(|&padding| padding < TAPS)
        && shape.output.iter().all(|&size| size > 0)
}

/// Number of tiles of a batch.
pub(super) fn tiles(shape: &Shape) -> usize {
    tiling::Tiling::new(shape).tiles()
}

/// The shape of the convolution, with flipped filter, whose result is the input gradient of `shape`.
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

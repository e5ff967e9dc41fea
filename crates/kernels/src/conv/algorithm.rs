//! Choice of the convolution algorithm.

use super::{Shape, few_channels, grouped, winograd};
use crate::Precision;

/// A convolution algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Winograd's F(4x4, 3x3), for 3x3 filters with stride 1.
    Winograd,
    /// A matrix product over patches, for every shape.
    Direct,
    /// A matrix product over interleaved lines, for few input channels. Its input gradient, seldom needed, is computed
    /// directly.
    FewChannels,
    /// A sliding window per channel, for depthwise convolutions.
    Depthwise,
    /// Vectors that span several groups, for groups of few channels.
    Grouped,
}

/// How often a prepared weight is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// For one batch: a trainable weight.
    Once,
    /// For many batches: a frozen weight.
    Often,
}

impl Algorithm {
    const ALL: [Algorithm; 5] =
        [Algorithm::Winograd, Algorithm::Direct, Algorithm::FewChannels, Algorithm::Depthwise, Algorithm::Grouped];

    /// The algorithm's name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Winograd => "winograd",
            Algorithm::Direct => "direct",
            Algorithm::FewChannels => "few-channels",
            Algorithm::Depthwise => "depthwise",
            Algorithm::Grouped => "grouped",
        }
    }

    /// The algorithms that can compute this shape.
    pub fn fitting(shape: &Shape) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|algorithm| match algorithm {
            Algorithm::Winograd => winograd::fits(shape),
            Algorithm::Direct => true,
            Algorithm::FewChannels => few_channels::fits(shape),
            Algorithm::Depthwise => shape.is_depthwise(),
            Algorithm::Grouped => grouped::fits(shape),
        })
    }

    /// The fastest algorithm for this shape, batch included.
    pub fn choose(shape: &Shape, weight: Use, precision: Precision) -> Self {
        if shape.is_depthwise() {
            return Algorithm::Depthwise;
        }
        if grouped::fits(shape) {
            return Algorithm::Grouped;
        }
        if few_channels::fits(shape) {
            return Algorithm::FewChannels;
        }
        // Few channels do not pay for the transforms of the maps, few pixels not for that of the weight. Cost in
        // multiplications per pair of channels: direct 9 per pixel; Winograd 36 per tile, about 50 with the transforms of
        // the maps; reading the weight, four times as large, about 600; transforming it first, about 1500. Measured at 64
        // to 512 channels and batches of 1 to 32 on two cores of Zen 5.
        let enough_channels = shape.in_channels >= 16 && shape.out_channels >= 16;
        if !winograd::fits(shape) || !enough_channels {
            return Algorithm::Direct;
        }
        let extra = match weight {
            Use::Once => 1500,
            Use::Often => 600,
        };
        // A bfloat16 multiplication takes slightly more than half the time.
        let direct = match precision {
            Precision::F32 => 9 * shape.output_pixels(),
            Precision::Bf16 => 5 * shape.output_pixels(),
        };
        let saves = direct > 50 * winograd::tiles(shape) + extra;
        if saves { Algorithm::Winograd } else { Algorithm::Direct }
    }
}

//! The choice of an algorithm.

use super::{Shape, few_channels, grouped, winograd};
use crate::Precision;

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Winograd's F(4x4, 3x3), for 3x3 filters with stride 1.
    Winograd,
    /// A product over patches, for every shape.
    Direct,
    /// A product over interleaved lines, for few input channels. The input's gradient, seldom wanted there, is direct.
    FewChannels,
    /// Channel by channel.
    Depthwise,
    /// Vectors of channels of several narrow groups.
    Grouped,
}

/// How often a weight is used in the form that an algorithm reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// For one batch: a weight that learns.
    Once,
    /// For batch after batch: a weight that stays.
    Often,
}

impl Algorithm {
    const ALL: [Algorithm; 5] =
        [Algorithm::Winograd, Algorithm::Direct, Algorithm::FewChannels, Algorithm::Depthwise, Algorithm::Grouped];

    /// Its name, for people.
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

    /// The fastest for this shape, its batch included.
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
        // Few channels don't pay for the transforms of the maps, and few pixels not for the weight's. In multiplications
        // for each pair of channels: a direct one is worth 9 a pixel; Winograd's 36 a tile, with the maps' transforms,
        // about as much as 50; reading four times the weight some 600 of them, and transforming it first, 1500 (measured
        // at 64 to 512 channels, batches of 1 to 32, on two cores of Zen 5).
        let enough_channels = shape.in_channels >= 16 && shape.out_channels >= 16;
        if !winograd::fits(shape) || !enough_channels {
            return Algorithm::Direct;
        }
        let extra = match weight {
            Use::Once => 1500,
            Use::Often => 600,
        };
        // A multiplication in bfloat16 takes a little more than half the time.
        let direct = match precision {
            Precision::F32 => 9 * shape.output_pixels(),
            Precision::Bf16 => 5 * shape.output_pixels(),
        };
        let saves = direct > 50 * winograd::tiles(shape) + extra;
        if saves { Algorithm::Winograd } else { Algorithm::Direct }
    }
}

//! Rootstock, the project's own compact backbone: MobileNetV2 for smaller pictures, without the channels that it can spare.
//!
//! The layers are named as in torchvision's MobileNetV2, and all channels that pass between blocks are there, so its weights
//! can start from those of that network ([`narrow`](crate::narrow())).

use super::builder::Builder;
use super::mobilenet_v2::{blocks, inverted_residuals};
use crate::{Graph, Shape};

/// Side of the pictures that it is made for.
const SIDE: usize = 128;

/// Blocks with fewer channels within than MobileNetV2's: the second and third (of 96 and 144), which see the largest maps,
/// for time; the last three (of 960), which have the most parameters, for size. All are multiples of 16, the lanes of the
/// widest vectors.
const NARROWER: [(usize, usize); 5] = [(2, 64), (3, 112), (15, 832), (16, 832), (17, 832)];

/// Features that a head reads.
const FEATURES: usize = 1024;

pub(super) fn rootstock(classes: usize) -> Graph {
    let mut blocks = blocks();
    for (number, hidden) in NARROWER {
        blocks[number - 1].hidden = hidden;
    }
    inverted_residuals(Builder::for_pictures(Shape::rgb(SIDE)), &blocks, FEATURES, classes)
}

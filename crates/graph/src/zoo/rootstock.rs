//! Rootstock, the project's own compact backbone: a slim residual network (He et al. 2016) of 3x3 convolutions alone.
//!
//! Its shape follows the kernels: a 3x3 convolution with stride 1 costs a 2.5th of its multiplications, so plain blocks
//! are faster here than depthwise ones for what they learn; all channels are multiples of 16, the lanes of the widest
//! vectors. Layers are named as in torchvision's ResNet.

use super::builder::{Builder, INPUT};
use super::resnet::basic_block;
use crate::{Conv2d, Graph, Shape};

/// Side of the pictures that it is made for.
const SIDE: usize = 128;

/// Channels and blocks of each stage.
const STAGES: [(usize, usize); 4] = [(48, 1), (96, 2), (144, 2), (240, 1)];

/// Features that a head reads.
const FEATURES: usize = 640;

pub(super) fn rootstock(classes: usize) -> Graph {
    let mut b = Builder::for_pictures(Shape::rgb(SIDE));
    // Two strided convolutions in place of a 7x7 one and a pool.
    let x = b.conv("conv1", INPUT, Conv2d::new(3, 32, 3).stride(2).padding(1));
    let x = b.batch_norm("bn1", x, 32);
    let x = b.relu("relu1", x);
    let (width, _) = STAGES[0];
    let x = b.conv("conv2", x, Conv2d::new(32, width, 3).stride(2).padding(1));
    let x = b.batch_norm("bn2", x, width);
    let mut x = b.relu("relu2", x);
    let mut channels = width;
    for (stage, (width, blocks)) in STAGES.into_iter().enumerate() {
        for i in 0..blocks {
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            x = basic_block(&mut b, &format!("layer{}.{i}", stage + 1), x, [channels, width], stride);
            channels = width;
        }
    }
    let x = b.conv("conv3", x, Conv2d::new(channels, FEATURES, 1));
    let x = b.batch_norm("bn3", x, FEATURES);
    let x = b.relu("relu3", x);
    b.pooled_head(x, ("", 0.0), "fc", FEATURES, classes);
    b.finish()
}

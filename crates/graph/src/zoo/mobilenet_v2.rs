//! MobileNetV2 (Sandler et al. 2018), as `torchvision.models.mobilenet_v2`.

use super::builder::{Builder, INPUT};
use crate::{Conv2d, Graph, NodeId, Op};

/// Expansion, output channels, blocks, stride of the first: table 2 of the paper.
const STAGES: [(usize, usize, usize, usize); 7] =
    [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];

const STEM: usize = 32;

const FEATURES: usize = 1280;

/// An inverted residual: channels within, channels of its value, stride.
pub(super) struct Block {
    pub hidden: usize,
    pub width: usize,
    pub stride: usize,
}

pub(super) fn mobilenet_v2(classes: usize) -> Graph {
    inverted_residuals(Builder::new(), &blocks(), FEATURES, classes)
}

/// The blocks of the paper, `features.1` first.
pub(super) fn blocks() -> Vec<Block> {
    let mut channels = STEM;
    let mut blocks = Vec::new();
    for (expansion, width, count, stride) in STAGES {
        for i in 0..count {
            blocks.push(Block { hidden: channels * expansion, width, stride: if i == 0 { stride } else { 1 } });
            channels = width;
        }
    }
    blocks
}

/// The network of these blocks, with as many features for the head.
pub(super) fn inverted_residuals(mut b: Builder, blocks: &[Block], features: usize, classes: usize) -> Graph {
    let stem = Conv2d::new(3, STEM, 3).stride(2).padding(1);
    let mut x = b.conv_norm_activation("features.0", INPUT, stem, Some(Op::ReLU6));
    let mut channels = STEM;
    for (i, block) in blocks.iter().enumerate() {
        x = inverted_residual(&mut b, &format!("features.{}.conv", i + 1), x, channels, block);
        channels = block.width;
    }
    let last = format!("features.{}", blocks.len() + 1);
    x = b.conv_norm_activation(&last, x, Conv2d::new(channels, features, 1), Some(Op::ReLU6));
    b.pooled_head(x, ("classifier.0", 0.2), "classifier.1", features, classes);
    b.finish()
}

fn inverted_residual(b: &mut Builder, path: &str, x: NodeId, channels: usize, block: &Block) -> NodeId {
    let &Block { hidden, width, stride } = block;
    let mut y = x;
    let mut index = 0;
    if hidden != channels {
        y = b.conv_norm_activation(&format!("{path}.0"), y, Conv2d::new(channels, hidden, 1), Some(Op::ReLU6));
        index = 1;
    }
    let depthwise = Conv2d::new(hidden, hidden, 3).stride(stride).padding(1).groups(hidden);
    y = b.conv_norm_activation(&format!("{path}.{index}"), y, depthwise, Some(Op::ReLU6));
    y = b.conv(&format!("{path}.{}", index + 1), y, Conv2d::new(hidden, width, 1));
    y = b.batch_norm(&format!("{path}.{}", index + 2), y, width);
    let add = path.replace(".conv", ".add");
    if stride == 1 && channels == width { b.add(&add, x, y) } else { y }
}

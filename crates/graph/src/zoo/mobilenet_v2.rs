//! MobileNetV2 (Sandler et al. 2018), as `torchvision.models.mobilenet_v2`.

use super::builder::{Builder, INPUT};
use crate::{Conv2d, Graph, NodeId, Op};

/// Expansion, output channels, blocks, stride of the first: table 2 of the paper.
const STAGES: [(usize, usize, usize, usize); 7] =
    [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];

const FEATURES: usize = 1280;

pub(super) fn mobilenet_v2(classes: usize) -> Graph {
    let mut b = Builder::new();
    let mut x =
        b.conv_norm_activation("features.0", INPUT, Conv2d::new(3, 32, 3).stride(2).padding(1), Some(Op::ReLU6));
    let mut channels = 32;
    let mut index = 1;
    for (expansion, width, blocks, stride) in STAGES {
        for i in 0..blocks {
            let stride = if i == 0 { stride } else { 1 };
            x = inverted_residual(&mut b, &format!("features.{index}"), x, channels, width, stride, expansion);
            channels = width;
            index += 1;
        }
    }
    x = b.conv_norm_activation(&format!("features.{index}"), x, Conv2d::new(channels, FEATURES, 1), Some(Op::ReLU6));
    b.pooled_head(x, ("classifier.0", 0.2), "classifier.1", FEATURES, classes);
    b.finish()
}

fn inverted_residual(
    b: &mut Builder,
    path: &str,
    x: NodeId,
    channels: usize,
    width: usize,
    stride: usize,
    expansion: usize,
) -> NodeId {
    let hidden = channels * expansion;
    let mut y = x;
    let mut index = 0;
    if expansion != 1 {
        y = b.conv_norm_activation(&format!("{path}.conv.0"), y, Conv2d::new(channels, hidden, 1), Some(Op::ReLU6));
        index = 1;
    }
    let depthwise = Conv2d::new(hidden, hidden, 3).stride(stride).padding(1).groups(hidden);
    y = b.conv_norm_activation(&format!("{path}.conv.{index}"), y, depthwise, Some(Op::ReLU6));
    y = b.conv(&format!("{path}.conv.{}", index + 1), y, Conv2d::new(hidden, width, 1));
    y = b.batch_norm(&format!("{path}.conv.{}", index + 2), y, width);
    if stride == 1 && channels == width { b.add(&format!("{path}.add"), x, y) } else { y }
}

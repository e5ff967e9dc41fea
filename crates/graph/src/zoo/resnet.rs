//! ResNet (He et al. 2016, "Deep Residual Learning for Image Recognition"), as `torchvision.models.resnet`.

use super::builder::{Builder, INPUT};
use crate::{Conv2d, Graph, MaxPool2d, NodeId};

/// The two kinds of residual block.
#[derive(Clone, Copy)]
pub(super) enum Block {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1, 3x3, 1x1, four times as wide at the end; the stride is on the 3x3 (torchvision's "v1.5").
    Bottleneck,
}

impl Block {
    fn expansion(self) -> usize {
        match self {
            Block::Basic => 1,
            Block::Bottleneck => 4,
        }
    }
}

/// The network with `layers[i]` blocks in `layer{i+1}`.
pub(super) fn resnet(block: Block, layers: [usize; 4], classes: usize) -> Graph {
    let mut b = Builder::new();
    let conv1 = b.conv("conv1", INPUT, Conv2d::new(3, 64, 7).stride(2).padding(3));
    let bn1 = b.batch_norm("bn1", conv1, 64);
    let relu = b.relu("relu", bn1);
    let pool = MaxPool2d { kernel_size: 3, stride: 2, padding: 1, ceil_mode: false };
    let mut x = b.max_pool("maxpool", relu, pool);
    let mut channels = 64;
    for (stage, &blocks) in layers.iter().enumerate() {
        let width = 64 << stage;
        for i in 0..blocks {
            let stride = if stage > 0 && i == 0 { 2 } else { 1 };
            x = residual(&mut b, &format!("layer{}.{i}", stage + 1), x, block, channels, width, stride);
            channels = width * block.expansion();
        }
    }
    let pooled = b.avg_pool("avgpool", x, 1);
    let flat = b.flatten("flatten", pooled);
    b.linear("fc", flat, channels, classes);
    b.finish()
}

fn residual(
    b: &mut Builder,
    path: &str,
    x: NodeId,
    block: Block,
    channels: usize,
    width: usize,
    stride: usize,
) -> NodeId {
    let out_channels = width * block.expansion();
    let convs: &[Conv2d] = match block {
        Block::Basic => {
            &[Conv2d::new(channels, width, 3).stride(stride).padding(1), Conv2d::new(width, width, 3).padding(1)]
        }
        Block::Bottleneck => &[
            Conv2d::new(channels, width, 1),
            Conv2d::new(width, width, 3).stride(stride).padding(1),
            Conv2d::new(width, out_channels, 1),
        ],
    };
    let mut branch = x;
    for (i, &conv) in convs.iter().enumerate() {
        branch = b.conv(&format!("{path}.conv{}", i + 1), branch, conv);
        branch = b.batch_norm(&format!("{path}.bn{}", i + 1), branch, conv.out_channels);
        if i + 1 < convs.len() {
            branch = b.relu(&format!("{path}.relu{}", i + 1), branch);
        }
    }
    let mut shortcut = x;
    if stride != 1 || channels != out_channels {
        let conv = Conv2d::new(channels, out_channels, 1).stride(stride);
        shortcut = b.conv(&format!("{path}.downsample.0"), x, conv);
        shortcut = b.batch_norm(&format!("{path}.downsample.1"), shortcut, out_channels);
    }
    let sum = b.add(&format!("{path}.add"), branch, shortcut);
    b.relu(&format!("{path}.relu"), sum)
}

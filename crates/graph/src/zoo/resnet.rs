//! ResNet (He et al. 2016, "Deep Residual Learning for Image Recognition"), with its relatives ResNeXt (Xie et al. 2017)
//! and Wide ResNet (Zagoruyko and Komodakis 2016), as `torchvision.models.resnet`.

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

/// The groups of a bottleneck's 3x3 convolution, and the width of each for 64 channels.
#[derive(Clone, Copy)]
pub(super) struct Groups {
    pub count: usize,
    pub width: usize,
}

/// The network with `layers[i]` blocks in `layer{i+1}`.
pub(super) fn resnet(block: Block, layers: [usize; 4], classes: usize) -> Graph {
    grouped(block, layers, Groups { count: 1, width: 64 }, classes)
}

/// The same with groups in its bottlenecks.
pub(super) fn grouped(block: Block, layers: [usize; 4], groups: Groups, classes: usize) -> Graph {
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
            let shape = Shape { channels, width, stride, groups };
            x = residual(&mut b, &format!("layer{}.{i}", stage + 1), x, block, shape);
            channels = width * block.expansion();
        }
    }
    b.pooled_head(x, ("", 0.0), "fc", channels, classes);
    b.finish()
}

/// The numbers of a block.
struct Shape {
    /// Channels of its input.
    channels: usize,
    /// Channels of its stage, before their expansion.
    width: usize,
    stride: usize,
    groups: Groups,
}

fn residual(b: &mut Builder, path: &str, x: NodeId, block: Block, shape: Shape) -> NodeId {
    let Shape { channels, width, stride, groups } = shape;
    let out_channels = width * block.expansion();
    let inner = width * groups.width / 64 * groups.count;
    let convs: &[Conv2d] = match block {
        Block::Basic => {
            &[Conv2d::new(channels, width, 3).stride(stride).padding(1), Conv2d::new(width, width, 3).padding(1)]
        }
        Block::Bottleneck => &[
            Conv2d::new(channels, inner, 1),
            Conv2d::new(inner, inner, 3).stride(stride).padding(1).groups(groups.count),
            Conv2d::new(inner, out_channels, 1),
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

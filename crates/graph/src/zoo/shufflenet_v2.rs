//! ShuffleNetV2 (Ma et al. 2018), as `torchvision.models.shufflenetv2`.

use super::builder::{Builder, INPUT};
use crate::{Conv2d, Graph, MaxPool2d, NodeId, Op};

/// Blocks of `stage2` to `stage4`.
const BLOCKS: [usize; 3] = [4, 8, 4];

/// Channels of the first layer.
const STEM: usize = 24;

/// The network whose stages have these channels, and whose last layer has `features`.
pub(super) fn shufflenet_v2(channels: [usize; 3], features: usize, classes: usize) -> Graph {
    let mut b = Builder::new();
    let mut x =
        b.conv_norm_activation_at("conv1", 0, INPUT, Conv2d::new(3, STEM, 3).stride(2).padding(1), Some(Op::ReLU));
    x = b.max_pool("maxpool", x, MaxPool2d { kernel_size: 3, stride: 2, padding: 1, ceil_mode: false });
    let mut from = STEM;
    for (stage, (&blocks, &width)) in BLOCKS.iter().zip(&channels).enumerate() {
        for i in 0..blocks {
            let path = format!("stage{}.{i}", stage + 2);
            x = if i == 0 { downsample(&mut b, &path, x, from, width) } else { split(&mut b, &path, x, width) };
        }
        from = width;
    }
    x = b.conv_norm_activation_at("conv5", 0, x, Conv2d::new(from, features, 1), Some(Op::ReLU));
    b.pooled_head(x, ("", 0.0), "fc", features, classes);
    b.finish()
}

fn depthwise(channels: usize, stride: usize) -> Conv2d {
    Conv2d::new(channels, channels, 3).stride(stride).padding(1).groups(channels)
}

/// The branch that every block has.
fn branch2(b: &mut Builder, path: &str, x: NodeId, from: usize, half: usize, stride: usize) -> NodeId {
    let path = format!("{path}.branch2");
    let x = b.conv_norm_activation_at(&path, 0, x, Conv2d::new(from, half, 1), Some(Op::ReLU));
    let x = b.conv_norm_activation_at(&path, 3, x, depthwise(half, stride), None);
    b.conv_norm_activation_at(&path, 5, x, Conv2d::new(half, half, 1), Some(Op::ReLU))
}

fn join(b: &mut Builder, path: &str, halves: [NodeId; 2]) -> NodeId {
    let x = b.concat(&format!("{path}.concat"), &halves);
    b.apply(&format!("{path}.shuffle"), x, Op::ChannelShuffle { groups: 2 })
}

/// A block whose second half of the channels goes through the branch.
fn split(b: &mut Builder, path: &str, x: NodeId, width: usize) -> NodeId {
    let half = width / 2;
    let kept = b.apply(&format!("{path}.chunk1"), x, Op::Narrow { start: 0, length: half });
    let changed = b.apply(&format!("{path}.chunk2"), x, Op::Narrow { start: half, length: half });
    let changed = branch2(b, path, changed, half, half, 1);
    join(b, path, [kept, changed])
}

/// A block of stride 2, with two branches that both see all channels.
fn downsample(b: &mut Builder, path: &str, x: NodeId, from: usize, width: usize) -> NodeId {
    let half = width / 2;
    let first = b.conv_norm_activation_at(&format!("{path}.branch1"), 0, x, depthwise(from, 2), None);
    let first =
        b.conv_norm_activation_at(&format!("{path}.branch1"), 2, first, Conv2d::new(from, half, 1), Some(Op::ReLU));
    let second = branch2(b, path, x, from, half, 2);
    join(b, path, [first, second])
}

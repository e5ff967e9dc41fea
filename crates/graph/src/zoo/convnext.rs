//! ConvNeXt (Liu et al. 2022), as `torchvision.models.convnext`.

use super::builder::{Builder, INPUT};
use crate::{Conv2d, Graph, NodeId, Op};

/// Channels of the stages of the tiny and the small network.
const CHANNELS: [usize; 4] = [96, 192, 384, 768];

/// The network with `blocks[i]` blocks in stage `i`, the last of which is left out in training with probability
/// `stochastic_depth`, the first never.
pub(super) fn convnext(blocks: [usize; 4], stochastic_depth: f64, classes: usize) -> Graph {
    let mut b = Builder::new();
    let total: usize = blocks.iter().sum();
    let mut x = b.conv("features.0.0", INPUT, Conv2d::new(3, CHANNELS[0], 4).stride(4).bias());
    x = b.layer_norm("features.0.1", x, CHANNELS[0]);
    let mut done = 0;
    for (stage, (&count, &channels)) in blocks.iter().zip(&CHANNELS).enumerate() {
        if stage > 0 {
            let path = format!("features.{}", 2 * stage);
            x = b.layer_norm(&format!("{path}.0"), x, CHANNELS[stage - 1]);
            let conv = Conv2d::new(CHANNELS[stage - 1], channels, 2).stride(2).bias();
            x = b.conv(&format!("{path}.1"), x, conv);
        }
        for i in 0..count {
            let p = (stochastic_depth * done as f64 / (total - 1) as f64) as f32;
            x = block(&mut b, &format!("features.{}.{i}", 2 * stage + 1), x, channels, p);
            done += 1;
        }
    }
    x = b.avg_pool("avgpool", x, 1);
    x = b.layer_norm("classifier.0", x, CHANNELS[3]);
    x = b.flatten("classifier.1", x);
    b.linear("classifier.2", x, CHANNELS[3], classes);
    b.finish()
}

fn block(b: &mut Builder, path: &str, x: NodeId, channels: usize, p: f32) -> NodeId {
    let depthwise = Conv2d::new(channels, channels, 7).padding(3).groups(channels).bias();
    let y = b.conv(&format!("{path}.block.0"), x, depthwise);
    // `block.1` and `block.6` only permute, so that PyTorch finds the channels last.
    let y = b.layer_norm(&format!("{path}.block.2"), y, channels);
    let y = b.linear(&format!("{path}.block.3"), y, channels, 4 * channels);
    let y = b.apply(&format!("{path}.block.4"), y, Op::GELU);
    let y = b.linear(&format!("{path}.block.5"), y, 4 * channels, channels);
    // The layer scale is a parameter of the block itself.
    let y = b.apply(path, y, Op::LayerScale { channels });
    let y = b.apply(&format!("{path}.stochastic_depth"), y, Op::StochasticDepth { p });
    b.add(&format!("{path}.add"), y, x)
}

//! MNASNet-B1 (Tan et al. 2019), as `torchvision.models.mnasnet`.

use super::builder::{Builder, INPUT, make_divisible};
use crate::{Conv2d, Graph, NodeId, Op};

/// Channels of the first two layers.
const STEM: [usize; 2] = [32, 16];

/// Kernel, stride of the first, expansion, output channels, blocks.
const STACKS: [(usize, usize, usize, usize, usize); 6] =
    [(3, 2, 3, 24, 3), (5, 2, 3, 40, 3), (5, 2, 6, 80, 3), (3, 1, 6, 96, 2), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1)];

const FEATURES: usize = 1280;

/// The network with `alpha` times the channels.
pub(super) fn mnasnet(alpha: f64, classes: usize) -> Graph {
    let wide = |channels: usize| make_divisible(channels as f64 * alpha, 8);
    let mut b = Builder::new().norm(1e-5, 0.0003);
    let [first, mut channels] = STEM.map(wide);
    let mut x =
        b.conv_norm_activation_at("layers", 0, INPUT, Conv2d::new(3, first, 3).stride(2).padding(1), Some(Op::ReLU));
    x = b.conv_norm_activation_at(
        "layers",
        3,
        x,
        Conv2d::new(first, first, 3).padding(1).groups(first),
        Some(Op::ReLU),
    );
    x = b.conv_norm_activation_at("layers", 6, x, Conv2d::new(first, channels, 1), None);
    for (stack, &(kernel, stride, expansion, width, blocks)) in STACKS.iter().enumerate() {
        for i in 0..blocks {
            let path = format!("layers.{}.{i}", stack + 8);
            let stride = if i == 0 { stride } else { 1 };
            x = inverted_residual(&mut b, &path, x, [channels, channels * expansion, wide(width)], kernel, stride);
            channels = wide(width);
        }
    }
    x = b.conv_norm_activation_at("layers", 14, x, Conv2d::new(channels, FEATURES, 1), Some(Op::ReLU));
    b.pooled_head(x, ("classifier.0", 0.2), "classifier.1", FEATURES, classes);
    b.finish()
}

fn inverted_residual(
    b: &mut Builder,
    path: &str,
    x: NodeId,
    [channels, hidden, width]: [usize; 3],
    kernel: usize,
    stride: usize,
) -> NodeId {
    let layers = format!("{path}.layers");
    let depthwise = Conv2d::new(hidden, hidden, kernel).stride(stride).padding(kernel / 2).groups(hidden);
    let y = b.conv_norm_activation_at(&layers, 0, x, Conv2d::new(channels, hidden, 1), Some(Op::ReLU));
    let y = b.conv_norm_activation_at(&layers, 3, y, depthwise, Some(Op::ReLU));
    let y = b.conv_norm_activation_at(&layers, 6, y, Conv2d::new(hidden, width, 1), None);
    if stride == 1 && channels == width { b.add(&format!("{path}.add"), y, x) } else { y }
}

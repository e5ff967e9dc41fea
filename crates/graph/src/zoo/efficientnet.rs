//! EfficientNet (Tan and Le 2019), as `torchvision.models.efficientnet`.

use super::builder::{Builder, INPUT, make_divisible};
use super::inverted_bottleneck::InvertedBottleneck;
use crate::{Conv2d, Graph, Op};

/// Expansion, kernel, stride of the first, output channels, blocks: table 1 of the paper, B0.
const STAGES: [(usize, usize, usize, usize, usize); 7] = [
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
];

/// Channels of the first layer of B0.
const STEM: usize = 32;

/// Probability with which the last block is left out in training; the first never is.
const STOCHASTIC_DEPTH: f64 = 0.2;

/// The network whose channels are `width` times and whose blocks are `depth` times those of B0.
pub(super) fn efficientnet(width: f64, depth: f64, dropout: f32, classes: usize) -> Graph {
    let wide = |channels: usize| make_divisible(channels as f64 * width, 8);
    let deep = |blocks: usize| (blocks as f64 * depth).ceil() as usize;
    let total: usize = STAGES.iter().map(|stage| deep(stage.4)).sum();
    let mut b = Builder::new();
    let mut channels = wide(STEM);
    let stem = Conv2d::new(3, channels, 3).stride(2).padding(1);
    let mut x = b.conv_norm_activation("features.0", INPUT, stem, Some(Op::SiLU));
    let mut done = 0;
    for (stage, &(expansion, kernel, stride, width, blocks)) in STAGES.iter().enumerate() {
        for i in 0..deep(blocks) {
            let block = InvertedBottleneck {
                channels,
                expanded: make_divisible((channels * expansion) as f64, 8),
                width: wide(width),
                kernel,
                stride: if i == 0 { stride } else { 1 },
                activation: Op::SiLU,
                squeeze: Some(((channels / 4).max(1), Op::SiLU, Op::Sigmoid)),
            };
            let path = format!("features.{}.{i}", stage + 1);
            let branch = block.branch(&mut b, &path, x);
            x = match block.is_residual() {
                true => {
                    let p = (STOCHASTIC_DEPTH * done as f64 / total as f64) as f32;
                    let kept = b.apply(&format!("{path}.stochastic_depth"), branch, Op::StochasticDepth { p });
                    b.add(&format!("{path}.add"), kept, x)
                }
                false => branch,
            };
            channels = block.width;
            done += 1;
        }
    }
    let last = format!("features.{}", STAGES.len() + 1);
    x = b.conv_norm_activation(&last, x, Conv2d::new(channels, 4 * channels, 1), Some(Op::SiLU));
    b.pooled_head(x, ("classifier.0", dropout), "classifier.1", 4 * channels, classes);
    b.finish()
}

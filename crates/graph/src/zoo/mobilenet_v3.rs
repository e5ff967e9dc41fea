//! MobileNetV3 (Howard et al. 2019), as `torchvision.models.mobilenetv3`.

use super::builder::{Builder, INPUT, make_divisible};
use super::inverted_bottleneck::InvertedBottleneck;
use crate::{Conv2d, Graph, NodeId, Op};

/// A row of tables 1 and 2 of the paper: kernel, expanded channels, output channels, squeeze-and-excitation, hard swish
/// instead of ReLU, stride.
type Row = (usize, usize, usize, bool, bool, usize);

const LARGE: &[Row] = &[
    (3, 16, 16, false, false, 1),
    (3, 64, 24, false, false, 2),
    (3, 72, 24, false, false, 1),
    (5, 72, 40, true, false, 2),
    (5, 120, 40, true, false, 1),
    (5, 120, 40, true, false, 1),
    (3, 240, 80, false, true, 2),
    (3, 200, 80, false, true, 1),
    (3, 184, 80, false, true, 1),
    (3, 184, 80, false, true, 1),
    (3, 480, 112, true, true, 1),
    (3, 672, 112, true, true, 1),
    (5, 672, 160, true, true, 2),
    (5, 960, 160, true, true, 1),
    (5, 960, 160, true, true, 1),
];

const SMALL: &[Row] = &[
    (3, 16, 16, true, false, 2),
    (3, 72, 24, false, false, 2),
    (3, 88, 24, false, false, 1),
    (5, 96, 40, true, true, 2),
    (5, 240, 40, true, true, 1),
    (5, 240, 40, true, true, 1),
    (5, 120, 48, true, true, 1),
    (5, 144, 48, true, true, 1),
    (5, 288, 96, true, true, 2),
    (5, 576, 96, true, true, 1),
    (5, 576, 96, true, true, 1),
];

pub(super) fn mobilenet_v3_large(classes: usize) -> Graph {
    mobilenet_v3(LARGE, 1280, classes)
}

pub(super) fn mobilenet_v3_small(classes: usize) -> Graph {
    mobilenet_v3(SMALL, 1024, classes)
}

fn mobilenet_v3(rows: &[Row], last_channel: usize, classes: usize) -> Graph {
    let mut b = Builder::new().norm(0.001, 0.01);
    let stem = Conv2d::new(3, 16, 3).stride(2).padding(1);
    let mut x = b.conv_norm_activation("features.0", INPUT, stem, Some(Op::Hardswish));
    let mut channels = 16;
    for (i, row) in rows.iter().enumerate() {
        x = inverted_residual(&mut b, &format!("features.{}", i + 1), x, channels, row);
        channels = row.2;
    }
    let features = 6 * channels;
    let last = format!("features.{}", rows.len() + 1);
    x = b.conv_norm_activation(&last, x, Conv2d::new(channels, features, 1), Some(Op::Hardswish));
    x = b.avg_pool("avgpool", x, 1);
    x = b.flatten("flatten", x);
    x = b.linear("classifier.0", x, features, last_channel);
    x = b.apply("classifier.1", x, Op::Hardswish);
    x = b.dropout("classifier.2", x, 0.2);
    b.linear("classifier.3", x, last_channel, classes);
    b.finish()
}

fn inverted_residual(b: &mut Builder, path: &str, x: NodeId, channels: usize, row: &Row) -> NodeId {
    let &(kernel, expanded, width, squeezes, hard_swish, stride) = row;
    let squeezed = make_divisible((expanded / 4) as f64, 8);
    let block = InvertedBottleneck {
        channels,
        expanded,
        width,
        kernel,
        stride,
        activation: if hard_swish { Op::Hardswish } else { Op::ReLU },
        squeeze: squeezes.then_some((squeezed, Op::ReLU, Op::Hardsigmoid)),
    };
    let y = block.branch(b, path, x);
    if block.is_residual() { b.add(&format!("{path}.add"), y, x) } else { y }
}

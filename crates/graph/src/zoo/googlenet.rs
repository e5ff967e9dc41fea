//! GoogLeNet (Szegedy et al. 2015) with batch norms, as `torchvision.models.googlenet`, without the auxiliary heads.

use super::builder::{Builder, INPUT};
use crate::{Conv2d, Graph, MaxPool2d, NodeId};

/// Channels of an inception block: 1x1; 3x3, reduced and full; 5x5 (in torchvision 3x3), reduced and full; pool.
type Widths = [usize; 6];

const BLOCKS: [(&str, Widths); 9] = [
    ("inception3a", [64, 96, 128, 16, 32, 32]),
    ("inception3b", [128, 128, 192, 32, 96, 64]),
    ("inception4a", [192, 96, 208, 16, 48, 64]),
    ("inception4b", [160, 112, 224, 24, 64, 64]),
    ("inception4c", [128, 128, 256, 24, 64, 64]),
    ("inception4d", [112, 144, 288, 32, 64, 64]),
    ("inception4e", [256, 160, 320, 32, 128, 128]),
    ("inception5a", [256, 160, 320, 32, 128, 128]),
    ("inception5b", [384, 192, 384, 48, 128, 128]),
];

pub(super) fn googlenet(classes: usize) -> Graph {
    let mut b = Builder::new().norm(0.001, 0.1);
    let mut x = basic_conv(&mut b, "conv1", INPUT, Conv2d::new(3, 64, 7).stride(2).padding(3));
    x = halve(&mut b, "maxpool1", x, 3);
    x = basic_conv(&mut b, "conv2", x, Conv2d::new(64, 64, 1));
    x = basic_conv(&mut b, "conv3", x, Conv2d::new(64, 192, 3).padding(1));
    x = halve(&mut b, "maxpool2", x, 3);
    let mut channels = 192;
    for (path, widths) in BLOCKS {
        match path {
            "inception4a" => x = halve(&mut b, "maxpool3", x, 3),
            "inception5a" => x = halve(&mut b, "maxpool4", x, 2),
            _ => {}
        }
        x = inception(&mut b, path, x, channels, widths);
        channels = widths[0] + widths[2] + widths[4] + widths[5];
    }
    b.pooled_head(x, ("dropout", 0.2), "fc", channels, classes);
    b.finish()
}

/// torchvision's `BasicConv2d`.
pub(super) fn basic_conv(b: &mut Builder, path: &str, x: NodeId, conv: Conv2d) -> NodeId {
    let x = b.conv(&format!("{path}.conv"), x, conv);
    let x = b.batch_norm(&format!("{path}.bn"), x, conv.out_channels);
    b.relu(&format!("{path}.relu"), x)
}

fn halve(b: &mut Builder, name: &str, x: NodeId, kernel_size: usize) -> NodeId {
    b.max_pool(name, x, MaxPool2d { kernel_size, stride: 2, padding: 0, ceil_mode: true })
}

fn inception(b: &mut Builder, path: &str, x: NodeId, channels: usize, widths: Widths) -> NodeId {
    let [ones, red3, threes, red5, fives, pooled] = widths;
    let mut conv = |branch: &str, x: NodeId, conv: Conv2d| basic_conv(b, &format!("{path}.{branch}"), x, conv);
    let first = conv("branch1", x, Conv2d::new(channels, ones, 1));
    let second = conv("branch2.0", x, Conv2d::new(channels, red3, 1));
    let second = conv("branch2.1", second, Conv2d::new(red3, threes, 3).padding(1));
    let third = conv("branch3.0", x, Conv2d::new(channels, red5, 1));
    let third = conv("branch3.1", third, Conv2d::new(red5, fives, 3).padding(1));
    let pool = MaxPool2d { kernel_size: 3, stride: 1, padding: 1, ceil_mode: true };
    let fourth = b.max_pool(&format!("{path}.branch4.0"), x, pool);
    let fourth = basic_conv(b, &format!("{path}.branch4.1"), fourth, Conv2d::new(channels, pooled, 1));
    b.concat(&format!("{path}.concat"), &[first, second, third, fourth])
}

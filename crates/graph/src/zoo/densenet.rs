//! DenseNet (Huang et al. 2017), as `torchvision.models.densenet`.

use super::builder::{Builder, INPUT};
use crate::{AvgPool2d, Conv2d, Graph, MaxPool2d, NodeId};

/// Channels that each layer adds.
const GROWTH: usize = 32;

/// Channels of a bottleneck.
const BOTTLENECK: usize = 4 * GROWTH;

/// The network with `layers[i]` layers in `denseblock{i+1}`.
pub(super) fn densenet(layers: [usize; 4], classes: usize) -> Graph {
    let mut b = Builder::new();
    let mut channels = 2 * GROWTH;
    let x = b.conv("features.conv0", INPUT, Conv2d::new(3, channels, 7).stride(2).padding(3));
    let x = norm_relu(&mut b, "features", "0", x, channels);
    let pool = MaxPool2d { kernel_size: 3, stride: 2, padding: 1, ceil_mode: false };
    let mut x = b.max_pool("features.pool0", x, pool);
    for (block, &count) in layers.iter().enumerate() {
        let path = format!("features.denseblock{}", block + 1);
        for layer in 0..count {
            x = dense_layer(&mut b, &format!("{path}.denselayer{}", layer + 1), x, channels);
            channels += GROWTH;
        }
        if block + 1 < layers.len() {
            let path = format!("features.transition{}", block + 1);
            x = norm_relu(&mut b, &path, "", x, channels);
            channels /= 2;
            x = b.conv(&format!("{path}.conv"), x, Conv2d::new(2 * channels, channels, 1));
            let pool = AvgPool2d { kernel_size: 2, stride: 2, padding: 0 };
            x = b.avg_pool2d(&format!("{path}.pool"), x, pool);
        }
    }
    x = norm_relu(&mut b, "features", "5", x, channels);
    b.pooled_head(x, ("", 0.0), "classifier", channels, classes);
    b.finish()
}

/// A batch norm `norm{suffix}` and a ReLU.
fn norm_relu(b: &mut Builder, path: &str, suffix: &str, x: NodeId, channels: usize) -> NodeId {
    let x = b.batch_norm(&format!("{path}.norm{suffix}"), x, channels);
    b.relu(&format!("{path}.relu{suffix}"), x)
}

/// `x` with [`GROWTH`] new channels behind its own.
fn dense_layer(b: &mut Builder, path: &str, x: NodeId, channels: usize) -> NodeId {
    let y = norm_relu(b, path, "1", x, channels);
    let y = b.conv(&format!("{path}.conv1"), y, Conv2d::new(channels, BOTTLENECK, 1));
    let y = norm_relu(b, path, "2", y, BOTTLENECK);
    let y = b.conv(&format!("{path}.conv2"), y, Conv2d::new(BOTTLENECK, GROWTH, 3).padding(1));
    b.concat(&format!("{path}.concat"), &[x, y])
}

//! SqueezeNet (Iandola et al. 2016), as `torchvision.models.squeezenet`. Its head is a 1x1 convolution.

use super::builder::{Builder, INPUT};
use crate::{Conv2d, Graph, MaxPool2d, NodeId};

/// A layer of `features` after the stem.
enum Layer {
    Pool,
    /// Squeezes to `.0` channels, then expands to twice `.1`.
    Fire(usize, usize),
}
use Layer::{Fire, Pool};

pub(super) fn squeezenet1_0(classes: usize) -> Graph {
    let layers = [
        Pool,
        Fire(16, 64),
        Fire(16, 64),
        Fire(32, 128),
        Pool,
        Fire(32, 128),
        Fire(48, 192),
        Fire(48, 192),
        Fire(64, 256),
        Pool,
        Fire(64, 256),
    ];
    squeezenet(Conv2d::new(3, 96, 7), &layers, classes)
}

pub(super) fn squeezenet1_1(classes: usize) -> Graph {
    let layers = [
        Pool,
        Fire(16, 64),
        Fire(16, 64),
        Pool,
        Fire(32, 128),
        Fire(32, 128),
        Pool,
        Fire(48, 192),
        Fire(48, 192),
        Fire(64, 256),
        Fire(64, 256),
    ];
    squeezenet(Conv2d::new(3, 64, 3), &layers, classes)
}

fn squeezenet(stem: Conv2d, layers: &[Layer], classes: usize) -> Graph {
    let mut b = Builder::new();
    let stem = stem.stride(2).bias();
    let mut x = b.conv("features.0", INPUT, stem);
    x = b.relu("features.1", x);
    let mut channels = stem.out_channels;
    for (i, layer) in layers.iter().enumerate() {
        let path = format!("features.{}", i + 2);
        match *layer {
            Pool => {
                let pool = MaxPool2d { kernel_size: 3, stride: 2, padding: 0, ceil_mode: true };
                x = b.max_pool(&path, x, pool);
            }
            Fire(squeeze, expand) => {
                x = fire(&mut b, &path, x, channels, squeeze, expand);
                channels = 2 * expand;
            }
        }
    }
    x = b.dropout("classifier.0", x, 0.5);
    x = b.conv("classifier.1", x, Conv2d::new(channels, classes, 1).bias());
    x = b.relu("classifier.2", x);
    x = b.avg_pool("classifier.3", x, 1);
    b.flatten("flatten", x);
    b.finish()
}

fn fire(b: &mut Builder, path: &str, x: NodeId, channels: usize, squeeze: usize, expand: usize) -> NodeId {
    let mut conv = |name: &str, x, conv: Conv2d| {
        let y = b.conv(&format!("{path}.{name}"), x, conv.bias());
        b.relu(&format!("{path}.{name}_activation"), y)
    };
    let squeezed = conv("squeeze", x, Conv2d::new(channels, squeeze, 1));
    let narrow = conv("expand1x1", squeezed, Conv2d::new(squeeze, expand, 1));
    let wide = conv("expand3x3", squeezed, Conv2d::new(squeeze, expand, 3).padding(1));
    b.concat(&format!("{path}.concat"), &[narrow, wide])
}

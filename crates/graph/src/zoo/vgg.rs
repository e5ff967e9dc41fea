//! VGG (Simonyan and Zisserman 2015, "Very Deep Convolutional Networks"), as `torchvision.models.vgg`.

use super::builder::{Builder, INPUT};
use crate::{Conv2d, Graph, MaxPool2d};

/// The network with `convs[i]` convolutions in the i-th stage, each followed by a batch norm if asked for.
pub(super) fn vgg(convs: [usize; 5], batch_norm: bool, classes: usize) -> Graph {
    let mut b = Builder::new();
    let mut x = INPUT;
    let mut channels = 3;
    let mut index = 0; // place in torchvision's nn.Sequential
    let mut name = || {
        index += 1;
        format!("features.{}", index - 1)
    };
    for (&count, width) in convs.iter().zip([64, 128, 256, 512, 512]) {
        for _ in 0..count {
            x = b.conv(&name(), x, Conv2d::new(channels, width, 3).padding(1).bias());
            if batch_norm {
                x = b.batch_norm(&name(), x, width);
            }
            x = b.relu(&name(), x);
            channels = width;
        }
        x = b.max_pool(&name(), x, MaxPool2d { kernel_size: 2, stride: 2, padding: 0, ceil_mode: false });
    }
    x = b.avg_pool("avgpool", x, 7);
    x = b.flatten("flatten", x);
    x = b.linear("classifier.0", x, 512 * 7 * 7, 4096);
    x = b.relu("classifier.1", x);
    x = b.dropout("classifier.2", x, 0.5);
    x = b.linear("classifier.3", x, 4096, 4096);
    x = b.relu("classifier.4", x);
    x = b.dropout("classifier.5", x, 0.5);
    b.linear("classifier.6", x, 4096, classes);
    b.finish()
}

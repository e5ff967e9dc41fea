//! Inception v3 (Szegedy et al. 2016), as `torchvision.models.inception_v3`, without the auxiliary head.

use super::builder::{Builder, INPUT};
use super::googlenet::basic_conv;
use crate::{AvgPool2d, Conv2d, Graph, MaxPool2d, NodeId};

const FEATURES: usize = 2048;

pub(super) fn inception_v3(classes: usize) -> Graph {
    let mut b = Builder::new().norm(0.001, 0.1);
    let mut x = basic_conv(&mut b, "Conv2d_1a_3x3", INPUT, Conv2d::new(3, 32, 3).stride(2));
    x = basic_conv(&mut b, "Conv2d_2a_3x3", x, Conv2d::new(32, 32, 3));
    x = basic_conv(&mut b, "Conv2d_2b_3x3", x, Conv2d::new(32, 64, 3).padding(1));
    x = b.max_pool("maxpool1", x, HALVE);
    x = basic_conv(&mut b, "Conv2d_3b_1x1", x, Conv2d::new(64, 80, 1));
    x = basic_conv(&mut b, "Conv2d_4a_3x3", x, Conv2d::new(80, 192, 3));
    x = b.max_pool("maxpool2", x, HALVE);
    for (path, channels, pooled) in [("Mixed_5b", 192, 32), ("Mixed_5c", 256, 64), ("Mixed_5d", 288, 64)] {
        x = Block::new(&mut b, path, x).a(channels, pooled);
    }
    x = Block::new(&mut b, "Mixed_6a", x).b(288);
    for (path, inner) in [("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)] {
        x = Block::new(&mut b, path, x).c(768, inner);
    }
    x = Block::new(&mut b, "Mixed_7a", x).d(768);
    for (path, channels) in [("Mixed_7b", 1280), ("Mixed_7c", FEATURES)] {
        x = Block::new(&mut b, path, x).e(channels);
    }
    b.pooled_head(x, ("dropout", 0.5), "fc", FEATURES, classes);
    b.finish()
}

pub(super) const HALVE: MaxPool2d = MaxPool2d { kernel_size: 3, stride: 2, padding: 0, ceil_mode: false };

/// A convolution along a line or a column, `[height, width]`, that keeps the size.
pub(super) fn along(from: usize, to: usize, kernel_size: [usize; 2]) -> Conv2d {
    let padding = kernel_size.map(|k| k / 2);
    Conv2d { kernel_size, padding, ..Conv2d::new(from, to, 1) }
}

/// A block under construction: branches of `x`, joined at the end. The kinds are torchvision's `InceptionA` to `E`.
struct Block<'a> {
    builder: &'a mut Builder,
    path: &'a str,
    x: NodeId,
}

impl<'a> Block<'a> {
    fn new(builder: &'a mut Builder, path: &'a str, x: NodeId) -> Self {
        Self { builder, path, x }
    }

    fn conv(&mut self, branch: &str, x: NodeId, conv: Conv2d) -> NodeId {
        basic_conv(self.builder, &format!("{}.{branch}", self.path), x, conv)
    }

    /// Convolutions `{branch}_1`, `{branch}_2`, ... one after the other.
    fn chain(&mut self, branch: &str, convs: &[Conv2d]) -> NodeId {
        let mut x = self.x;
        for (i, &conv) in convs.iter().enumerate() {
            x = self.conv(&format!("{branch}_{}", i + 1), x, conv);
        }
        x
    }

    /// A 1x1 convolution after an average pool.
    fn pooled(&mut self, channels: usize, width: usize) -> NodeId {
        let pool = AvgPool2d { kernel_size: 3, stride: 1, padding: 1 };
        let x = self.builder.avg_pool2d(&format!("{}.pool", self.path), self.x, pool);
        self.conv("branch_pool", x, Conv2d::new(channels, width, 1))
    }

    fn halved(&mut self) -> NodeId {
        self.builder.max_pool(&format!("{}.pool", self.path), self.x, HALVE)
    }

    fn join(self, branches: &[NodeId]) -> NodeId {
        self.builder.concat(&format!("{}.concat", self.path), branches)
    }

    fn a(mut self, channels: usize, pooled: usize) -> NodeId {
        let ones = self.conv("branch1x1", self.x, Conv2d::new(channels, 64, 1));
        let fives = self.chain("branch5x5", &[Conv2d::new(channels, 48, 1), Conv2d::new(48, 64, 5).padding(2)]);
        let threes = self.chain(
            "branch3x3dbl",
            &[Conv2d::new(channels, 64, 1), Conv2d::new(64, 96, 3).padding(1), Conv2d::new(96, 96, 3).padding(1)],
        );
        let pooled = self.pooled(channels, pooled);
        self.join(&[ones, fives, threes, pooled])
    }

    fn b(mut self, channels: usize) -> NodeId {
        let threes = self.conv("branch3x3", self.x, Conv2d::new(channels, 384, 3).stride(2));
        let double = self.chain(
            "branch3x3dbl",
            &[Conv2d::new(channels, 64, 1), Conv2d::new(64, 96, 3).padding(1), Conv2d::new(96, 96, 3).stride(2)],
        );
        let pooled = self.halved();
        self.join(&[threes, double, pooled])
    }

    fn c(mut self, channels: usize, inner: usize) -> NodeId {
        let ones = self.conv("branch1x1", self.x, Conv2d::new(channels, 192, 1));
        let first = Conv2d::new(channels, inner, 1);
        let sevens = self.chain("branch7x7", &[first, along(inner, inner, [1, 7]), along(inner, 192, [7, 1])]);
        let (down, across) = (along(inner, inner, [7, 1]), along(inner, inner, [1, 7]));
        let double = self.chain("branch7x7dbl", &[first, down, across, down, along(inner, 192, [1, 7])]);
        let pooled = self.pooled(channels, 192);
        self.join(&[ones, sevens, double, pooled])
    }

    fn d(mut self, channels: usize) -> NodeId {
        let first = Conv2d::new(channels, 192, 1);
        let threes = self.chain("branch3x3", &[first, Conv2d::new(192, 320, 3).stride(2)]);
        let sevens = self.chain(
            "branch7x7x3",
            &[first, along(192, 192, [1, 7]), along(192, 192, [7, 1]), Conv2d::new(192, 192, 3).stride(2)],
        );
        let pooled = self.halved();
        self.join(&[threes, sevens, pooled])
    }

    fn e(mut self, channels: usize) -> NodeId {
        let ones = self.conv("branch1x1", self.x, Conv2d::new(channels, 320, 1));
        let threes = self.chain("branch3x3", &[Conv2d::new(channels, 384, 1)]);
        let threes = self.both_ways("branch3x3_2", threes);
        let double = self.chain("branch3x3dbl", &[Conv2d::new(channels, 448, 1), Conv2d::new(448, 384, 3).padding(1)]);
        let double = self.both_ways("branch3x3dbl_3", double);
        let pooled = self.pooled(channels, 192);
        self.join(&[&[ones], threes.as_slice(), &double, &[pooled]].concat())
    }

    /// A 1x3 and a 3x1 convolution side by side, `{branch}a` and `{branch}b`.
    fn both_ways(&mut self, branch: &str, x: NodeId) -> [NodeId; 2] {
        let a = self.conv(&format!("{branch}a"), x, along(384, 384, [1, 3]));
        [a, self.conv(&format!("{branch}b"), x, along(384, 384, [3, 1]))]
    }
}

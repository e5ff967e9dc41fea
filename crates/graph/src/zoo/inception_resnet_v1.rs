//! Inception-ResNet v1 (Szegedy et al. 2017) for faces, as `InceptionResnetV1` of facenet-pytorch: what comes before the
//! head is FaceNet's embedding (Schroff et al. 2015), 512 numbers a face.

use super::builder::{Builder, INPUT};
use super::googlenet::basic_conv;
use super::inception_v3::{HALVE, along};
use crate::{Conv2d, Graph, NodeId, Op};

/// Length of the embedding.
const EMBEDDING: usize = 512;

pub(super) fn inception_resnet_v1(classes: usize) -> Graph {
    let mut b = Builder::new().norm(0.001, 0.1);
    let mut x = basic_conv(&mut b, "conv2d_1a", INPUT, Conv2d::new(3, 32, 3).stride(2));
    x = basic_conv(&mut b, "conv2d_2a", x, Conv2d::new(32, 32, 3));
    x = basic_conv(&mut b, "conv2d_2b", x, Conv2d::new(32, 64, 3).padding(1));
    x = b.max_pool("maxpool_3a", x, HALVE);
    x = basic_conv(&mut b, "conv2d_3b", x, Conv2d::new(64, 80, 1));
    x = basic_conv(&mut b, "conv2d_4a", x, Conv2d::new(80, 192, 3));
    x = basic_conv(&mut b, "conv2d_4b", x, Conv2d::new(192, 256, 3).stride(2));
    for i in 0..5 {
        let three = Conv2d::new(32, 32, 3).padding(1);
        let first = Conv2d::new(256, 32, 1);
        let branches: [&[Conv2d]; 3] = [&[first], &[first, three], &[first, three, three]];
        x = residual(&mut b, &format!("repeat_1.{i}"), x, &branches, 256, 0.17, true);
    }
    let threes = Conv2d::new(192, 192, 3).padding(1);
    let down = |from, to| Conv2d::new(from, to, 3).stride(2);
    x = reduction(&mut b, "mixed_6a", x, &[&[down(256, 384)], &[Conv2d::new(256, 192, 1), threes, down(192, 256)]]);
    for i in 0..10 {
        let first = Conv2d::new(896, 128, 1);
        let sevens = [first, along(128, 128, [1, 7]), along(128, 128, [7, 1])];
        x = residual(&mut b, &format!("repeat_2.{i}"), x, &[&[first], &sevens], 896, 0.1, true);
    }
    let first = Conv2d::new(896, 256, 1);
    let threes = Conv2d::new(256, 256, 3).padding(1);
    let branches: [&[Conv2d]; 3] =
        [&[first, down(256, 384)], &[first, down(256, 256)], &[first, threes, down(256, 256)]];
    x = reduction(&mut b, "mixed_7a", x, &branches);
    for i in 0..6 {
        let first = Conv2d::new(1792, 192, 1);
        let threes = [first, along(192, 192, [1, 3]), along(192, 192, [3, 1])];
        // The last has a name of its own, all of its branch, and no ReLU.
        let (path, scale) = if i < 5 { (format!("repeat_3.{i}"), 0.2) } else { ("block8".into(), 1.0) };
        x = residual(&mut b, &path, x, &[&[first], &threes], 1792, scale, i < 5);
    }
    x = b.avg_pool("avgpool_1a", x, 1);
    x = b.flatten("flatten", x);
    x = b.dropout("dropout", x, 0.6);
    x = b.linear_without_bias("last_linear", x, 1792, EMBEDDING);
    x = b.batch_norm("last_bn", x, EMBEDDING);
    b.linear("logits", x, EMBEDDING, classes);
    b.finish()
}

/// A branch `{path}`: one convolution, or several `{path}.0`, `{path}.1`, ... one after the other.
fn branch(b: &mut Builder, path: &str, mut x: NodeId, convs: &[Conv2d]) -> NodeId {
    if let [conv] = convs {
        return basic_conv(b, path, x, *conv);
    }
    for (i, &conv) in convs.iter().enumerate() {
        x = basic_conv(b, &format!("{path}.{i}"), x, conv);
    }
    x
}

fn branches(b: &mut Builder, path: &str, x: NodeId, all: &[&[Conv2d]]) -> Vec<NodeId> {
    all.iter().enumerate().map(|(i, convs)| branch(b, &format!("{path}.branch{i}"), x, convs)).collect()
}

/// `Block35`, `Block17` and `Block8`: the branches, joined and brought back to `channels`, scaled and added.
fn residual(
    b: &mut Builder,
    path: &str,
    x: NodeId,
    convs: &[&[Conv2d]],
    channels: usize,
    scale: f32,
    relu: bool,
) -> NodeId {
    let joined = branches(b, path, x, convs);
    let width = convs.iter().filter_map(|convs| convs.last()).map(|conv| conv.out_channels).sum();
    let mut y = b.concat(&format!("{path}.concat"), &joined);
    y = b.conv(&format!("{path}.conv2d"), y, Conv2d::new(width, channels, 1).bias());
    if scale != 1.0 {
        y = b.apply(&format!("{path}.scale"), y, Op::Scale { factor: scale });
    }
    y = b.add(&format!("{path}.add"), y, x);
    if relu { b.relu(&format!("{path}.relu"), y) } else { y }
}

/// `Mixed_6a` and `Mixed_7a`: branches and a max-pool that halve the map.
fn reduction(b: &mut Builder, path: &str, x: NodeId, convs: &[&[Conv2d]]) -> NodeId {
    let mut joined = branches(b, path, x, convs);
    joined.push(b.max_pool(&format!("{path}.branch{}", convs.len()), x, HALVE));
    b.concat(&format!("{path}.concat"), &joined)
}

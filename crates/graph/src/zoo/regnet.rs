//! RegNet (Radosavovic et al. 2020), as `torchvision.models.regnet`.

use super::builder::{Builder, INPUT};
use crate::{Conv2d, Graph, NodeId, Op};

/// Channels of the first layer.
const STEM: usize = 32;

/// The four stages of a network, as the paper's linear rule for `depth`, `w_0`, `w_a` and `w_m` gives them.
struct Stages {
    depths: [usize; 4],
    widths: [usize; 4],
    /// Channels of a group of the 3x3 convolutions.
    group_width: usize,
    /// With squeeze-and-excitation: RegNetY.
    squeezes: bool,
}

pub(super) fn regnet_x(depths: [usize; 4], widths: [usize; 4], group_width: usize, classes: usize) -> Graph {
    regnet(&Stages { depths, widths, group_width, squeezes: false }, classes)
}

pub(super) fn regnet_y(depths: [usize; 4], widths: [usize; 4], group_width: usize, classes: usize) -> Graph {
    regnet(&Stages { depths, widths, group_width, squeezes: true }, classes)
}

fn regnet(stages: &Stages, classes: usize) -> Graph {
    let mut b = Builder::new();
    let mut x = b.conv_norm_activation("stem", INPUT, Conv2d::new(3, STEM, 3).stride(2).padding(1), Some(Op::ReLU));
    let mut channels = STEM;
    for (stage, (&depth, &width)) in stages.depths.iter().zip(&stages.widths).enumerate() {
        for i in 0..depth {
            let path = format!("trunk_output.block{n}.block{n}-{i}", n = stage + 1);
            x = bottleneck(&mut b, &path, x, [channels, width], if i == 0 { 2 } else { 1 }, stages);
            channels = width;
        }
    }
    b.pooled_head(x, ("", 0.0), "fc", channels, classes);
    b.finish()
}

fn bottleneck(
    b: &mut Builder,
    path: &str,
    x: NodeId,
    [channels, width]: [usize; 2],
    stride: usize,
    stages: &Stages,
) -> NodeId {
    let mut shortcut = x;
    if channels != width || stride != 1 {
        let conv = Conv2d::new(channels, width, 1).stride(stride);
        shortcut = b.conv_norm_activation(&format!("{path}.proj"), x, conv, None);
    }
    let y = b.conv_norm_activation(&format!("{path}.f.a"), x, Conv2d::new(channels, width, 1), Some(Op::ReLU));
    let grouped = Conv2d::new(width, width, 3).stride(stride).padding(1).groups(width / stages.group_width);
    let mut y = b.conv_norm_activation(&format!("{path}.f.b"), y, grouped, Some(Op::ReLU));
    if stages.squeezes {
        // A quarter of the block's input; halves are rounded to even as in Python.
        let squeezed = (channels as f64 / 4.0).round_ties_even() as usize;
        y = b.squeeze_excitation(&format!("{path}.f.se"), y, [width, squeezed], Op::ReLU, Op::Sigmoid);
    }
    y = b.conv_norm_activation(&format!("{path}.f.c"), y, Conv2d::new(width, width, 1), None);
    let sum = b.add(&format!("{path}.add"), shortcut, y);
    b.relu(&format!("{path}.activation"), sum)
}

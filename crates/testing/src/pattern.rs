//! Weights and images that Rust and Python compute bit for bit alike, so that none need committing.
//!
//! The twin is `reference/pattern.py`. Element `i` (row-major, PyTorch's layout) of the tensor `name` is
//! `offset + scale * u` in `f32`, where `u` comes from the bits of `splitmix64(fnv1a64(name) + i)` and
//! offset and scale keep signals at one size from layer to layer.

use regraft_graph::{Graph, Op, StateDict, Tensor};
use regraft_random::hash_name;

/// `len` values in `[-1, 1)` that depend on `name` alone; all are multiples of 2⁻²³.
pub fn values(name: &str, len: usize) -> Vec<f32> {
    let start = hash_name(name);
    (0..len as u64)
        .map(|i| {
            let mantissa = (splitmix64(start.wrapping_add(i)) >> 40) as i32 - (1 << 23);
            mantissa as f32 * (1.0 / (1u32 << 23) as f32)
        })
        .collect()
}

/// Pattern weights for every tensor of a network: the `state_dict` that `pattern.fill` gives torchvision's.
///
/// A batch norm whose output a residual sum reads, directly or by way of a stochastic depth, gets small weights: at full size every sum would double
/// the variance, and a ResNet-152 has fifty of them.
pub fn state(graph: &Graph) -> StateDict {
    let mut added = vec![false; graph.nodes().len()];
    for node in graph.nodes().iter().filter(|node| node.op == Op::Add) {
        for &input in &node.inputs {
            let term = &graph.nodes()[input];
            added[if matches!(term.op, Op::StochasticDepth { .. }) { term.inputs[0] } else { input }] = true;
        }
    }
    let mut state = StateDict::new();
    for spec in graph.parameters() {
        let node = &graph.nodes()[spec.node];
        let suffix = spec.name.rsplit('.').next().unwrap_or_default();
        let fan_in: usize = spec.shape[1..].iter().product();
        let (offset, scale) = match (&node.op, suffix) {
            (Op::BatchNorm2d(_), "weight") if added[spec.node] => (0.3, 0.1),
            (Op::BatchNorm2d(_), "weight") => (1.0, 0.2),
            (Op::BatchNorm2d(_), "running_var") => (1.0, 0.3),
            (_, "bias" | "running_mean") => (0.0, 0.1),
            (Op::LayerNorm { .. }, _) => (1.0, 0.2),
            (Op::LayerScale { .. }, _) => (0.3, 0.1),
            // Uniform in ±sqrt(6 / fan_in) has He's variance 2 / fan_in, which makes up for a ReLU's half.
            (Op::Conv2d(_), _) => (0.0, (6.0 / fan_in as f64).sqrt() as f32),
            _ => (0.0, (3.0 / fan_in as f64).sqrt() as f32),
        };
        let data = values(&spec.name, spec.len()).into_iter().map(|u| offset + scale * u).collect();
        state.insert(spec.name, Tensor::new(spec.shape, data));
    }
    state
}

/// The output function of SplitMix64 (Steele, Lea and Flood 2014).
fn splitmix64(state: u64) -> u64 {
    let x = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::fixture;

    #[test]
    fn values_are_those_of_python() {
        let text = std::fs::read_to_string(fixture::path("pattern.json")).unwrap();
        let expected: BTreeMap<String, Vec<f32>> = serde_json::from_str(&text).unwrap();
        assert!(!expected.is_empty());
        for (name, expected) in expected {
            assert_eq!(values(&name, expected.len()), expected, "{name}");
        }
    }

    #[test]
    fn values_fill_their_range_evenly() {
        let values = values("spread", 1 << 16);
        assert!(values.iter().all(|u| (-1.0..1.0).contains(u)));
        let mean = values.iter().map(|&u| f64::from(u)).sum::<f64>() / values.len() as f64;
        let square = values.iter().map(|&u| f64::from(u).powi(2)).sum::<f64>() / values.len() as f64;
        // Four standard deviations of the mean and of the mean square of 2^16 uniform values.
        assert!(mean.abs() < 0.009 && (square - 1.0 / 3.0).abs() < 0.005, "mean {mean}, mean square {square}");
    }
}

//! Initial values of parameters, as PyTorch and torchvision choose them.

use regraft_random::{Purpose, hash_name, keyed, normal_f64, unit_f64};

use crate::{Graph, NodeId, Op, StateDict, Tensor};

/// How the weights of a layer start.
#[derive(Clone, Copy)]
enum Scheme {
    /// Uniform in `±1/sqrt(fan_in)`, bias too: the default of `torch.nn.Linear` and `torch.nn.Conv2d`.
    Default,
    /// Normal with variance `2 / fan_out`, bias 0: `kaiming_normal_(mode="fan_out", nonlinearity="relu")`
    /// (He et al. 2015), torchvision's choice for convolutions.
    KaimingNormal,
}

/// Initial values for every parameter of a network that starts from nothing.
///
/// Convolutions start as torchvision starts them, fully connected layers with PyTorch's default, batch
/// norms as the identity. Each tensor's values depend on the seed and on its name alone.
pub fn random(graph: &Graph, seed: u64) -> StateDict {
    let mut state = StateDict::new();
    for (id, node) in graph.nodes().iter().enumerate() {
        let scheme = if matches!(node.op, Op::Conv2d(_)) { Scheme::KaimingNormal } else { Scheme::Default };
        fill(graph, id, scheme, seed, &mut state);
    }
    state
}

/// Initial values for the parameters of one new layer, with PyTorch's defaults for its kind.
pub fn new_layer(graph: &Graph, node: NodeId, seed: u64) -> StateDict {
    let mut state = StateDict::new();
    fill(graph, node, Scheme::Default, seed, &mut state);
    state
}

fn fill(graph: &Graph, id: NodeId, scheme: Scheme, seed: u64, state: &mut StateDict) {
    let node = &graph.nodes()[id];
    let (fan_in, fan_out) = match &node.op {
        Op::Conv2d(conv) => {
            let taps = conv.kernel_size[0] * conv.kernel_size[1];
            // torch.nn.init counts fans from the weight's own shape, groups left aside.
            (conv.in_channels / conv.groups * taps, conv.out_channels * taps)
        }
        Op::Linear(linear) => (linear.in_features, linear.out_features),
        _ => (1, 1),
    };
    for (suffix, shape, _) in node.op.parameters() {
        let name = format!("{}.{suffix}", node.name);
        let tensor = match (&node.op, suffix, scheme) {
            (Op::BatchNorm2d(_) | Op::LayerNorm { .. }, "weight" | "running_var", _) => Tensor::full(shape, 1.0),
            // Small, so that a deep network starts near the identity: torchvision's ConvNeXt.
            (Op::LayerScale { .. }, ..) => Tensor::full(shape, 1e-6),
            (Op::BatchNorm2d(_) | Op::LayerNorm { .. }, _, _) | (_, "bias", Scheme::KaimingNormal) => {
                Tensor::full(shape, 0.0)
            }
            (_, _, scheme) => {
                let mut rng = keyed(seed, Purpose::Init, hash_name(&name), 0);
                let mut draw = || match scheme {
                    Scheme::Default => (2.0 * unit_f64(&mut rng) - 1.0) / (fan_in as f64).sqrt(),
                    Scheme::KaimingNormal => normal_f64(&mut rng) * (2.0 / fan_out as f64).sqrt(),
                };
                let len = shape.iter().product();
                Tensor::new(shape, (0..len).map(|_| draw() as f32).collect())
            }
        };
        state.insert(name, tensor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zoo;

    #[test]
    fn every_parameter_gets_values_of_the_right_spread() {
        let graph = zoo::build("resnet18", 10).unwrap();
        let state = random(&graph, 0);
        let specs = graph.parameters();
        assert_eq!(state.len(), specs.len());
        for spec in &specs {
            assert_eq!(state[&spec.name].shape(), spec.shape, "{}", spec.name);
        }
        let spread = |name: &str| {
            let data = state[name].data();
            (data.iter().map(|x| f64::from(x * x)).sum::<f64>() / data.len() as f64).sqrt()
        };
        let conv = (2.0f64 / (512.0 * 9.0)).sqrt();
        assert!((spread("layer4.1.conv2.weight") / conv - 1.0).abs() < 0.01);
        assert!((spread("fc.weight") / (1.0 / (3.0f64 * 512.0).sqrt()) - 1.0).abs() < 0.05);
        assert_eq!(spread("bn1.weight"), 1.0);
    }

    #[test]
    fn values_depend_on_seed_and_name_alone() {
        let graph = zoo::build("resnet18", 10).unwrap();
        let head = graph.head().unwrap();
        let whole = random(&graph, 5);
        assert_eq!(new_layer(&graph, head, 5)["fc.weight"], whole["fc.weight"]);
        assert_ne!(new_layer(&graph, head, 6)["fc.weight"], whole["fc.weight"]);
    }
}

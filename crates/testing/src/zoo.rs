//! torchvision's logits for pattern weights and one pattern image, from `reference/zoo`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::fixture;

/// What torchvision's network of one name gives.
///
/// The weights are [`pattern::state`](crate::pattern::state) of the network with 1000 classes, the image is
/// [`values`](crate::pattern::values) of `"input"`, `[3, 224, 224]`; batch norms are in eval mode.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// The 1000 logits, computed in `f64`.
    #[serde(skip)]
    pub logits: Vec<f32>,
    /// How far PyTorch's own `f32` logits lie from these, relative to the largest.
    pub float32_error: f64,
    /// FNV-1a of the names and shapes of all tensors of the `state_dict`.
    pub layout: u64,
    /// Digest of the values of all tensors.
    pub bits: u64,
}

/// The references by network name: torchvision's.
///
/// # Panics
/// If the file is missing or not what `reference/zoo/generate.py` writes.
#[track_caller]
pub fn references() -> BTreeMap<String, Reference> {
    let (mut logits, metadata) = fixture::read("zoo/logits.safetensors");
    let networks = metadata.get("networks").expect("zoo/logits.safetensors has no metadata entry \"networks\"");
    let mut networks: BTreeMap<String, Reference> =
        serde_json::from_str(networks).unwrap_or_else(|e| panic!("zoo/logits.safetensors: {e}"));
    for (name, reference) in &mut networks {
        let tensor = logits.remove(name).unwrap_or_else(|| panic!("zoo/logits.safetensors lacks {name}"));
        reference.logits = tensor.into_data();
    }
    networks
}

#[cfg(test)]
mod tests {
    use regraft_graph::{StateDict, zoo};
    use regraft_random::hash_name;

    use super::*;
    use crate::pattern;

    /// As `bits_digest` in generate.py.
    fn bits_digest(state: &StateDict) -> u64 {
        state.values().fold(0, |digest: u64, tensor| {
            let weigh = |(i, x): (usize, &f32)| (i as u64 + 1).wrapping_mul(u64::from(x.to_bits()));
            let total = tensor.data().iter().enumerate().map(weigh).fold(0, u64::wrapping_add);
            digest.wrapping_mul(0x100_0000_01b3).wrapping_add(total)
        })
    }

    #[test]
    fn every_network_has_the_parameters_of_torchvisions() {
        let references = references();
        assert_eq!(references.len(), zoo::NAMES.len());
        for &name in zoo::NAMES {
            let reference = &references[name];
            assert_eq!(reference.logits.len(), 1000, "{name}");
            let mut parameters = zoo::build(name, 1000).unwrap().parameters();
            parameters.sort_by(|a, b| a.name.cmp(&b.name));
            let lines: String = parameters.iter().map(|p| format!("{} {:?}\n", p.name, p.shape)).collect();
            assert_eq!(hash_name(&lines), reference.layout, "{name}: names or shapes differ:\n{lines}");
        }
    }

    #[test]
    fn pattern_weights_are_bit_for_bit_those_of_python() {
        let references = references();
        for name in ["resnet18", "resnet50", "mobilenet_v2", "squeezenet1_1"] {
            let state = pattern::state(&zoo::build(name, 1000).unwrap());
            assert_eq!(bits_digest(&state), references[name].bits, "{name}");
        }
    }
}

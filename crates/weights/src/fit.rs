//! Whether weights are those of a network.

use std::collections::BTreeMap;
use std::fmt;

use regraft_graph::StateDict;

use crate::error::Error;

/// How many names of each kind a message gives before it only counts.
const NAMES_SHOWN: usize = 8;

/// A tensor whose shape is not the expected one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misshapen {
    /// Its name.
    pub name: String,
    /// The shape that the network has.
    pub expected: Vec<usize>,
    /// The shape that the weights have.
    pub found: Vec<usize>,
}

/// Every difference between the tensors a network expects and those there are, each list in the
/// network's or the file's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Names that the network expects and the weights lack.
    pub missing: Vec<String>,
    /// Names that the weights have and the network does not know.
    pub unexpected: Vec<String>,
    /// Tensors that both have, with different shapes.
    pub misshapen: Vec<Misshapen>,
}

impl std::error::Error for Mismatch {}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes = |m: &Misshapen| format!("{} is {:?} where {:?} is expected", m.name, m.found, m.expected);
        let parts = [
            part("missing", &self.missing, String::clone),
            part("unexpected", &self.unexpected, String::clone),
            part("misshapen", &self.misshapen, shapes),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        write!(f, "the weights are not this network's: {}", parts.join("; "))
    }
}

fn part<T>(what: &str, items: &[T], show: impl Fn(&T) -> String) -> Option<String> {
    if items.is_empty() {
        return None;
    }
    let shown: Vec<String> = items.iter().take(NAMES_SHOWN).map(show).collect();
    let more = match items.len() - shown.len() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    Some(format!("{} {what} ({}{more})", items.len(), shown.join(", ")))
}

/// Compares `found` with the names and shapes that a network expects, and reports all differences
/// together.
///
/// `exempt` names layers, or single tensors, that are not compared at all: whatever either side has
/// under these names may be missing, unexpected or of another shape. A layer's name stands for all
/// that lies under it (`fc` for `fc.weight` and `fc.bias`, but not for `fc2.weight`).
///
/// # Errors
/// The differences.
pub fn check(expected: &[(String, Vec<usize>)], found: &StateDict, exempt: &[&str]) -> Result<(), Mismatch> {
    let shapes: BTreeMap<&str, &[usize]> = expected.iter().map(|(name, shape)| (name.as_str(), &shape[..])).collect();
    let compared = |name: &&str| !is_under(name, exempt);
    let mut mismatch = Mismatch::default();
    for (name, expected) in expected.iter().filter(|(name, _)| compared(&name.as_str())) {
        match found.get(name) {
            None => mismatch.missing.push(name.clone()),
            Some(tensor) if tensor.shape() != expected => mismatch.misshapen.push(Misshapen {
                name: name.clone(),
                expected: expected.clone(),
                found: tensor.shape().to_vec(),
            }),
            Some(_) => {}
        }
    }
    let unexpected = found.keys().map(String::as_str).filter(compared).filter(|name| !shapes.contains_key(name));
    mismatch.unexpected.extend(unexpected.map(str::to_string));
    if mismatch == Mismatch::default() { Ok(()) } else { Err(mismatch) }
}

/// The weights that a network takes from a file: `found` without what is under the `exempt` names,
/// once the rest has passed the [check].
///
/// For transfer learning `exempt` is the head: with `["fc"]` the thousand classes of ImageNet in the
/// file meet a network of two without complaint, and the result has neither, so that the caller
/// initialises the head and nothing of the old one remains. Where the new head has other names than
/// the old one, both are given.
///
/// # Errors
/// [`Error::Mismatch`] with all differences.
pub fn fit(expected: &[(String, Vec<usize>)], mut found: StateDict, exempt: &[&str]) -> Result<StateDict, Error> {
    check(expected, &found, exempt)?;
    found.retain(|name, _| !is_under(name, exempt));
    Ok(found)
}

/// Whether `name` is one of `layers` or lies under one.
fn is_under(name: &str, layers: &[&str]) -> bool {
    layers.iter().any(|layer| name.strip_prefix(layer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use regraft_graph::Tensor;

    fn expected(items: &[(&str, &[usize])]) -> Vec<(String, Vec<usize>)> {
        items.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect()
    }

    fn found(items: &[(&str, &[usize])]) -> StateDict {
        items.iter().map(|(name, shape)| (name.to_string(), Tensor::full(*shape, 1.0))).collect()
    }

    #[test]
    fn all_differences_are_named_together() {
        let network = expected(&[("conv1.weight", &[8, 3, 3, 3]), ("bn1.weight", &[8]), ("fc.weight", &[2, 8])]);
        let file = found(&[("conv1.weight", &[8, 3, 3, 3]), ("fc.weight", &[1000, 8]), ("fc2.bias", &[4])]);
        assert_eq!(
            check(&network, &file, &[]).unwrap_err().to_string(),
            "the weights are not this network's: 1 missing (bn1.weight); 1 unexpected (fc2.bias); \
             1 misshapen (fc.weight is [1000, 8] where [2, 8] is expected)"
        );
    }

    #[test]
    fn long_lists_are_cut_with_a_count() {
        let names: Vec<String> = (0..12).map(|i| format!("layer{i:02}")).collect();
        let network: Vec<_> = names.iter().map(|name| (name.clone(), vec![1])).collect();
        let message = check(&network, &StateDict::new(), &[]).unwrap_err().to_string();
        assert!(message.ends_with(
            "12 missing (layer00, layer01, layer02, layer03, layer04, layer05, layer06, layer07 and 4 more)"
        ));
    }

    #[test]
    fn a_backbone_is_taken_without_its_head() {
        let network =
            expected(&[("conv1.weight", &[8, 3, 3, 3]), ("head.0.weight", &[4, 8]), ("head.1.weight", &[2, 4])]);
        let file = found(&[("conv1.weight", &[8, 3, 3, 3]), ("fc.weight", &[1000, 8]), ("fc.bias", &[1000])]);
        let taken = fit(&network, file.clone(), &["head", "fc"]).unwrap();
        assert_eq!(taken.into_keys().collect::<Vec<_>>(), ["conv1.weight"]);
        // Only the head is exempt: a backbone that does not fit is still reported.
        let other = expected(&[("conv1.weight", &[16, 3, 3, 3])]);
        assert!(matches!(fit(&other, file, &["head", "fc"]), Err(Error::Mismatch(m)) if m.misshapen.len() == 1));
    }

    #[test]
    fn a_layer_name_covers_what_lies_under_it_and_nothing_else() {
        assert!(is_under("fc.weight", &["fc"]) && is_under("fc", &["fc"]) && is_under("a.fc.bias", &["a.fc"]));
        assert!(!is_under("fc2.weight", &["fc"]) && !is_under("a.fc.bias", &["fc"]));
    }
}

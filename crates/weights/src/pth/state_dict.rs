//! Finding the tensors in a pickle.

use std::collections::BTreeSet;

use crate::error::Problem;
use crate::pickle::{Class, Id, Pickle, Value};

/// Where training scripts put the state dict in a checkpoint, in the order they are looked for.
const NESTED_UNDER: [&str; 3] = ["state_dict", "model_state_dict", "model"];

/// A tensor as the pickle describes it.
pub(super) enum Described {
    /// A strided view into the storage with the given persistent id.
    View { storage: Id, offset: u64, shape: Vec<usize>, stride: Vec<usize> },
    /// A tensor that lies outside the pickle under the given persistent id (tar form).
    Outside(Id),
}

/// The names and tensors of the state dict that `pickle` holds.
pub(super) fn state_dict(pickle: &Pickle) -> Result<Vec<(String, Described)>, Problem> {
    let Value::Dict(root) = pickle.root() else {
        return Problem::refused(format!("it holds {} and no state dict", pickle.root().kind()));
    };
    let entries = NESTED_UNDER.iter().find_map(|&key| nested(pickle, root, key)).unwrap_or(root);
    let mut tensors = Vec::with_capacity(entries.len());
    let mut names = BTreeSet::new();
    for &(name, tensor) in entries {
        let name = pickle.string(name)?;
        if !names.insert(name) {
            return Problem::refused(format!("its state dict has the entry {name:?} twice"));
        }
        tensors.push((name.to_string(), describe(pickle, name, tensor)?));
    }
    Ok(tensors)
}

/// The dict that `entries` hold under `wanted`.
fn nested<'a>(pickle: &'a Pickle, entries: &[(Id, Id)], wanted: &str) -> Option<&'a Vec<(Id, Id)>> {
    entries.iter().find_map(|&(key, value)| match (pickle.get(key), pickle.get(value)) {
        (Value::String(key), Value::Dict(inner)) if key == wanted => Some(inner),
        _ => None,
    })
}

fn describe(pickle: &Pickle, name: &str, mut id: Id) -> Result<Described, Problem> {
    let other = |value: &Value| Problem::refused(format!("its entry {name:?} is {} and no tensor", value.kind()));
    // A parameter wraps a tensor; a few levels suffice, and a pickle may contain itself.
    for _ in 0..4 {
        let (class, arguments, state) = match pickle.get(id) {
            Value::Object { class, arguments, state } => (class, pickle.sequence(*arguments)?, *state),
            Value::Persistent(id) => return Ok(Described::Outside(*id)),
            value => return other(value),
        };
        let state = state.map(|state| pickle.get(state));
        match (class, arguments, state) {
            (Class::RebuildTensor, _, None) => return view(pickle, name, arguments),
            (Class::Tensor, [], Some(Value::Tuple(state))) => return view(pickle, name, state),
            // PyTorch before 0.1.9 kept the tensor in the state: (data, grad, hooks, requires_grad, volatile).
            (Class::Parameter, _, Some(Value::Tuple(state))) if state.len() == 5 => id = state[0],
            (Class::Parameter, &[tensor, ..], _) => id = tensor,
            _ => return other(pickle.get(id)),
        }
    }
    Problem::malformed(format!("its entry {name:?} is a parameter of a parameter"))
}

/// A view from (storage, offset, shape, stride, requires_grad, backward_hooks, metadata), of which the
/// first four are always there.
fn view(pickle: &Pickle, name: &str, arguments: &[Id]) -> Result<Described, Problem> {
    let &[storage, offset, shape, stride, ref rest @ ..] = arguments else {
        return Problem::malformed(format!("the tensor {name:?} is described by {} values", arguments.len()));
    };
    let Value::Persistent(storage) = pickle.get(storage) else {
        return Problem::malformed(format!("the tensor {name:?} has {} for a storage", pickle.get(storage).kind()));
    };
    // The metadata say that elements are to be negated or conjugated on reading.
    if let Some(Value::Dict(metadata)) = rest.get(2).map(|&metadata| pickle.get(metadata))
        && !metadata.is_empty()
    {
        return Problem::refused(format!("the tensor {name:?} is a negated or conjugated view"));
    }
    let (offset, shape, stride) = (pickle.int(offset)?, pickle.sizes(shape)?, pickle.sizes(stride)?);
    Ok(Described::View { storage: *storage, offset, shape, stride })
}

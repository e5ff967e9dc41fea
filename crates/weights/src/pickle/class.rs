//! The names a pickle may mention.

use crate::error::Problem;
use crate::source::Dtype;

/// A class or function that state dicts are made of. None of them is ever called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor` and `_v2`: (storage, offset, shape, stride, ...).
    RebuildTensor,
    /// `torch._utils._rebuild_parameter` and `torch.nn.parameter.Parameter`: (tensor, ...).
    Parameter,
    /// `torch.FloatStorage` and its like.
    Storage(Dtype),
    /// `torch.FloatTensor` and its like: PyTorch before 0.2 stored a tensor as an instance of its type
    /// with the state (storage, offset, shape, stride).
    Tensor,
}

impl Class {
    /// The class called `name` in `module`, if it is on the list.
    pub(crate) fn named(module: &str, name: &str) -> Result<Self, Problem> {
        let class = match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") | ("torch.nn.parameter", "Parameter") => Some(Self::Parameter),
            ("torch" | "torch.cuda", name) => {
                let storage = name.strip_suffix("Storage").and_then(dtype).map(Self::Storage);
                storage.or_else(|| name.strip_suffix("Tensor").and_then(dtype).map(|_| Self::Tensor))
            }
            _ => None,
        };
        class.ok_or_else(|| {
            Problem::Refused(format!(
                "its pickle names `{}.{}`, which no state dict needs; nothing of it was executed. If you trust the \
                 file, load it in PyTorch and save only `model.state_dict()`",
                module.escape_debug(),
                name.escape_debug()
            ))
        })
    }
}

/// The element type in the name of PyTorch's storage and tensor classes.
fn dtype(prefix: &str) -> Option<Dtype> {
    Some(match prefix {
        "Half" => Dtype::F16,
        "BFloat16" => Dtype::Bf16,
        "Float" => Dtype::F32,
        "Double" => Dtype::F64,
        "Byte" | "Char" | "Bool" => Dtype::Integer(1),
        "Short" => Dtype::Integer(2),
        "Int" => Dtype::Integer(4),
        "Long" => Dtype::Integer(8),
        _ => return None,
    })
}

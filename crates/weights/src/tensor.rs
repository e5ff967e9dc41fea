//! A tensor as PyTorch stores it: a strided view into a storage.

use crate::error::Problem;
use crate::source::{ByteOrder, Dtype, Source};
use regraft_graph::{StateDict, Tensor};

/// The most dimensions of a tensor, PyTorch's own limit. To be checked before a shape is copied out of
/// a pickle, where many tensors may share one.
pub(crate) const MAX_DIMENSIONS: usize = 64;

/// A run of elements in a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storage {
    pub(crate) dtype: Dtype,
    pub(crate) order: ByteOrder,
    /// Byte of the file where it begins.
    pub(crate) at: u64,
    /// Number of elements, all of which lie in the file.
    pub(crate) elements: u64,
}

/// The place and layout of one tensor; all but `storage` is what the file claims.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) storage: Storage,
    /// Element of the storage where the tensor's first element lies.
    pub(crate) offset: u64,
    pub(crate) shape: Vec<usize>,
    /// Elements of the storage from one index of a dimension to the next.
    pub(crate) stride: Vec<usize>,
}

/// Reads the named tensors, skipping those of integers.
pub(crate) fn read_views(source: &mut Source, views: Vec<(String, View)>) -> Result<StateDict, Problem> {
    let mut weights = StateDict::new();
    for (name, view) in views {
        // Names reach terminals and logs, where control characters could forge what is read there.
        if name.chars().any(char::is_control) {
            return Problem::refused(format!("the name of a tensor, {name:?}, has control characters"));
        }
        if matches!(view.storage.dtype, Dtype::Integer(_)) {
            continue;
        }
        let tensor = view.read(source).map_err(|problem| match problem {
            Problem::Malformed(reason) => Problem::Malformed(format!("tensor `{name}`: {reason}")),
            other => other,
        })?;
        weights.insert(name, tensor);
    }
    Ok(weights)
}

impl View {
    fn read(self, source: &mut Source) -> Result<Tensor, Problem> {
        let Self { storage, offset, shape, stride } = self;
        if shape.len() != stride.len() {
            return Problem::malformed(format!("it has {} dimensions and {} strides", shape.len(), stride.len()));
        }
        let impossible =
            || Problem::Malformed(format!("shape {shape:?} with stride {stride:?} at {offset} is too large"));
        let count = shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size)).ok_or_else(impossible)?;
        if count == 0 {
            return Ok(Tensor::new(shape, Vec::new()));
        }
        // From the first element to the last, both included.
        let span = shape
            .iter()
            .zip(&stride)
            .try_fold(1usize, |n, (&size, &step)| n.checked_add((size - 1).checked_mul(step)?))
            .ok_or_else(impossible)? as u64;
        if offset.checked_add(span).is_none_or(|end| end > storage.elements) {
            return Problem::malformed(format!(
                "shape {shape:?} with stride {stride:?} at {offset} does not fit its storage of {} elements",
                storage.elements
            ));
        }
        source.charge(span.max(count as u64))?;
        // Cannot overflow: the storage lies in the file.
        let at = storage.at + offset * storage.dtype.size();
        let span = source.floats(at, span, storage.dtype, storage.order)?;
        let data = if is_contiguous(&shape, &stride) { span } else { gather(&span, &shape, &stride, count) };
        Ok(Tensor::new(shape, data))
    }
}

/// Whether the elements lie in row-major order without gaps. The stride of a dimension of size 1 is
/// never used, and PyTorch leaves arbitrary values there.
fn is_contiguous(shape: &[usize], stride: &[usize]) -> bool {
    let mut expected = 1;
    for (&size, &step) in shape.iter().zip(stride).rev() {
        if size != 1 && step != expected {
            return false;
        }
        expected *= size;
    }
    true
}

/// Copies a strided view, whose `count` elements all lie in `span`, to row-major order.
fn gather(span: &[f32], shape: &[usize], stride: &[usize], count: usize) -> Vec<f32> {
    let mut data = Vec::with_capacity(count);
    let mut index = vec![0; shape.len()];
    let mut position = 0;
    for _ in 0..count {
        data.push(span[position]);
        // Advance the index like an odometer, the last dimension fastest.
        for d in (0..shape.len()).rev() {
            if index[d] + 1 < shape[d] {
                index[d] += 1;
                position += stride[d];
                break;
            }
            position -= index[d] * stride[d];
            index[d] = 0;
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_view_is_gathered_row_by_row() {
        let span: Vec<f32> = (0..6).map(|i| i as f32).collect();
        assert_eq!(gather(&span, &[3, 2], &[1, 3], 6), [0., 3., 1., 4., 2., 5.]);
        assert_eq!(gather(&span, &[2, 2], &[0, 5], 4), [0., 5., 0., 5.]);
        assert_eq!(gather(&span, &[2, 1, 2], &[1, usize::MAX, 4], 4), [0., 4., 1., 5.]);
    }

    #[test]
    fn a_dimension_of_one_may_have_any_stride() {
        assert!(is_contiguous(&[4, 1, 3], &[3, 77, 1]));
        assert!(is_contiguous(&[], &[]));
        assert!(!is_contiguous(&[4, 2], &[1, 4]));
    }
}

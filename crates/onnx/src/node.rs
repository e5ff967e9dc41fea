//! A node of the file with its settings.

use crate::error::Problem;
use crate::messages::{AttributeProto, NodeProto, TensorProto};
use crate::tensor::printable;

/// Why a node was not taken over.
pub(crate) enum Fault {
    /// It has no counterpart here: why.
    Unsupported(String),
    /// It reads what a node that is not supported would give.
    Follows,
    /// The file is damaged.
    File(Problem),
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Fault::Unsupported(reason)
    }
}

impl From<&str> for Fault {
    fn from(reason: &str) -> Self {
        Fault::Unsupported(reason.into())
    }
}

impl From<regraft_graph::Error> for Fault {
    fn from(error: regraft_graph::Error) -> Self {
        Fault::Unsupported(error.to_string())
    }
}

pub(crate) type Result<T> = std::result::Result<T, Fault>;

/// A node of the file.
#[derive(Clone, Copy)]
pub(crate) struct OnnxNode<'a>(pub &'a NodeProto);

impl<'a> OnnxNode<'a> {
    /// Its operator; with the domain where that is not ONNX's own.
    pub fn op(self) -> String {
        match self.0.domain.as_str() {
            "" | "ai.onnx" => printable(&self.0.op_type),
            domain => printable(&format!("{domain}.{}", self.0.op_type)),
        }
    }

    /// Its name, or that of its output.
    pub fn name(self) -> String {
        let name = if self.0.name.is_empty() { self.0.output.first() } else { Some(&self.0.name) };
        printable(name.map_or("", String::as_str))
    }

    fn attribute(self, name: &str) -> Option<&'a AttributeProto> {
        self.0.attribute.iter().find(|attribute| attribute.name == name)
    }

    pub fn int(self, name: &str) -> Option<i64> {
        self.attribute(name).map(|attribute| attribute.i)
    }

    pub fn float(self, name: &str) -> Option<f32> {
        self.attribute(name).map(|attribute| attribute.f)
    }

    pub fn ints(self, name: &str) -> Option<&'a [i64]> {
        self.attribute(name).map(|attribute| attribute.ints.as_slice())
    }

    pub fn floats(self, name: &str) -> Option<&'a [f32]> {
        self.attribute(name).map(|attribute| attribute.floats.as_slice())
    }

    pub fn string(self, name: &str) -> Option<String> {
        self.attribute(name).map(|attribute| printable(&String::from_utf8_lossy(&attribute.s)))
    }

    pub fn tensor(self, name: &str) -> Option<&'a TensorProto> {
        self.attribute(name).and_then(|attribute| attribute.t.as_ref())
    }

    /// Two sizes, vertical and horizontal, such as strides.
    ///
    /// # Errors
    /// If there are not two, or one does not fit a size.
    pub fn pair(self, name: &str, default: usize) -> Result<[usize; 2]> {
        let Some(ints) = self.ints(name) else { return Ok([default; 2]) };
        let sizes: Option<Vec<usize>> = ints.iter().map(|&n| usize::try_from(n).ok()).collect();
        match sizes.as_deref() {
            Some(&[vertical, horizontal]) => Ok([vertical, horizontal]),
            _ => Err(format!("its {name} are {ints:?}; two-dimensional layers are supported").into()),
        }
    }

    /// The padding of a window over an input of `size`, on each side, vertical and horizontal.
    ///
    /// # Errors
    /// If it is not the same on both sides.
    pub fn padding(
        self,
        size: [usize; 2],
        kernel: [usize; 2],
        stride: [usize; 2],
        dilation: [usize; 2],
    ) -> Result<[usize; 2]> {
        let auto = self.string("auto_pad").unwrap_or_default();
        let [top, left, bottom, right] = match auto.as_str() {
            "" | "NOTSET" => match self.ints("pads") {
                None => [0; 4],
                Some(&[top, left, bottom, right]) => [top, left, bottom, right],
                Some(pads) => return Err(format!("its pads are {pads:?}; two-dimensional layers are supported").into()),
            },
            "VALID" => [0; 4],
            "SAME_UPPER" | "SAME_LOWER" => {
                let total = |i: usize| {
                    let span = dilation[i].checked_mul(kernel[i].checked_sub(1)?)?.checked_add(1)?;
                    let windows = size[i].div_ceil(stride[i].max(1));
                    let covered = (windows - 1).checked_mul(stride[i])?.checked_add(span)?;
                    i64::try_from(covered.saturating_sub(size[i])).ok()
                };
                let (Some(vertical), Some(horizontal)) = (total(0), total(1)) else {
                    return Err("its window is larger than anything".into());
                };
                [vertical / 2, horizontal / 2, vertical - vertical / 2, horizontal - horizontal / 2]
            }
            other => return Err(format!("its auto_pad is {other:?}").into()),
        };
        match (usize::try_from(top), usize::try_from(left)) {
            (Ok(vertical), Ok(horizontal)) if (top, left) == (bottom, right) => Ok([vertical, horizontal]),
            _ => Err(format!(
                "it pads {top}, {left}, {bottom}, {right} at top, left, bottom and right; padding that is the same on \
                 opposite sides is supported"
            )
            .into()),
        }
    }
}

//! Networks: backbones and their weights, heads, surgery.

pub(crate) mod backbone;
pub(crate) mod batch_norms;
pub(crate) mod divided;
pub(crate) mod head;
pub mod onnx;
pub(crate) mod pretrained;
pub(crate) mod source;

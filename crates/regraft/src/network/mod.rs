//! Networks: backbones and their weights, heads, compiled networks.

pub(crate) mod backbone;
pub(crate) mod batch_norms;
pub(crate) mod device;
pub(crate) mod extractor;
pub(crate) mod head;
pub mod onnx;
pub(crate) mod pretrained;
pub(crate) mod session;
pub(crate) mod source;
pub(crate) mod weights;

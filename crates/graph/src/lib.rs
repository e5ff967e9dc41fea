//! The network as a value.
mod tensor;
pub use tensor::{StateDict, Tensor};

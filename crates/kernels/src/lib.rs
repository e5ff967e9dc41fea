//! CPU kernels for convolutional networks, forward and backward.
//!
//! Kernels take slices and shapes and know nothing of graphs or files. Feature maps are NHWC
//! (`[n, height, width, channels]`), so the channels of a pixel are contiguous and a map is also a matrix of
//! `n * height * width` rows. Convolution weights are `[kh, kw, in / groups, out]`; [`conv::pack_weight`] converts from
//! PyTorch's layout.
//!
//! A kernel that is more than a loop has a plain `f64` reference for its tests. The reference's gradients are checked
//! against finite differences, and the fast kernel against the reference.
//!
//! Work is split by shape alone, never by the number of threads, and every sum has a fixed order: the same input gives
//! the same bits on any number of threads. Kernels run on the current `rayon` pool.

pub mod activation;
pub mod batch_norm;
mod bf16;
pub mod conv;
pub mod cosine;
pub mod elementwise;
mod epilogue;
pub mod gate;
mod gemm;
pub mod layer_norm;
pub mod linear;
pub mod loss;
mod memory;
pub mod optim;
pub mod peak;
pub mod pool;
mod prefetch;
mod rows;
pub mod simd;
#[cfg(test)]
mod testing;
mod tile;
mod transpose;
mod vector;

pub use activation::Activation;
pub use bf16::Precision;
pub use gemm::{Matrix, MatrixMut, gemm};
pub use memory::Memory;

//! CPU kernels for convolutional networks, forward and backward.
//!
//! Kernels take slices and plain shapes and know nothing of graphs or files. Feature maps are NHWC
//! (`[n, height, width, channels]`), so a pixel's channels are contiguous and a map is also a matrix of
//! `n * height * width` rows; weights of convolutions are `[kh, kw, in / groups, out]`
//! ([`conv::pack_weight`] converts from PyTorch's layout).
//!
//! Beside each kernel that is more than a loop stands, for its tests, the operation as its definition says, in `f64`: its
//! gradients are checked against finite differences, and the fast kernel against it.
//!
//! Work is cut into pieces by the shapes alone, never by the number of threads, and every sum has a
//! fixed order: the same input gives the same bits on any number of threads. Kernels run on the
//! current `rayon` pool.

pub mod activation;
pub mod batch_norm;
mod bf16;
pub mod conv;
pub mod cosine;
pub mod elementwise;
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

//! The `regraft` program as a user runs it: what scripts rely on, and what it says when something is wrong.
//!
//! Photos are drawn by the tests and weights are random, so that a run takes a second.

mod auto;
mod bad_input;
mod common;
mod compare;
mod demo;
mod distill;
mod downloads;
#[cfg(unix)]
mod full_disk;
mod heads;
mod help;
mod manifest;
mod model_file;
mod onnx;
mod predict_eval;
mod real_photos;
#[cfg(unix)]
mod resume;
mod same_bits;
mod train_modes;

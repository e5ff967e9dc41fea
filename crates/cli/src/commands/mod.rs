//! One module a command: arguments in, results printed.

pub mod backbones;
pub mod bench;
pub mod compare;
pub mod demo;
pub mod distill;
pub mod eval;
pub mod info;
pub mod predict;
pub mod train;

//! Training: the modes, the loop, distillation.

pub(crate) mod auto;
pub(crate) mod builder;
pub(crate) mod distill;
pub(crate) mod epochs;
pub(crate) mod find_lr;
pub(crate) mod inputs;
pub(crate) mod job;
pub(crate) mod learner;
pub(crate) mod learning;
pub(crate) mod loss;
pub(crate) mod probe;
pub(crate) mod recipe;
pub(crate) mod start;
pub(crate) mod supervised;
#[cfg(test)]
mod updates_tests;

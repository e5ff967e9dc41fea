//! The sealed model and prediction with it.

#[cfg(test)]
mod golden_tests;
pub(crate) mod predict;
pub(crate) mod sealed;

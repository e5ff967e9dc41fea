//! The settings of a run.

pub(crate) mod config;

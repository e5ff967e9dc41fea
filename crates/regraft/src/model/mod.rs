//! The sealed model and prediction with it.

pub(crate) mod golden;
pub(crate) mod predict;
pub(crate) mod provenance;
pub(crate) mod sealed;

//! The sealed model and prediction with it.

mod decode_ahead;
pub(crate) mod golden;
pub(crate) mod predictor;
pub(crate) mod provenance;
pub(crate) mod sealed;

//! Images of a run: opening, checking, cached features, targets.

pub(crate) mod features;
pub(crate) mod prepare;
pub(crate) mod targets;

//! Measuring models.

pub(crate) mod compare;
pub(crate) mod evaluate;
pub(crate) mod scores;
pub(crate) mod tta;

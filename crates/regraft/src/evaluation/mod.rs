//! Measuring models.

pub(crate) mod compare;
pub(crate) mod evaluate;
pub(crate) mod tta;

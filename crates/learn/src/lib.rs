//! Learning on top of a network: linear heads on frozen features, learning-rate schedules,
//! metrics, and the history of a run.

mod error;
pub mod history;
pub mod linear;
pub mod metrics;
pub mod schedule;

pub use error::Error;

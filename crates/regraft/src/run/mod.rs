//! The files of a run, and its reports.

pub(crate) mod checkpoint;
pub(crate) mod folder;
pub(crate) mod outcome;
pub(crate) mod report;

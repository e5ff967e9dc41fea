//! What a run leaves on disk, and what it reports.

pub(crate) mod checkpoint;
pub(crate) mod folder;
pub(crate) mod outcome;
pub(crate) mod report;

//! What a run leaves on disk, and what it reports on the way.

pub(crate) mod checkpoint;
pub(crate) mod folder;
pub(crate) mod report;

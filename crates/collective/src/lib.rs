//! Communication between the members of a group that train one network together.
//!
//! A [`Collective`] is what data-parallel training needs of MPI or NCCL: all-reduce, broadcast, barrier. [`Solo`] is
//! the group of one; [`threads`] makes groups of threads in one process, for tests and for several devices.

mod group;

pub use group::{Member, threads};

/// A communication that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rank {rank} of {size}: {reason}")]
pub struct Error {
    /// The member that noticed.
    pub rank: usize,
    /// Members of the group.
    pub size: usize,
    /// What happened.
    pub reason: String,
}

/// A group whose members call the same operations in the same order.
///
/// Sums are added in the order of the ranks, from rank 0 on, so every member gets the same bits, and the same bits as
/// one process that adds the members' values one after the other.
pub trait Collective: Send + Sync {
    /// This member's number, from 0.
    fn rank(&self) -> usize;

    /// Members of the group.
    fn size(&self) -> usize;

    /// Replaces `values` by the sum over all members.
    ///
    /// # Errors
    /// [`Error`] if lengths differ or a member is lost.
    fn all_reduce(&self, values: &mut [f32]) -> Result<(), Error>;

    /// As [`all_reduce`](Self::all_reduce), in double precision: for weights, counts and norms.
    ///
    /// # Errors
    /// As [`all_reduce`](Self::all_reduce).
    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<(), Error>;

    /// Replaces `values` by those of member `root`.
    ///
    /// # Errors
    /// [`Error`] if lengths differ, `root` is not a member, or a member is lost.
    fn broadcast(&self, values: &mut [f32], root: usize) -> Result<(), Error>;

    /// Waits until every member is here.
    ///
    /// # Errors
    /// [`Error`] if a member is lost.
    fn barrier(&self) -> Result<(), Error>;
}

/// The group of one: every operation is done already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Solo;

impl Collective for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce(&self, _: &mut [f32]) -> Result<(), Error> {
        Ok(())
    }

    fn all_reduce_f64(&self, _: &mut [f64]) -> Result<(), Error> {
        Ok(())
    }

    fn broadcast(&self, _: &mut [f32], root: usize) -> Result<(), Error> {
        match root {
            0 => Ok(()),
            _ => Err(Error { rank: 0, size: 1, reason: format!("there is no rank {root} to broadcast from") }),
        }
    }

    fn barrier(&self) -> Result<(), Error> {
        Ok(())
    }
}

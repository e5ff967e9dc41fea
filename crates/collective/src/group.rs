//! Groups of threads in one process.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::{Collective, Error};

/// What the members of a group share.
struct Group {
    size: usize,
    round: Mutex<Round>,
    /// Signalled when a round is complete, when all have read its result, and when a member leaves.
    changed: Condvar,
}

/// One operation: every member contributes, the last one computes the result, every member reads it.
struct Round {
    /// What each member contributed, by rank.
    given: Vec<Option<Contribution>>,
    /// The result, once all have contributed.
    result: Option<Result<Values, String>>,
    /// Members that have not read the result yet.
    unread: usize,
    /// Ranks of the members that have left, in the order of leaving: an error names the cause, not those that left because of
    /// it.
    left: Vec<usize>,
}

/// An operation with a member's part of it.
#[derive(Clone, Debug, PartialEq)]
enum Contribution {
    Sum(Values),
    Broadcast { root: usize, values: Values },
    Barrier,
}

#[derive(Clone, Debug, PartialEq)]
enum Values {
    Single(Vec<f32>),
    Double(Vec<f64>),
}

impl Contribution {
    /// The operation, for error messages.
    fn name(&self) -> &'static str {
        match self {
            Contribution::Sum(Values::Single(_)) => "all_reduce",
            Contribution::Sum(Values::Double(_)) => "all_reduce_f64",
            Contribution::Broadcast { .. } => "broadcast",
            Contribution::Barrier => "barrier",
        }
    }

    fn len(&self) -> usize {
        match self {
            Contribution::Sum(values) | Contribution::Broadcast { values, .. } => match values {
                Values::Single(values) => values.len(),
                Values::Double(values) => values.len(),
            },
            Contribution::Barrier => 0,
        }
    }
}

/// The result of a round, or its error.
fn combine(given: Vec<Contribution>) -> Result<Values, String> {
    let first = &given[0];
    for (rank, other) in given.iter().enumerate() {
        if other.name() != first.name() {
            return Err(format!("rank 0 calls {} while rank {rank} calls {}", first.name(), other.name()));
        }
        if other.len() != first.len() {
            return Err(format!("rank 0 has {} values, rank {rank} has {}", first.len(), other.len()));
        }
    }
    let root_of = |it: &Contribution| if let Contribution::Broadcast { root, .. } = it { *root } else { 0 };
    let root = root_of(first);
    if let Some(rank) = given.iter().position(|it| root_of(it) != root) {
        return Err(format!("rank 0 broadcasts from rank {root}, rank {rank} from rank {}", root_of(&given[rank])));
    }
    let mut given = given.into_iter();
    match given.nth(root) {
        Some(Contribution::Broadcast { values, .. }) => Ok(values),
        Some(Contribution::Sum(mut sum)) => {
            for other in given {
                match (&mut sum, other) {
                    (Values::Single(sum), Contribution::Sum(Values::Single(values))) => {
                        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                    }
                    (Values::Double(sum), Contribution::Sum(Values::Double(values))) => {
                        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                    }
                    _ => unreachable!("all members call the same operation"),
                }
            }
            Ok(sum)
        }
        Some(Contribution::Barrier) => Ok(Values::Single(Vec::new())),
        None => Err(format!("there is no rank {root} to broadcast from")),
    }
}

/// A member of a group of threads. Dropping it leaves the group, and the waiting members get an error.
pub struct Member {
    rank: usize,
    group: Arc<Group>,
}

/// The members of a group of `n` threads, by rank.
///
/// # Panics
/// For 0 members.
pub fn threads(n: usize) -> Vec<Member> {
    assert!(n > 0, "a group has at least one member");
    let round = Round { given: vec![None; n], result: None, unread: 0, left: Vec::new() };
    let group = Arc::new(Group { size: n, round: Mutex::new(round), changed: Condvar::new() });
    (0..n).map(|rank| Member { rank, group: group.clone() }).collect()
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, Round> {
        // A member that panics leaves the group like any other that is dropped.
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, round: MutexGuard<'a, Round>) -> MutexGuard<'a, Round> {
        self.changed.wait(round).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Round {
    /// The first member that has left without contributing to this round.
    fn lost(&self) -> Option<usize> {
        self.left.iter().copied().find(|&rank| self.given[rank].is_none())
    }
}

impl Member {
    fn error(&self, reason: String) -> Error {
        Error { rank: self.rank, size: self.group.size, reason }
    }

    /// Contributes to a round and waits for its result.
    fn take_part(&self, contribution: Contribution) -> Result<Values, Error> {
        let group = &*self.group;
        let mut round = group.lock();
        // The members that are slower still read the result of the round before.
        while round.unread > 0 {
            round = group.wait(round);
        }
        round.given[self.rank] = Some(contribution);
        if round.given.iter().all(Option::is_some) {
            let given = round.given.iter_mut().filter_map(Option::take).collect();
            round.result = Some(combine(given));
            round.unread = group.size;
            group.changed.notify_all();
        }
        while round.unread == 0 {
            if let Some(lost) = round.lost() {
                round.given[self.rank] = None;
                return Err(self.error(format!("rank {lost} has left the group")));
            }
            round = group.wait(round);
        }
        round.unread -= 1;
        let result = match round.unread {
            0 => round.result.take(),
            _ => round.result.clone(),
        };
        if round.unread == 0 {
            group.changed.notify_all();
        }
        drop(round);
        result.expect("a complete round has a result").map_err(|reason| self.error(reason))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.group.lock().left.push(self.rank);
        self.group.changed.notify_all();
    }
}

impl Collective for Member {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.group.size
    }

    fn all_reduce(&self, values: &mut [f32]) -> Result<(), Error> {
        if let Values::Single(sum) = self.take_part(Contribution::Sum(Values::Single(values.to_vec())))? {
            values.copy_from_slice(&sum);
        }
        Ok(())
    }

    fn all_reduce_f64(&self, values: &mut [f64]) -> Result<(), Error> {
        if let Values::Double(sum) = self.take_part(Contribution::Sum(Values::Double(values.to_vec())))? {
            values.copy_from_slice(&sum);
        }
        Ok(())
    }

    fn broadcast(&self, values: &mut [f32], root: usize) -> Result<(), Error> {
        let contribution = Contribution::Broadcast { root, values: Values::Single(values.to_vec()) };
        if let Values::Single(given) = self.take_part(contribution)? {
            values.copy_from_slice(&given);
        }
        Ok(())
    }

    fn barrier(&self) -> Result<(), Error> {
        self.take_part(Contribution::Barrier).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Runs one thread for each member.
    fn run<R: Send>(n: usize, work: impl Fn(Member) -> R + Sync) -> Vec<R> {
        thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = threads(n).into_iter().map(|member| scope.spawn(move || work(member))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn all_reduce_adds_in_the_order_of_the_ranks() {
        // In f32, (1e8 + 1) - 1e8 is 0 and (1e8 - 1e8) + 1 is 1: the order shows. Slower ranks must not change it.
        let values = [1e8f32, 1.0, -1e8];
        for slow in 0..3 {
            let sums = run(3, |member| {
                if member.rank() == slow {
                    thread::sleep(Duration::from_millis(20));
                }
                let mut sum = [values[member.rank()], member.rank() as f32];
                member.all_reduce(&mut sum).unwrap();
                sum
            });
            assert_eq!(sums, [[(1e8 + 1.0) - 1e8, 3.0]; 3]);
        }
    }

    #[test]
    fn rounds_follow_one_another_without_mixing() {
        let sums = run(4, |member| {
            let mut all = Vec::new();
            for round in 0..200 {
                let mut sum = [f64::from(round) * 10.0 + member.rank() as f64];
                member.all_reduce_f64(&mut sum).unwrap();
                member.barrier().unwrap();
                all.push(sum[0]);
            }
            all
        });
        let expected: Vec<f64> = (0..200).map(|round| f64::from(round) * 40.0 + 6.0).collect();
        assert!(sums.iter().all(|found| *found == expected));
    }

    #[test]
    fn broadcast_gives_everyone_the_values_of_the_root() {
        let found = run(3, |member| {
            let mut values = [member.rank() as f32; 2];
            member.broadcast(&mut values, 2).unwrap();
            values
        });
        assert_eq!(found, [[2.0; 2]; 3]);
        let errors = run(2, |member| member.broadcast(&mut [0.0], 2).unwrap_err().to_string());
        assert!(errors.iter().all(|error| error.contains("no rank 2")), "{errors:?}");
    }

    #[test]
    fn calls_that_do_not_fit_together_are_errors_for_everyone() {
        let lengths = run(3, |member| {
            let mut values = vec![0.0; if member.rank() == 1 { 3 } else { 2 }];
            member.all_reduce(&mut values).unwrap_err().to_string()
        });
        assert!(lengths.iter().all(|error| error.contains("rank 0 has 2 values, rank 1 has 3")), "{lengths:?}");
        let calls = run(2, |member| match member.rank() {
            0 => member.barrier().unwrap_err().to_string(),
            _ => member.all_reduce(&mut []).unwrap_err().to_string(),
        });
        assert!(calls.iter().all(|error| error.contains("calls barrier while rank 1 calls all_reduce")), "{calls:?}");
        let roots = run(2, |member| member.broadcast(&mut [0.0], member.rank()).unwrap_err().to_string());
        assert!(roots.iter().all(|error| error.contains("rank 1 from rank 1")), "{roots:?}");
    }

    #[test]
    fn a_lost_member_is_an_error_for_those_who_wait() {
        let results = run(3, |member| {
            member.barrier().unwrap();
            if member.rank() == 1 {
                thread::sleep(Duration::from_millis(20));
                return None; // dropped while the others wait
            }
            Some([member.all_reduce(&mut [1.0]).unwrap_err(), member.barrier().unwrap_err()])
        });
        for error in results.into_iter().flatten().flatten() {
            assert!(error.to_string().contains("rank 1 has left the group"), "{error}");
        }
    }

    #[test]
    fn a_member_that_leaves_after_its_part_breaks_nothing() {
        let sums = run(2, |member| {
            let mut sum = [1.0f32];
            member.all_reduce(&mut sum).unwrap();
            sum[0]
        });
        assert_eq!(sums, [2.0, 2.0]);
    }
}

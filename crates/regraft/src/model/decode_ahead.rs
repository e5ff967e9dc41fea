//! Decoding on other threads, ahead of who uses it and in order.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::mpsc::sync_channel;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Applies `decode` to all items on `threads` threads, and hands the results to `take` on this thread in the order of the
/// items, then `None` at the end. No item is taken before all but `ahead` of those before it have been handed over. Ends
/// early when `take` breaks or fails.
///
/// # Errors
/// Errors of `take`.
pub(crate) fn decode_ahead<T, R: Send, E>(
    items: impl Iterator<Item = T> + Send,
    threads: usize,
    ahead: usize,
    decode: impl Fn(T) -> R + Sync,
    mut take: impl FnMut(Option<R>) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    let (threads, ahead) = (threads.max(1), ahead.max(1));
    let queue =
        Queue { state: Mutex::new(State { items, taken: 0, delivered: 0, stopped: false }), room: Condvar::new() };
    thread::scope(|scope| {
        let (sender, results) = sync_channel(threads);
        for _ in 0..threads {
            let (sender, queue, decode) = (sender.clone(), &queue, &decode);
            scope.spawn(move || {
                while let Some((index, item)) = queue.next(ahead) {
                    if sender.send((index, decode(item))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut early = BTreeMap::new();
        let mut delivered = 0;
        let flow = loop {
            let Some(result) = early.remove(&delivered) else {
                match results.recv() {
                    Ok((index, result)) => drop(early.insert(index, result)),
                    // All workers are done, and everything before was in order.
                    Err(_) => break take(None),
                }
                continue;
            };
            match take(Some(result)) {
                Ok(ControlFlow::Continue(())) => {}
                ended => break ended,
            }
            delivered += 1;
            queue.delivered(delivered);
        };
        queue.stop();
        flow.map(|_| ())
    })
}

/// What the workers share.
struct Queue<I> {
    state: Mutex<State<I>>,
    /// Signalled when an item may be taken, or none will be any more.
    room: Condvar,
}

struct State<I> {
    items: I,
    taken: usize,
    delivered: usize,
    stopped: bool,
}

impl<T, I: Iterator<Item = T>> Queue<I> {
    fn lock(&self) -> MutexGuard<'_, State<I>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next item and its number, once few enough wait.
    fn next(&self, ahead: usize) -> Option<(usize, T)> {
        let mut state = self.lock();
        while !state.stopped && state.taken >= state.delivered + ahead {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped {
            return None;
        }
        let item = state.items.next()?;
        state.taken += 1;
        Some((state.taken - 1, item))
    }

    fn delivered(&self, delivered: usize) {
        self.lock().delivered = delivered;
        self.room.notify_all();
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn decode_ahead_keeps_the_order_and_the_bound() {
        for (threads, ahead) in [(1, 1), (3, 2), (8, 5)] {
            let (begun, mut seen) = (AtomicUsize::new(0), Vec::new());
            let decode = |i: usize| {
                begun.fetch_add(1, Ordering::SeqCst);
                // Some take longer than those after them.
                if i.is_multiple_of(3) {
                    thread::sleep(std::time::Duration::from_micros(200));
                }
                i * i
            };
            let result: Result<(), ()> = decode_ahead(0..50, threads, ahead, decode, |square| {
                assert!(begun.load(Ordering::SeqCst) <= seen.len() + ahead);
                seen.push(square);
                Ok(ControlFlow::Continue(()))
            });
            result.unwrap();
            let expected: Vec<_> = (0..50).map(|i| Some(i * i)).chain([None]).collect();
            assert_eq!(seen, expected, "{threads} threads, {ahead} ahead");
        }
    }

    #[test]
    fn decode_ahead_ends_early() {
        let count = AtomicUsize::new(0);
        let endless = std::iter::repeat_with(|| count.fetch_add(1, Ordering::SeqCst));
        let ended = decode_ahead(
            endless,
            3,
            4,
            |i| i,
            |i| match i {
                Some(10) => Err("ten"),
                _ => Ok(ControlFlow::Continue(())),
            },
        );
        assert_eq!(ended, Err("ten"));
        assert!(count.load(Ordering::SeqCst) <= 15);
        let broken: Result<(), ()> = decode_ahead(0.., 2, 3, |i| i, |_| Ok(ControlFlow::Break(())));
        assert_eq!(broken, Ok(()));
    }
}

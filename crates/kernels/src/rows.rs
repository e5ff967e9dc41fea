//! Work over the rows of a matrix, cut into pieces that don't depend on the number of threads.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::Memory;

/// Who works on the pieces of a kernel's work. Their results are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The threads of the pool.
    All,
    /// The calling thread: it has a part of a larger piece of work, whose data lies in its cache.
    Own,
}

impl Threads {
    /// Does some work for every piece.
    pub(crate) fn each<P: IndexedParallelIterator>(self, pieces: P, work: impl Fn(P::Item) + Sync + Send) {
        match self {
            Threads::All => pieces.for_each(work),
            Threads::Own => pieces.with_min_len(usize::MAX).for_each(work),
        }
    }
}

/// Bytes that the CPU fetches at once, on all but a few.
const CACHE_LINE: usize = 64;

/// Rows that one piece of an elementwise pass holds: about 64 KiB of `f32`, at home in the first cache levels.
pub(crate) fn rows_per_piece(cols: usize) -> usize {
    (16 * 1024 / cols.max(1)).max(1)
}

/// Sums over rows: cuts `rows` into fixed pieces, lets `piece(first_row, count)` sum each into a vector of
/// `len`, and adds the pieces up in order, in `f64`.
pub(crate) fn reduce_rows(
    rows: usize,
    cols: usize,
    len: usize,
    piece: impl Fn(usize, usize, &mut [f32]) + Sync,
) -> Vec<f64> {
    reduce_pieces(rows, rows_per_piece(cols), len, piece)
}

/// [`reduce_rows`] with pieces of `step` rows.
pub(crate) fn reduce_pieces(
    rows: usize,
    step: usize,
    len: usize,
    piece: impl Fn(usize, usize, &mut [f32]) + Sync,
) -> Vec<f64> {
    let partial: Vec<Vec<f32>> = (0..rows.div_ceil(step))
        .into_par_iter()
        .map(|i| {
            let mut sums = vec![0.0; len];
            piece(i * step, step.min(rows - i * step), &mut sums);
            sums
        })
        .collect();
    let mut total = vec![0.0; len];
    for sums in &partial {
        for (t, &s) in total.iter_mut().zip(sums) {
            *t += f64::from(s);
        }
    }
    total
}

/// Reads `values` from the first to the last, so that they lie in cache for work that jumps between lines of a map.
///
/// The CPU fetches ahead of one sequence, but hardly of many short ones: maps that come from memory are worked on up to
/// twice as fast. (Prefetch instructions in the place of the reads were slower: the work that follows waits all the same.)
pub(crate) fn bring_near<T: bytemuck::Pod>(values: &[T]) {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    std::hint::black_box(bytes.iter().step_by(CACHE_LINE).fold(0, |all, byte| all | byte));
}

/// Calls `work` with a scratch buffer of `len` elements of unspecified content, kept by the thread.
///
/// Calls may be nested, also through a piece of other work that the thread takes up while it waits: an inner
/// call finds the thread's buffer taken and makes its own.
pub(crate) fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local!(static SCRATCH: RefCell<Memory> = RefCell::default());
    let mut buffer = SCRATCH.take();
    buffer.reserve(len);
    let result = work(&mut buffer[..len]);
    // The larger one stays.
    SCRATCH.with_borrow_mut(|kept| {
        if kept.len() < buffer.len() {
            *kept = buffer;
        }
    });
    result
}

/// Scratch with a part for each thread of the pool.
pub(crate) struct Slots<'a>(Vec<Mutex<&'a mut [f32]>>);

impl<'a> Slots<'a> {
    /// How many parts the current pool needs.
    pub(crate) fn count() -> usize {
        rayon::current_num_threads()
    }

    /// Cuts `scratch` into parts of `len` elements; into none if it is empty.
    pub(crate) fn new(scratch: &'a mut [f32], len: usize) -> Self {
        Self(scratch.chunks_exact_mut(len.max(1)).map(Mutex::new).collect())
    }

    /// Lets `work` have the part of the thread that it runs on. It must not wait for other work of the pool.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut [f32]) -> R) -> R {
        let slot = &self.0[rayon::current_thread_index().unwrap_or(0)];
        work(&mut slot.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

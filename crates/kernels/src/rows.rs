//! Parallel work over rows, split into pieces that do not depend on the number of threads, and scratch memory.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::Memory;

/// The threads that run the pieces of a kernel. The results are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The threads of the pool.
    Pool,
    /// The calling thread, which runs part of a larger piece of work on data in its cache.
    Caller,
}

impl Threads {
    /// Runs `work` for every piece.
    pub(crate) fn for_each<P: IndexedParallelIterator>(self, pieces: P, work: impl Fn(P::Item) + Sync + Send) {
        match self {
            Threads::Pool => pieces.for_each(work),
            Threads::Caller => pieces.with_min_len(usize::MAX).for_each(work),
        }
    }
}

/// Rows per piece of an elementwise pass: about 64 KiB of `f32`, which fits the first cache levels.
pub(crate) fn rows_per_piece(cols: usize) -> usize {
    (16 * 1024 / cols.max(1)).max(1)
}

/// Sums over rows, in pieces of [`rows_per_piece`].
///
/// `piece(first_row, count, sums)` sums one piece into `len` elements; the pieces are added in order, in `f64`.
pub(crate) fn reduce_rows(
    rows: usize,
    cols: usize,
    len: usize,
    piece: impl Fn(usize, usize, &mut [f32]) + Sync,
) -> Vec<f64> {
    reduce_pieces(rows, rows_per_piece(cols), len, piece)
}

/// [`reduce_rows`] in pieces of `step` rows.
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

/// Calls `work` with a scratch buffer of `len` elements of unspecified content, which the thread keeps for reuse.
///
/// Calls may nest, also when a waiting thread takes up other work: an inner call finds the buffer taken and allocates its
/// own.
pub(crate) fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local!(static SCRATCH: RefCell<Memory> = RefCell::default());
    let mut buffer = SCRATCH.take();
    buffer.reserve(len);
    let result = work(&mut buffer[..len]);
    // Keep the larger buffer.
    SCRATCH.with_borrow_mut(|kept| {
        if kept.len() < buffer.len() {
            *kept = buffer;
        }
    });
    result
}

/// Scratch memory with one part per thread of the current pool.
pub(crate) struct ThreadScratch<'a>(Vec<Mutex<&'a mut [f32]>>);

impl<'a> ThreadScratch<'a> {
    /// Number of parts that the current pool needs.
    pub(crate) fn count() -> usize {
        rayon::current_num_threads()
    }

    /// Splits `scratch` into parts of `len` elements; no parts if it is empty.
    pub(crate) fn new(scratch: &'a mut [f32], len: usize) -> Self {
        Self(scratch.chunks_exact_mut(len.max(1)).map(Mutex::new).collect())
    }

    /// Calls `work` with the current thread's part. `work` must not wait for other work of the pool.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut [f32]) -> R) -> R {
        let slot = &self.0[rayon::current_thread_index().unwrap_or(0)];
        work(&mut slot.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

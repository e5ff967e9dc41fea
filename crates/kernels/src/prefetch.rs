//! Prefetching from main memory: maps are loaded in memory order, or during the products before their use.

use std::ops::Range;

/// `f32` elements in a cache line.
const LINE: usize = 16;

/// Reads one byte of every cache line of `values`, first to last, so that they are in cache for work that jumps between
/// the lines of a map.
///
/// The CPU prefetches one sequence, but hardly many short ones: maps that come from memory are processed up to twice as
/// fast. Prefetch instructions at the reads were slower, because the work after them waits all the same.
pub(crate) fn touch<T: bytemuck::Pod>(values: &[T]) {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    std::hint::black_box(bytes.iter().step_by(LINE * size_of::<f32>()).fold(0, |all, byte| all | byte));
}

/// Memory that will be used soon, prefetched in small steps.
pub(crate) struct Prefetch<'a> {
    values: &'a [f32],
    /// Elements of a row, and the columns of it that are prefetched.
    row: usize,
    columns: Range<usize>,
    write: bool,
}

impl<'a> Prefetch<'a> {
    /// All of `values`, for reading.
    pub fn read(values: &'a [f32]) -> Self {
        let row = LINE * LINE;
        Self { values, row, columns: 0..row, write: false }
    }

    /// Some columns of rows of `row` elements, for reading.
    pub fn read_columns(values: &'a [f32], row: usize, columns: Range<usize>) -> Self {
        Self { values, row, columns, write: false }
    }

    /// Some columns of rows of `row` elements, for writing.
    pub fn write_columns(values: &'a [f32], row: usize, columns: Range<usize>) -> Self {
        Self { values, row, columns, write: true }
    }

    /// Prefetches the share of step `step` of `steps`.
    #[inline(always)]
    pub fn step(&self, step: usize, steps: usize) {
        let rows = self.values.len().div_ceil(self.row);
        for row in rows * step / steps..rows * (step + 1) / steps {
            let start = row * self.row;
            let end = self.values.len().min(start + self.columns.end);
            let Some(values) = self.values.get(start + self.columns.start..end) else { return };
            for line in values.chunks(LINE) {
                if self.write {
                    hint::<true, _>(line);
                } else {
                    hint::<false, _>(line);
                }
            }
        }
    }
}

/// Prefetches a few elements for writing.
#[inline(always)]
pub(crate) fn to_write(values: &[f32]) {
    values.chunks(LINE).for_each(hint::<true, _>);
}

/// Prefetches the cache line of a vector for reading.
#[inline(always)]
pub(crate) fn to_read<T>(vector: &T) {
    hint::<false, _>(vector);
}

/// Prefetches one cache line; a no-op on other architectures than x86-64.
#[inline(always)]
fn hint<const WRITE: bool, T: ?Sized>(line: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads and writes nothing, and every x86-64 CPU has the instruction or ignores it.
        #[allow(unsafe_code)]
        unsafe {
            if WRITE {
                _mm_prefetch::<_MM_HINT_ET0>(std::ptr::from_ref(line).cast());
            } else {
                _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(line).cast());
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line; // stable Rust has no prefetch for other architectures
}

//! Asks for memory before it is used: the maps that a block of work reads and writes come from main memory while the
//! products before them are computed.

use std::ops::Range;

/// Elements of a cache line.
const LINE: usize = 16;

/// Memory that will be used soon, asked for little by little.
pub(crate) struct Ahead<'a> {
    values: &'a [f32],
    /// Elements of a row, and which of them are asked for.
    row: usize,
    columns: Range<usize>,
    write: bool,
}

impl<'a> Ahead<'a> {
    /// All of `values`, to be read.
    pub fn read(values: &'a [f32]) -> Self {
        let row = LINE * LINE;
        Self { values, row, columns: 0..row, write: false }
    }

    /// Some columns of rows of `row` elements, to be read.
    pub fn read_columns(values: &'a [f32], row: usize, columns: Range<usize>) -> Self {
        Self { values, row, columns, write: false }
    }

    /// Some columns of rows of `row` elements, to be written.
    pub fn write_columns(values: &'a [f32], row: usize, columns: Range<usize>) -> Self {
        Self { values, row, columns, write: true }
    }

    /// Asks for the share of step `step` of `steps`.
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

/// Asks for a few elements to be written.
#[inline(always)]
pub(crate) fn to_write(values: &[f32]) {
    values.chunks(LINE).for_each(hint::<true, _>);
}

/// Asks for the cache line of a vector, to be read.
#[inline(always)]
pub(crate) fn to_read<T>(vector: &T) {
    hint::<false, _>(vector);
}

#[inline(always)]
fn hint<const WRITE: bool, T: ?Sized>(line: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T1, _mm_prefetch};
        // SAFETY: a hint, which reads and writes nothing; every x86-64 CPU has the instruction or ignores it.
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
    let _ = line; // stable Rust has no such hint for other architectures
}

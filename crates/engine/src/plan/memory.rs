//! Packs values into few buffers: two values may share one if they are never alive together.

use super::Value;

/// The first and the last moment at which a value is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetime {
    pub first: usize,
    pub last: usize,
}

impl Default for Lifetime {
    fn default() -> Self {
        Self { first: usize::MAX, last: 0 }
    }
}

impl Lifetime {
    /// Extends the lifetime to include a moment.
    pub fn touch(&mut self, time: usize) {
        self.first = self.first.min(time);
        self.last = self.last.max(time);
    }
}

/// Assigns each value a buffer; returns the elements of each buffer for one sample.
///
/// Values are taken in the order in which they are first written. Each gets the free buffer that fits it best: the
/// smallest that is large enough, else the largest, which then grows. Value 0, the input, is held by the caller and gets
/// none.
pub(super) fn assign(values: &mut [Value], lifetimes: &[Lifetime]) -> Vec<usize> {
    let mut order: Vec<usize> = (1..values.len()).collect();
    order.sort_by_key(|&value| lifetimes[value].first);
    let mut sizes: Vec<usize> = Vec::new();
    let mut busy_until: Vec<usize> = Vec::new();
    for value in order {
        let (Lifetime { first, last }, Value { len, buffer: assigned }) = (lifetimes[value], &mut values[value]);
        let free = (0..sizes.len()).filter(|&buffer| busy_until[buffer] < first);
        let fit = |&buffer: &usize| (sizes[buffer] < *len, sizes[buffer].abs_diff(*len));
        let buffer = free.min_by_key(fit).unwrap_or_else(|| {
            sizes.push(0);
            busy_until.push(0);
            sizes.len() - 1
        });
        sizes[buffer] = sizes[buffer].max(*len);
        busy_until[buffer] = last;
        *assigned = buffer;
    }
    sizes
}

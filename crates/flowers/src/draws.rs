//! Random draws in the ranges that a picture is described in.

use regraft_random::{Generator, below, unit_f32};

/// Uniform from `low` to `high`.
pub(crate) fn between(rng: &mut Generator, low: f32, high: f32) -> f32 {
    low + (high - low) * unit_f32(rng)
}

/// From `-reach` to `reach`, small values more often: a triangle's density.
pub(crate) fn around_zero(rng: &mut Generator, reach: f32) -> f32 {
    (unit_f32(rng) - unit_f32(rng)) * reach
}

/// True with probability `p`.
pub(crate) fn chance(rng: &mut Generator, p: f32) -> bool {
    unit_f32(rng) < p
}

/// A whole number from `low` to `high`, both included.
pub(crate) fn count(rng: &mut Generator, (low, high): (u32, u32)) -> u32 {
    low + below(rng, u64::from(high - low) + 1) as u32
}

/// One of several, each as likely.
pub(crate) fn pick<'a, T>(rng: &mut Generator, items: &'a [T]) -> &'a T {
    &items[below(rng, items.len() as u64) as usize]
}

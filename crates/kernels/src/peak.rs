//! Peak multiply-add rate of this machine, the upper bound that kernels are measured against.

use std::time::{Duration, Instant};

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::simd::Level;

/// Independent sums, enough to hide the latency of a multiply-add.
const SUMS: usize = 12;

/// Multiply-adds in registers, `rounds` times [`SUMS`] vectors.
struct Burst {
    rounds: usize,
}

impl WithSimd for Burst {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let mut sums = [simd.splat_f32s(1.0); SUMS];
        // Opaque operands prevent constant folding. The sums converge, so they stay finite.
        let (x, y) = (simd.splat_f32s(std::hint::black_box(0.5)), simd.splat_f32s(std::hint::black_box(1.0)));
        for _ in 0..self.rounds {
            for sum in &mut sums {
                *sum = simd.mul_add_e_f32s(x, *sum, y);
            }
        }
        sums.into_iter().map(|sum| simd.reduce_sum_f32s(sum)).sum()
    }
}

/// Floating-point operations per second of multiply-adds in registers, on all threads of the current pool.
///
/// The best of ten short bursts; a multiply-add counts as two operations.
pub fn multiply_add_rate(level: Level) -> f64 {
    let threads = rayon::current_num_threads();
    let rounds = 1_000_000;
    let operations = (2 * SUMS * level.lanes() * rounds * threads) as f64;
    let burst = |_| {
        let start = Instant::now();
        (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
            std::hint::black_box(level.run(Burst { rounds }));
        });
        start.elapsed()
    };
    let best = (0..10).map(burst).min().unwrap_or(Duration::MAX);
    operations / best.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiply_add_rate_is_positive_at_every_level() {
        for level in Level::available() {
            let rate = multiply_add_rate(level);
            assert!(rate.is_finite() && rate > 0.0, "{level:?}: {rate}");
        }
    }
}

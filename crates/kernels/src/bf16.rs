//! Products in bfloat16: `f32` without its last 16 bits, two values in a word.
//!
//! `vdpbf16ps` multiplies two pairs a lane and adds both products to an `f32` sum: twice the multiplications of an `f32`
//! vector. A product of pairs is laid out as one of words: what was the inner dimension `k` is `k / 2` words.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::rows::rows_per_piece;
use crate::simd::{Level, dispatch};

/// What convolutions and their gradients are computed in. Weights, sums and everything else stay `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// All of them in `f32`.
    #[default]
    F32,
    /// In bfloat16 where that is faster and the channels come in pairs. 3x3 convolutions with stride 1 on larger maps are
    /// faster still in `f32`, by Winograd's algorithm, and those in groups have no products of pairs.
    Bf16,
}

impl Precision {
    /// Whether this CPU, at the level in use, can compute so.
    pub fn is_available(self) -> bool {
        match self {
            Precision::F32 => true,
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16 => Level::current() == Level::Avx512 && is_x86_feature_detected!("avx512bf16"),
            #[cfg(not(target_arch = "x86_64"))]
            Precision::Bf16 => false,
        }
    }

    /// Words of `len` values.
    pub(crate) fn words(self, len: usize) -> usize {
        match self {
            Precision::F32 => len,
            Precision::Bf16 => len.div_ceil(2),
        }
    }
}

/// The bits of a value, rounded to the nearest bfloat16, ties to even; NaN stays NaN.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { 0x7fc0 } else { rounded }
}

/// The word of a pair.
#[inline(always)]
fn word(low: f32, high: f32) -> f32 {
    f32::from_bits(round(low) | round(high) << 16)
}

/// Pairs neighbours: word `i` is `values[2 * i]` and `values[2 * i + 1]`.
pub(crate) fn pair_neighbours(values: &[f32], words: &mut [f32]) {
    dispatch(
        #[inline(always)]
        || {
            for (word_of, pair) in words.iter_mut().zip(values.chunks_exact(2)) {
                *word_of = word(pair[0], pair[1]);
            }
        },
    );
}

/// [`pair_neighbours`] of a whole map, in parallel.
pub(crate) fn pair_map(values: &[f32], words: &mut [f32]) {
    let piece = rows_per_piece(1);
    words.par_chunks_mut(piece).zip(values.par_chunks(2 * piece)).for_each(|(words, values)| {
        pair_neighbours(values, words);
    });
}

/// Pairs two rows: word `i` is `low[i]` and `high[i]`.
fn pair_rows(low: &[f32], high: &[f32], words: &mut [f32]) {
    dispatch(
        #[inline(always)]
        || {
            for ((word_of, &low), &high) in words.iter_mut().zip(low).zip(high) {
                *word_of = word(low, high);
            }
        },
    );
}

/// Pairs the rows of a matrix, `len` elements at a distance of `stride`: rows `2 * i` and `2 * i + 1` become row `i` of
/// `words`, at the same distance. The last of an odd number is paired with zeros.
pub(crate) fn pair_all_rows(values: &[f32], count: usize, len: usize, stride: usize, words: &mut [f32]) {
    for pair in 0..count.div_ceil(2) {
        let row = |i: usize| &values[i * stride..][..len];
        let (low, out) = (row(2 * pair), &mut words[pair * stride..][..len]);
        if 2 * pair + 1 < count {
            pair_rows(low, row(2 * pair + 1), out);
        } else {
            out.iter_mut().zip(low).for_each(|(out, &low)| *out = word(low, 0.0));
        }
    }
}

/// How a tile multiplies and adds.
pub(crate) trait Dot {
    /// `sum + a * b`, lane by lane.
    fn dot<S: Simd>(simd: S, a: S::f32s, b: S::f32s, sum: S::f32s) -> S::f32s;

    /// Runs a part of the work as a function of its own, compiled for what [`dot`](Self::dot) needs.
    fn run<S: Simd, W: WithSimd<Output = ()>>(simd: S, work: W);
}

/// In `f32`.
pub(crate) struct Single;

impl Dot for Single {
    #[inline(always)]
    fn dot<S: Simd>(simd: S, a: S::f32s, b: S::f32s, sum: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(a, b, sum)
    }

    #[inline(always)]
    fn run<S: Simd, W: WithSimd<Output = ()>>(simd: S, work: W) {
        simd.vectorize(work);
    }
}

/// In pairs of bfloat16. Only for work that [`run`] runs.
pub(crate) struct Pairs;

impl Dot for Pairs {
    #[inline(always)]
    fn dot<S: Simd>(_: S, a: S::f32s, b: S::f32s, sum: S::f32s) -> S::f32s {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps};
            use std::mem::transmute_copy;
            assert!(size_of::<S::f32s>() == size_of::<__m512>(), "pairs need 512-bit vectors");
            // SAFETY: `run` has made sure of the instruction, and the types are 512 plain bits each.
            #[allow(unsafe_code)]
            unsafe {
                let (a, b) = (transmute_copy::<_, __m512bh>(&a), transmute_copy::<_, __m512bh>(&b));
                let sum = _mm512_dpbf16_ps(transmute_copy::<_, __m512>(&sum), a, b);
                transmute_copy(&sum)
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("{:?}", (a, b, sum))
    }

    #[inline(always)]
    fn run<S: Simd, W: WithSimd<Output = ()>>(_: S, work: W) {
        run(work);
    }
}

/// Runs work compiled for a CPU with [`Pairs`].
///
/// # Panics
/// If this CPU has none: [`Precision::is_available`] tells.
pub(crate) fn run<W: WithSimd>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(
            enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi1,bmi2,lzcnt,popcnt"
        )]
        fn compiled<W: WithSimd>(simd: pulp::x86::V4, work: W) -> W::Output {
            work.with_simd(simd)
        }
        if let Some(simd) = pulp::x86::V4::try_new()
            && is_x86_feature_detected!("avx512bf16")
        {
            // SAFETY: both checks together cover the features that it is compiled for.
            #[allow(unsafe_code)]
            return unsafe { compiled(simd, work) };
        }
    }
    let _ = work;
    panic!("this CPU has no bfloat16 products");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_and_ties_to_even() {
        let rounded = |x: f32| f32::from_bits(round(x) << 16);
        assert_eq!(rounded(1.0), 1.0);
        assert_eq!(rounded(1.0 + 1.0 / 256.0), 1.0, "a tie goes to the even one");
        assert_eq!(rounded(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        assert_eq!(rounded(1.0 + 1.0 / 255.0), 1.0 + 2.0 / 256.0);
        assert_eq!(rounded(f32::MAX), f32::INFINITY);
        assert_eq!(rounded(f32::NEG_INFINITY), f32::NEG_INFINITY);
        assert!(rounded(f32::NAN).is_nan() && rounded(f32::from_bits(u32::MAX)).is_nan());
    }
}

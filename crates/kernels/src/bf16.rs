//! bfloat16 products: `f32` values without their last 16 bits, two to a 32-bit word.
//!
//! `vdpbf16ps` multiplies two pairs per lane and adds both products to an `f32` sum: twice the multiplications of an
//! `f32` vector. A product of pairs has the layout of a product of words, with an inner dimension of `k / 2` words.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::rows::rows_per_piece;
use crate::simd::{Level, dispatch};

/// Precision of the products in convolutions and their gradients. Weights, sums and all other operations stay `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// `f32` throughout.
    #[default]
    F32,
    /// bfloat16 where it is faster and the channels can be paired.
    ///
    /// 3x3 convolutions with stride 1 on larger maps stay `f32`, because Winograd's algorithm is faster still. Grouped
    /// convolutions stay `f32`, because their kernels have no products of pairs.
    Bf16,
}

impl Precision {
    /// Whether this CPU, at the [current](Level::current) level, supports the precision.
    pub fn is_available(self) -> bool {
        match self {
            Precision::F32 => true,
            Precision::Bf16 => Level::current() == Level::Avx512 && PairDot::detect().is_some(),
        }
    }

    /// Number of 32-bit words that hold `len` values.
    pub(crate) fn words(self, len: usize) -> usize {
        match self {
            Precision::F32 => len,
            Precision::Bf16 => len.div_ceil(2),
        }
    }
}

/// Bits of `x` as bfloat16, rounded to nearest, ties to even. NaN stays NaN.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { 0x7fc0 } else { rounded }
}

/// The word that holds a pair.
#[inline(always)]
fn word(low: f32, high: f32) -> f32 {
    f32::from_bits(round(low) | round(high) << 16)
}

/// Pairs neighbouring values: word `i` holds `values[2 * i]` and `values[2 * i + 1]`.
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

/// Pairs two rows: word `i` holds `low[i]` and `high[i]`.
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

/// Pairs the rows of a matrix: rows `2 * i` and `2 * i + 1` of `values` become row `i` of `words`.
///
/// Both matrices have rows of `len` elements, `stride` apart. The last of an odd `count` of rows is paired with zeros.
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

/// The multiply-add of a register tile.
pub(crate) trait Dot: Copy {
    /// `sum + a * b`, lane by lane.
    fn dot<S: Simd>(self, simd: S, a: S::f32s, b: S::f32s, sum: S::f32s) -> S::f32s;

    /// Runs `work` as a function of its own, compiled with the instructions that [`dot`](Self::dot) uses.
    fn run<S: Simd, W: WithSimd<Output = ()>>(self, simd: S, work: W);
}

/// `f32` products.
#[derive(Clone, Copy)]
pub(crate) struct SingleDot;

impl Dot for SingleDot {
    #[inline(always)]
    fn dot<S: Simd>(self, simd: S, a: S::f32s, b: S::f32s, sum: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(a, b, sum)
    }

    #[inline(always)]
    fn run<S: Simd, W: WithSimd<Output = ()>>(self, simd: S, work: W) {
        simd.vectorize(work);
    }
}

/// Products of bfloat16 pairs, and the proof that this CPU has them: only [`detect`](Self::detect) makes a value.
#[derive(Clone, Copy)]
pub(crate) struct PairDot {
    /// Proof of 512-bit vectors.
    #[cfg(target_arch = "x86_64")]
    simd: pulp::x86::V4,
    /// No value exists on other architectures.
    #[cfg(not(target_arch = "x86_64"))]
    never: std::convert::Infallible,
}

impl PairDot {
    /// The token, if this CPU has 512-bit vectors and `vdpbf16ps`.
    pub fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        let found = pulp::x86::V4::try_new().filter(|_| is_x86_feature_detected!("avx512bf16"));
        #[cfg(target_arch = "x86_64")]
        return found.map(|simd| Self { simd });
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// Runs `work` with 512-bit vectors, compiled with `vdpbf16ps`.
    #[inline(always)]
    pub fn vectorize<W: WithSimd>(self, work: W) -> W::Output {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(
                enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi1,bmi2,lzcnt,popcnt"
            )]
            fn compiled<W: WithSimd>(simd: pulp::x86::V4, work: W) -> W::Output {
                work.with_simd(simd)
            }
            // SAFETY: the CPU must have the features that `compiled` enables. `self.simd` proves all but avx512bf16, and
            // `detect`, the only constructor of `self`, has checked that one.
            #[allow(unsafe_code)]
            unsafe {
                compiled(self.simd, work)
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = work;
            match self.never {}
        }
    }
}

impl Dot for PairDot {
    #[inline(always)]
    fn dot<S: Simd>(self, _: S, a: S::f32s, b: S::f32s, sum: S::f32s) -> S::f32s {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps};
            use std::mem::transmute_copy;
            assert!(size_of::<S::f32s>() == size_of::<__m512>(), "pairs need 512-bit vectors");
            // SAFETY: the instruction exists on this CPU, which `detect`, the only constructor of `self`, has checked. The
            // three vector types are plain bits of the same size, by the assertion above.
            #[allow(unsafe_code)]
            unsafe {
                let (a, b) = (transmute_copy::<_, __m512bh>(&a), transmute_copy::<_, __m512bh>(&b));
                let sum = _mm512_dpbf16_ps(transmute_copy::<_, __m512>(&sum), a, b);
                transmute_copy(&sum)
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (a, b, sum);
            match self.never {}
        }
    }

    #[inline(always)]
    fn run<S: Simd, W: WithSimd<Output = ()>>(self, _: S, work: W) {
        self.vectorize(work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_is_to_nearest_with_ties_to_even() {
        let rounded = |x: f32| f32::from_bits(round(x) << 16);
        assert_eq!(rounded(1.0), 1.0);
        assert_eq!(rounded(1.0 + 1.0 / 256.0), 1.0, "a tie goes to the even value");
        assert_eq!(rounded(1.0 + 3.0 / 256.0), 1.0 + 4.0 / 256.0);
        assert_eq!(rounded(1.0 + 1.0 / 255.0), 1.0 + 2.0 / 256.0);
        assert_eq!(rounded(f32::MAX), f32::INFINITY);
        assert_eq!(rounded(f32::NEG_INFINITY), f32::NEG_INFINITY);
        assert!(rounded(f32::NAN).is_nan() && rounded(f32::from_bits(u32::MAX)).is_nan());
    }
}

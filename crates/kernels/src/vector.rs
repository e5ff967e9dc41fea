//! Vectors of channels. The last vector may be partial: only its first `lanes` lanes exist in memory.

use pulp::Simd;

/// `f32` lanes of the widest vector.
pub(crate) const MAX_LANES: usize = 16;

/// The vectors that cover `channels` channels: `(first channel, lanes)`.
pub(crate) fn vectors<S: Simd>(channels: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..channels).step_by(S::F32_LANES).map(move |first| (first, S::F32_LANES.min(channels - first)))
}

/// Runs `$body` for every vector of `$channels` channels, with its first channel and its lanes.
///
/// The full-width case is monomorphised, so that its code needs no lane checks. A macro, because a closure around vector
/// operations would be compiled for the baseline CPU first.
macro_rules! for_each_vector {
    ($simd:ident, $channels:expr, |$channel:ident, $lanes:ident| $body:expr) => {
        for ($channel, $lanes) in $crate::vector::vectors::<$simd>($channels) {
            if $lanes == $simd::F32_LANES {
                let $lanes = $simd::F32_LANES;
                $body
            } else {
                $body
            }
        }
    };
}
pub(crate) use for_each_vector;

/// The vectors that cover `channels` channels, in blocks of 4, 2 and 1: `(first channel, vectors, lanes of the last)`.
///
/// Only the last block, of one vector, can be partial.
pub(crate) fn blocks<S: Simd>(channels: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let (block, left) = (first, channels - first);
        let vectors = [4, 2, 1].into_iter().find(|&vectors| left >= vectors * S::F32_LANES).unwrap_or(1);
        first += left.min(vectors * S::F32_LANES);
        (left > 0).then_some((block, vectors, S::F32_LANES.min(left)))
    })
}

/// Loads the vector at `at`, whose first `lanes` lanes exist; the others are zero.
#[inline(always)]
pub(crate) fn load<S: Simd>(simd: S, from: &[f32], at: usize, lanes: usize) -> S::f32s {
    let from = &from[at..at + lanes];
    if lanes == S::F32_LANES { S::as_simd_f32s(from).0[0] } else { simd.partial_load_f32s(from) }
}

/// Stores the first `lanes` lanes of a vector.
#[inline(always)]
pub(crate) fn store<S: Simd>(simd: S, to: &mut [f32], at: usize, lanes: usize, value: S::f32s) {
    let to = &mut to[at..at + lanes];
    if lanes == S::F32_LANES { S::as_mut_simd_f32s(to).0[0] = value } else { simd.partial_store_f32s(to, value) }
}

/// Loads `V` consecutive vectors at `at`; the last has `lanes` lanes.
#[inline(always)]
pub(crate) fn load_block<S: Simd, const V: usize>(simd: S, from: &[f32], at: usize, lanes: usize) -> [S::f32s; V] {
    let from = &from[at..][..(V - 1) * S::F32_LANES + lanes];
    let mut block = [simd.splat_f32s(0.0); V];
    for v in 0..V {
        block[v] = load(simd, from, v * S::F32_LANES, if v + 1 < V { S::F32_LANES } else { lanes });
    }
    block
}

/// Stores `V` consecutive vectors at `at`; the last has `lanes` lanes.
#[inline(always)]
pub(crate) fn store_block<S: Simd, const V: usize>(
    simd: S,
    to: &mut [f32],
    at: usize,
    lanes: usize,
    block: [S::f32s; V],
) {
    let to = &mut to[at..][..(V - 1) * S::F32_LANES + lanes];
    for v in 0..V {
        store(simd, to, v * S::F32_LANES, if v + 1 < V { S::F32_LANES } else { lanes }, block[v]);
    }
}

/// Loads `lanes` bytes at `at` as a vector of integers; the other lanes are zero.
#[inline(always)]
pub(crate) fn load_bytes<S: Simd>(_: S, from: &[u8], at: usize, lanes: usize) -> S::u32s {
    let mut wide = [0; MAX_LANES];
    let from = &from[at..at + lanes];
    if lanes == S::F32_LANES {
        for lane in 0..S::F32_LANES {
            wide[lane] = u32::from(from[lane]);
        }
    } else {
        for lane in 0..lanes {
            wide[lane] = u32::from(from[lane]);
        }
    }
    S::as_simd_u32s(&wide).0[0]
}

/// Stores the first `lanes` integers of a vector as bytes.
#[inline(always)]
pub(crate) fn store_bytes<S: Simd>(_: S, to: &mut [u8], at: usize, lanes: usize, value: S::u32s) {
    let mut wide = [0; MAX_LANES];
    S::as_mut_simd_u32s(&mut wide).0[0] = value;
    for (to, wide) in to[at..at + lanes].iter_mut().zip(wide) {
        *to = wide as u8;
    }
}

//! Vectors of channels, whole or cut short at the last one.

use pulp::Simd;

/// The most `f32` values that a vector holds.
pub(crate) const MAX_LANES: usize = 16;

/// The vectors of `channels` channels: the first channel of each, and how many it has.
pub(crate) fn vectors<S: Simd>(channels: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..channels).step_by(S::F32_LANES).map(move |first| (first, S::F32_LANES.min(channels - first)))
}

/// The vectors of `channels` channels in blocks of 4, 2 and 1: the first channel of each block, how many vectors it has,
/// and how many values the last of them: all, but for the last block.
pub(crate) fn blocks<S: Simd>(channels: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let (block, left) = (first, channels - first);
        let vectors = [4, 2, 1].into_iter().find(|&vectors| left >= vectors * S::F32_LANES).unwrap_or(1);
        first += left.min(vectors * S::F32_LANES);
        (left > 0).then_some((block, vectors, S::F32_LANES.min(left)))
    })
}

/// Loads a vector at `at`, of which `lanes` values exist.
#[inline(always)]
pub(crate) fn load<S: Simd>(simd: S, from: &[f32], at: usize, lanes: usize) -> S::f32s {
    let from = &from[at..at + lanes];
    if lanes == S::F32_LANES { S::as_simd_f32s(from).0[0] } else { simd.partial_load_f32s(from) }
}

/// Stores the first `lanes` values of a vector.
#[inline(always)]
pub(crate) fn store<S: Simd>(simd: S, to: &mut [f32], at: usize, lanes: usize, value: S::f32s) {
    let to = &mut to[at..at + lanes];
    if lanes == S::F32_LANES { S::as_mut_simd_f32s(to).0[0] = value } else { simd.partial_store_f32s(to, value) }
}

/// Loads `V` vectors in a row at `at`; of the last, `lanes` values exist.
#[inline(always)]
pub(crate) fn load_block<S: Simd, const V: usize>(simd: S, from: &[f32], at: usize, lanes: usize) -> [S::f32s; V] {
    let from = &from[at..][..(V - 1) * S::F32_LANES + lanes];
    let mut block = [simd.splat_f32s(0.0); V];
    for v in 0..V {
        block[v] = load(simd, from, v * S::F32_LANES, if v + 1 < V { S::F32_LANES } else { lanes });
    }
    block
}

/// Stores `V` vectors in a row, of the last one the first `lanes` values.
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

/// Loads bytes as numbers at `at`, of which `lanes` exist.
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

/// Stores the first `lanes` numbers of a vector as bytes.
#[inline(always)]
pub(crate) fn store_bytes<S: Simd>(_: S, to: &mut [u8], at: usize, lanes: usize, value: S::u32s) {
    let mut wide = [0; MAX_LANES];
    S::as_mut_simd_u32s(&mut wide).0[0] = value;
    for (to, wide) in to[at..at + lanes].iter_mut().zip(wide) {
        *to = wide as u8;
    }
}

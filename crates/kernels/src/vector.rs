//! Vectors of channels, whole or cut short at the last one.

use pulp::Simd;

/// The vectors of `channels` channels: the first channel of each, and how many it has.
pub(crate) fn vectors<S: Simd>(channels: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..channels).step_by(S::F32_LANES).map(move |first| (first, S::F32_LANES.min(channels - first)))
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

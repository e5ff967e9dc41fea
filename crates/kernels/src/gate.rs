//! Channel gates: a map times one factor per image and channel, the end of a squeeze-and-excitation block (Hu et al.
//! 2018).

use rayon::prelude::*;

use crate::rows::rows_per_piece;
use crate::simd::dispatch;

/// `target = map * factors`, or `target += map * factors` with `accumulate`.
///
/// # Shapes
/// - `map`, `target`: `[n, pixels, channels]`
/// - `factors`: `[n, channels]`
///
/// The map's gradient is the same call with the output gradient in place of the map.
///
/// # Panics
/// If the lengths contradict each other.
pub fn forward(pixels: usize, channels: usize, map: &[f32], factors: &[f32], accumulate: bool, target: &mut [f32]) {
    assert_eq!((map.len(), map.len()), (target.len(), factors.len() * pixels));
    let lines = rows_per_piece(channels).min(pixels);
    for_lines(pixels, channels, lines, target, |image, first, target| {
        let factors = &factors[image * channels..][..channels];
        let map = &map[first..][..target.len()];
        dispatch(
            #[inline(always)]
            || {
                for (t, x) in target.chunks_exact_mut(channels).zip(map.chunks_exact(channels)) {
                    for ((t, &x), &f) in t.iter_mut().zip(x).zip(factors) {
                        let added = if accumulate { *t } else { 0.0 };
                        *t = added + x * f;
                    }
                }
            },
        );
    });
}

/// Calls `work(image, first_element, elements)` for pieces of up to `lines` pixels of one image, in parallel.
fn for_lines(
    pixels: usize,
    channels: usize,
    lines: usize,
    target: &mut [f32],
    work: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    let image_len = pixels * channels;
    target.par_chunks_mut(image_len).enumerate().for_each(|(image, target)| {
        target.par_chunks_mut(lines * channels).enumerate().for_each(|(piece, target)| {
            work(image, image * image_len + piece * lines * channels, target);
        });
    });
}

/// The gradient of the factors: the sum over the pixels of an image of output gradient times map.
///
/// # Shapes
/// As in [`forward`]; with `accumulate`, adds to `grad_factors`, `[n, channels]`.
///
/// # Panics
/// If the lengths contradict each other.
pub fn backward_factors(
    pixels: usize,
    channels: usize,
    map: &[f32],
    grad_output: &[f32],
    accumulate: bool,
    grad_factors: &mut [f32],
) {
    assert_eq!((map.len(), map.len()), (grad_output.len(), grad_factors.len() * pixels));
    grad_factors.par_chunks_mut(channels).enumerate().for_each(|(image, sums)| {
        let image = image * pixels * channels..(image + 1) * pixels * channels;
        let (map, grad) = (&map[image.clone()], &grad_output[image]);
        dispatch(
            #[inline(always)]
            || {
                if !accumulate {
                    sums.fill(0.0);
                }
                for (x, g) in map.chunks_exact(channels).zip(grad.chunks_exact(channels)) {
                    for ((s, &x), &g) in sums.iter_mut().zip(x).zip(g) {
                        *s += x * g;
                    }
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    #[test]
    fn forward_and_backward_factors_equal_definition() {
        let (n, pixels, channels) = (3, 35, 19);
        let (x, f, g) =
            (values("x", n * pixels * channels), values("f", n * channels), values("g", n * pixels * channels));
        let mut y = vec![f32::NAN; x.len()];
        forward(pixels, channels, &x, &f, false, &mut y);
        let factor = |i: usize| f[i / (pixels * channels) * channels + i % channels];
        assert!((0..x.len()).all(|i| y[i] == x[i] * factor(i)));
        forward(pixels, channels, &x, &f, true, &mut y);
        assert!((0..x.len()).all(|i| (y[i] - 2.0 * x[i] * factor(i)).abs() < 1e-6));
        let mut df = vec![f32::NAN; f.len()];
        backward_factors(pixels, channels, &x, &g, false, &mut df);
        for (i, &d) in df.iter().enumerate() {
            let at = |p: usize| (i / channels * pixels + p) * channels + i % channels;
            let expected: f64 = (0..pixels).map(|p| f64::from(x[at(p)]) * f64::from(g[at(p)])).sum();
            assert!((f64::from(d) - expected).abs() < 1e-5, "{i}: {d} for {expected}");
        }
    }
}

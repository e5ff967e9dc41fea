//! Layer norm over the channels of each pixel: `torch.nn.LayerNorm` on NHWC maps, `LayerNorm2d` in torchvision.

use rayon::prelude::*;

use crate::rows::{reduce_rows, rows_per_piece};
use crate::simd::dispatch;

/// Mean and inverse standard deviation of a row, computed in `f64` because a row may be long and far from zero.
#[inline(always)]
fn statistics(row: &[f32], eps: f32) -> (f32, f32) {
    let n = row.len() as f64;
    let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let var = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
    (mean as f32, (1.0 / (var + f64::from(eps)).sqrt()) as f32)
}

/// `(x - mean) / sqrt(var + eps) * weight + bias` for each row, with the biased variance.
///
/// # Shapes
/// - `weight`, `bias`: `[channels]`
/// - `input`, `output`: `[rows, channels]`
///
/// # Panics
/// If the lengths of input and output differ.
pub fn forward(weight: &[f32], bias: &[f32], eps: f32, input: &[f32], output: &mut [f32]) {
    assert_eq!(input.len(), output.len());
    let channels = weight.len();
    let piece = rows_per_piece(channels) * channels;
    output.par_chunks_mut(piece).zip(input.par_chunks(piece)).for_each(|(output, input)| {
        dispatch(
            #[inline(always)]
            || {
                for (y, x) in output.chunks_exact_mut(channels).zip(input.chunks_exact(channels)) {
                    let (mean, inv_std) = statistics(x, eps);
                    for c in 0..channels {
                        y[c] = (x[c] - mean) * inv_std * weight[c] + bias[c];
                    }
                }
            },
        );
    });
}

/// The gradient of the input, written to `grad_input`; with `accumulate`, added to it.
///
/// # Panics
/// If the lengths of `input`, `grad_output` and `grad_input` differ.
pub fn backward_input(
    weight: &[f32],
    eps: f32,
    input: &[f32],
    grad_output: &[f32],
    accumulate: bool,
    grad_input: &mut [f32],
) {
    assert_eq!((input.len(), grad_output.len()), (grad_input.len(), grad_input.len()));
    let channels = weight.len();
    let piece = rows_per_piece(channels) * channels;
    let pieces = grad_input.par_chunks_mut(piece).zip(input.par_chunks(piece)).zip(grad_output.par_chunks(piece));
    pieces.for_each(|((out, input), grad)| {
        dispatch(
            #[inline(always)]
            || {
                let rows = input.chunks_exact(channels).zip(grad.chunks_exact(channels));
                for (dx, (x, g)) in out.chunks_exact_mut(channels).zip(rows) {
                    let (mean, inv_std) = statistics(x, eps);
                    // The mean gradient of the normalised row, and the mean of its product with the normalised row.
                    let (mut plain, mut with_input) = (0.0, 0.0);
                    for c in 0..channels {
                        let g = f64::from(g[c] * weight[c]);
                        plain += g;
                        with_input += g * f64::from((x[c] - mean) * inv_std);
                    }
                    let (plain, with_input) = ((plain / channels as f64) as f32, (with_input / channels as f64) as f32);
                    for c in 0..channels {
                        let normalised = (x[c] - mean) * inv_std;
                        let d = inv_std * (g[c] * weight[c] - plain - normalised * with_input);
                        dx[c] = if accumulate { dx[c] + d } else { d };
                    }
                }
            },
        );
    });
}

/// The gradients of weight and bias, in this order, summed over all rows.
pub fn backward_parameters(channels: usize, eps: f32, input: &[f32], grad_output: &[f32]) -> [Vec<f64>; 2] {
    let sums = reduce_rows(input.len() / channels, channels, 2 * channels, |first, count, sums| {
        let rows = first * channels..(first + count) * channels;
        let (input, grad) = (&input[rows.clone()], &grad_output[rows]);
        let (weight, bias) = sums.split_at_mut(channels);
        dispatch(
            #[inline(always)]
            || {
                for (x, g) in input.chunks_exact(channels).zip(grad.chunks_exact(channels)) {
                    let (mean, inv_std) = statistics(x, eps);
                    for c in 0..channels {
                        weight[c] += g[c] * (x[c] - mean) * inv_std;
                        bias[c] += g[c];
                    }
                }
            },
        );
    });
    let (weight, bias) = sums.split_at(channels);
    [weight.to_vec(), bias.to_vec()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{dot, values_f64};
    use regraft_testing::assert_close_to_scale;

    const EPS: f32 = 1e-6;

    fn reference(x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let rows = x.chunks_exact(weight.len()).flat_map(|row| {
            let n = row.len() as f64;
            let mean = row.iter().sum::<f64>() / n;
            let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            row.iter().zip(weight).zip(bias).map(move |((x, w), b)| (x - mean) / (var + f64::from(EPS)).sqrt() * w + b)
        });
        rows.collect()
    }

    /// The gradient of `loss` at `x` by central differences.
    fn derivative(x: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f32> {
        let step = 1e-5;
        let at = |i: usize, by: f64| {
            let mut moved = x.to_vec();
            moved[i] += by;
            loss(&moved)
        };
        (0..x.len()).map(|i| ((at(i, step) - at(i, -step)) / (2.0 * step)) as f32).collect()
    }

    /// Means are computed in `f64`; the rest is the rounding of a few products and of the sums over rows.
    const TOLERANCE: f64 = 2e-6;

    #[test]
    fn forward_and_gradients_follow_formula() {
        let to_f32 = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<_>>();
        for (rows, channels) in [(5, 7), (33, 40)] {
            let (x, g) = (values_f64("x", rows * channels), values_f64("g", rows * channels));
            let (w, b) = (values_f64("w", channels), values_f64("b", channels));
            let (x32, g32, w32, b32) = (to_f32(&x), to_f32(&g), to_f32(&w), to_f32(&b));
            let mut y = vec![f32::NAN; x.len()];
            forward(&w32, &b32, EPS, &x32, &mut y);
            assert_close_to_scale("forward", &y, &to_f32(&reference(&x, &w, &b)), TOLERANCE);
            let mut dx = vec![f32::NAN; x.len()];
            backward_input(&w32, EPS, &x32, &g32, false, &mut dx);
            let expected = derivative(&x, |x| dot(&reference(x, &w, &b), &g));
            assert_close_to_scale("input", &dx, &expected, TOLERANCE);
            backward_input(&w32, EPS, &x32, &g32, true, &mut dx);
            let twice: Vec<f32> = expected.iter().map(|d| 2.0 * d).collect();
            assert_close_to_scale("added", &dx, &twice, TOLERANCE);
            let [dw, db] = backward_parameters(channels, EPS, &x32, &g32).map(|sums| to_f32(&sums));
            assert_close_to_scale("weight", &dw, &derivative(&w, |w| dot(&reference(&x, w, &b), &g)), TOLERANCE);
            assert_close_to_scale("bias", &db, &derivative(&b, |b| dot(&reference(&x, &w, b), &g)), TOLERANCE);
        }
    }
}

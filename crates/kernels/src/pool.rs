//! Pooling of NHWC maps: `torch.nn.MaxPool2d` and `torch.nn.AdaptiveAvgPool2d`.

use std::ops::Range;

use rayon::prelude::*;

use crate::simd::dispatch;

/// Shape of a pooling of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Images in the batch.
    pub n: usize,
    /// Height and width of the input.
    pub input: [usize; 2],
    /// Height and width of the output.
    pub output: [usize; 2],
    /// Channels.
    pub channels: usize,
}

impl Shape {
    fn input_len(&self) -> usize {
        self.n * self.input[0] * self.input[1] * self.channels
    }

    fn output_len(&self) -> usize {
        self.n * self.output[0] * self.output[1] * self.channels
    }
}

/// A square window of a maximum pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Side; at most 16, so that a place in the window fits a byte.
    pub kernel_size: usize,
    /// Step.
    pub stride: usize,
    /// Border, which never wins.
    pub padding: usize,
}

/// The largest window side: places in a window are stored as bytes.
pub const MAX_WINDOW: usize = 16;

impl Window {
    /// The taps of the window at output position `out` that lie within an input of length `len`.
    fn taps(&self, out: usize, len: usize) -> Range<usize> {
        let start = out * self.stride;
        let first = self.padding.saturating_sub(start);
        let end = (len + self.padding).saturating_sub(start).min(self.kernel_size);
        first..end
    }
}

/// The maximum over each window; `winners` receives the place of each maximum in its window (row-major;
/// the first of equals wins, and a NaN wins over all, as in PyTorch).
///
/// # Panics
/// If a slice has another length than the shape says, or the window is larger than [`MAX_WINDOW`].
pub fn max_forward(shape: &Shape, window: Window, input: &[f32], output: &mut [f32], winners: &mut [u8]) {
    let Shape { input: [in_h, in_w], output: [out_h, out_w], channels, .. } = *shape;
    assert!(window.kernel_size <= MAX_WINDOW, "windows above {MAX_WINDOW} are not supported");
    assert_eq!((input.len(), output.len(), winners.len()), (shape.input_len(), shape.output_len(), shape.output_len()));
    let row_len = out_w * channels;
    output.par_chunks_mut(row_len).zip(winners.par_chunks_mut(row_len)).enumerate().for_each(|(row, (out, won))| {
        let (image, oy) = (row / out_h, row % out_h);
        dispatch(
            #[inline(always)]
            || {
                for ox in 0..out_w {
                    let best = &mut out[ox * channels..][..channels];
                    let place = &mut won[ox * channels..][..channels];
                    best.fill(f32::NEG_INFINITY);
                    place.fill(0);
                    for ky in window.taps(oy, in_h) {
                        for kx in window.taps(ox, in_w) {
                            let iy = oy * window.stride + ky - window.padding;
                            let ix = ox * window.stride + kx - window.padding;
                            let x = &input[((image * in_h + iy) * in_w + ix) * channels..][..channels];
                            let tap = (ky * window.kernel_size + kx) as u8;
                            for c in 0..channels {
                                let wins = x[c] > best[c] || x[c].is_nan();
                                best[c] = if wins { x[c] } else { best[c] };
                                place[c] = if wins { tap } else { place[c] };
                            }
                        }
                    }
                }
            },
        );
    });
}

/// The gradient of the input of [`max_forward`]: each output's gradient goes to its winner.
pub fn max_backward(
    shape: &Shape,
    window: Window,
    winners: &[u8],
    grad_output: &[f32],
    accumulate: bool,
    grad_input: &mut [f32],
) {
    let Shape { input: [in_h, in_w], output: [out_h, out_w], channels, .. } = *shape;
    assert_eq!(
        (grad_input.len(), grad_output.len(), winners.len()),
        (shape.input_len(), shape.output_len(), shape.output_len())
    );
    grad_input.par_chunks_mut(in_h * in_w * channels).enumerate().for_each(|(image, grad_input)| {
        if !accumulate {
            grad_input.fill(0.0);
        }
        for (pixel, oy, ox) in (0..out_h * out_w).map(|p| (p, p / out_w, p % out_w)) {
            let at = (image * out_h * out_w + pixel) * channels;
            for c in 0..channels {
                let tap = usize::from(winners[at + c]);
                // A window of nothing but -inf has no winner; place 0 may then lie in the border.
                let place = |out: usize, tap: usize, len: usize| {
                    (out * window.stride + tap).checked_sub(window.padding).filter(|&i| i < len)
                };
                let iy = place(oy, tap / window.kernel_size, in_h);
                let ix = place(ox, tap % window.kernel_size, in_w);
                if let (Some(iy), Some(ix)) = (iy, ix) {
                    grad_input[(iy * in_w + ix) * channels + c] += grad_output[at + c];
                }
            }
        }
    });
}

/// The inputs that output `i` of `out` averages over, of `len`: PyTorch's bins, which may overlap.
fn bin(i: usize, out: usize, len: usize) -> Range<usize> {
    i * len / out..((i + 1) * len).div_ceil(out)
}

/// The mean over each of PyTorch's adaptive bins.
///
/// # Panics
/// If a slice has another length than the shape says.
pub fn avg_forward(shape: &Shape, input: &[f32], output: &mut [f32]) {
    let Shape { input: [in_h, in_w], output: [out_h, out_w], channels, .. } = *shape;
    assert_eq!((input.len(), output.len()), (shape.input_len(), shape.output_len()));
    output.par_chunks_mut(channels).enumerate().for_each(|(pixel, out)| {
        let (image, oy, ox) = (pixel / (out_h * out_w), pixel / out_w % out_h, pixel % out_w);
        let (ys, xs) = (bin(oy, out_h, in_h), bin(ox, out_w, in_w));
        let scale = 1.0 / (ys.len() * xs.len()) as f32;
        dispatch(
            #[inline(always)]
            || {
                out.fill(0.0);
                for iy in ys {
                    for ix in xs.clone() {
                        let x = &input[((image * in_h + iy) * in_w + ix) * channels..][..channels];
                        for (y, &x) in out.iter_mut().zip(x) {
                            *y += x;
                        }
                    }
                }
                for y in out.iter_mut() {
                    *y *= scale;
                }
            },
        );
    });
}

/// The gradient of the input of [`avg_forward`].
pub fn avg_backward(shape: &Shape, grad_output: &[f32], accumulate: bool, grad_input: &mut [f32]) {
    let Shape { input: [in_h, in_w], output: [out_h, out_w], channels, .. } = *shape;
    assert_eq!((grad_input.len(), grad_output.len()), (shape.input_len(), shape.output_len()));
    grad_input.par_chunks_mut(in_h * in_w * channels).enumerate().for_each(|(image, grad_input)| {
        if !accumulate {
            grad_input.fill(0.0);
        }
        dispatch(
            #[inline(always)]
            || {
                for (oy, ox) in (0..out_h * out_w).map(|p| (p / out_w, p % out_w)) {
                    let (ys, xs) = (bin(oy, out_h, in_h), bin(ox, out_w, in_w));
                    let scale = 1.0 / (ys.len() * xs.len()) as f32;
                    let grad = &grad_output[((image * out_h + oy) * out_w + ox) * channels..][..channels];
                    for iy in ys {
                        for ix in xs.clone() {
                            let out = &mut grad_input[(iy * in_w + ix) * channels..][..channels];
                            for (o, &g) in out.iter_mut().zip(grad) {
                                *o += g * scale;
                            }
                        }
                    }
                }
            },
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_gradient, dot, values, values_f64};

    fn shapes() -> Vec<(Shape, Window)> {
        let shape = |input, output| Shape { n: 2, input, output, channels: 5 };
        vec![
            (shape([7, 8], [4, 4]), Window { kernel_size: 3, stride: 2, padding: 1 }),
            (shape([6, 6], [3, 3]), Window { kernel_size: 2, stride: 2, padding: 0 }),
            // ceil_mode: the last window hangs over the edge
            (shape([8, 6], [4, 3]), Window { kernel_size: 3, stride: 2, padding: 0 }),
        ]
    }

    /// The definition: the largest of the window's inputs.
    fn max_reference(shape: &Shape, window: Window, input: &[f64]) -> Vec<f64> {
        let mut output = vec![f64::NEG_INFINITY; shape.output_len()];
        for (o, best) in output.iter_mut().enumerate() {
            let (c, pixel) = (o % shape.channels, o / shape.channels);
            let (ox, oy) = (pixel % shape.output[1], pixel / shape.output[1] % shape.output[0]);
            let image = pixel / (shape.output[0] * shape.output[1]);
            for iy in 0..shape.input[0] {
                for ix in 0..shape.input[1] {
                    let within = |i: usize, o: usize| {
                        (o * window.stride..o * window.stride + window.kernel_size).contains(&(i + window.padding))
                    };
                    if within(iy, oy) && within(ix, ox) {
                        let x = input[((image * shape.input[0] + iy) * shape.input[1] + ix) * shape.channels + c];
                        *best = best.max(x);
                    }
                }
            }
        }
        output
    }

    #[test]
    fn the_maximum_and_its_gradient_follow_the_definition() {
        for (shape, window) in shapes() {
            let (x, g) = (values_f64("x", shape.input_len()), values_f64("g", shape.output_len()));
            let x32: Vec<f32> = x.iter().map(|&x| x as f32).collect();
            let g32: Vec<f32> = g.iter().map(|&g| g as f32).collect();
            let (mut y, mut winners) = (vec![0.0; shape.output_len()], vec![0; shape.output_len()]);
            max_forward(&shape, window, &x32, &mut y, &mut winners);
            assert_eq!(y.iter().map(|&y| f64::from(y)).collect::<Vec<_>>(), max_reference(&shape, window, &x));
            let mut dx = vec![1.0; shape.input_len()];
            max_backward(&shape, window, &winners, &g32, false, &mut dx);
            let dx: Vec<f64> = dx.iter().map(|&g| f64::from(g)).collect();
            assert_gradient("max pool", &x, &dx, |x| dot(&max_reference(&shape, window, x), &g));
        }
    }

    #[test]
    fn equal_maxima_go_to_the_first_and_nan_wins() {
        let shape = Shape { n: 1, input: [2, 2], output: [1, 1], channels: 1 };
        let window = Window { kernel_size: 2, stride: 2, padding: 0 };
        let (mut y, mut winner) = ([0.0], [9]);
        max_forward(&shape, window, &[3.0, 5.0, 5.0, 1.0], &mut y, &mut winner);
        assert_eq!((y, winner), ([5.0], [1]));
        max_forward(&shape, window, &[3.0, f32::NAN, 5.0, 1.0], &mut y, &mut winner);
        assert!(y[0].is_nan() && winner == [1]);
    }

    #[test]
    fn averages_and_their_gradients_are_adjoint_and_sum_up() {
        for (input, output) in [([7, 7], [1, 1]), ([10, 9], [7, 7]), ([5, 4], [7, 7]), ([7, 7], [7, 7])] {
            let shape = Shape { n: 2, input, output, channels: 3 };
            let (x, g) = (values("x", shape.input_len()), values("g", shape.output_len()));
            let mut y = vec![0.0; shape.output_len()];
            avg_forward(&shape, &x, &mut y);
            for (o, &y) in y.iter().enumerate() {
                let (c, pixel) = (o % 3, o / 3);
                let (ox, oy, image) =
                    (pixel % output[1], pixel / output[1] % output[0], pixel / (output[0] * output[1]));
                let (mut sum, mut count) = (0.0f64, 0);
                for iy in bin(oy, output[0], input[0]) {
                    for ix in bin(ox, output[1], input[1]) {
                        sum += f64::from(x[((image * input[0] + iy) * input[1] + ix) * 3 + c]);
                        count += 1;
                    }
                }
                assert!((f64::from(y) - sum / f64::from(count)).abs() < 1e-6);
            }
            let mut dx = vec![0.0; shape.input_len()];
            avg_backward(&shape, &g, false, &mut dx);
            let inner = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            assert!((inner(&y, &g) - inner(&x, &dx)).abs() < 1e-4, "a linear map and its gradient must be adjoint");
        }
    }
}

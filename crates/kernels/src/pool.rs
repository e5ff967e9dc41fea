//! Pooling of NHWC maps: `torch.nn.MaxPool2d`, `torch.nn.AvgPool2d` and `torch.nn.AdaptiveAvgPool2d`.

use std::ops::Range;

use rayon::prelude::*;

use crate::simd::dispatch;

mod max;

pub use max::{MAX_WINDOW, Window, max_backward, max_forward, max_forward_alone};

/// Shape of a pooling of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Images in the batch.
    pub n: usize,
    /// Height and width of the input, in pixels.
    pub input: [usize; 2],
    /// Height and width of the output, in pixels.
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

/// The regions of an average pooling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Average {
    /// PyTorch's adaptive bins, which divide the input evenly and may overlap: `torch.nn.AdaptiveAvgPool2d`.
    Adaptive,
    /// A square window that moves by its stride; zeros in the padding count: `torch.nn.AvgPool2d`.
    Window(Window),
}

impl Average {
    /// The range of inputs, of `len`, that output `i` of `out` averages, and the divisor.
    fn bin(self, i: usize, out: usize, len: usize) -> (Range<usize>, usize) {
        match self {
            Average::Adaptive => {
                let bin = i * len / out..((i + 1) * len).div_ceil(out);
                (bin.clone(), bin.len())
            }
            Average::Window(Window { kernel_size, stride, padding }) => {
                let start = i * stride;
                let end = (start + kernel_size).saturating_sub(padding).min(len);
                (start.saturating_sub(padding).min(end)..end, kernel_size)
            }
        }
    }
}

/// The mean over each bin or window.
///
/// # Shapes
/// - `input`: `[n, h, w, channels]`
/// - `output`: `[n, h_out, w_out, channels]`
///
/// # Panics
/// If a slice has another length than the shape says.
pub fn avg_forward(shape: &Shape, average: Average, input: &[f32], output: &mut [f32]) {
    let Shape { input: [in_h, in_w], output: [out_h, out_w], channels, .. } = *shape;
    assert_eq!((input.len(), output.len()), (shape.input_len(), shape.output_len()));
    output.par_chunks_mut(channels).enumerate().for_each(|(pixel, out)| {
        let (image, oy, ox) = (pixel / (out_h * out_w), pixel / out_w % out_h, pixel % out_w);
        let ((ys, height), (xs, width)) = (average.bin(oy, out_h, in_h), average.bin(ox, out_w, in_w));
        let scale = 1.0 / (height * width) as f32;
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

/// The gradient of the input of [`avg_forward`], written to `grad_input`; with `accumulate`, added to it.
///
/// # Panics
/// If a slice has another length than the shape says.
pub fn avg_backward(shape: &Shape, average: Average, grad_output: &[f32], accumulate: bool, grad_input: &mut [f32]) {
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
                    let ((ys, height), (xs, width)) = (average.bin(oy, out_h, in_h), average.bin(ox, out_w, in_w));
                    let scale = 1.0 / (height * width) as f32;
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
    use crate::testing::values;

    /// `torch.nn.AvgPool2d` with `count_include_pad`.
    const WINDOW: Average = Average::Window(Window { kernel_size: 3, stride: 2, padding: 1 });
    const HALVES: Average = Average::Window(Window { kernel_size: 2, stride: 2, padding: 0 });

    /// The definition: the share of input `at` in the average that is output `i`.
    fn share(average: Average, at: usize, i: usize, out: usize, len: usize) -> f64 {
        let (first, end, count) = match average {
            Average::Adaptive => {
                let (first, end) = (i * len / out, ((i + 1) * len).div_ceil(out));
                (first as isize, end as isize, end - first)
            }
            Average::Window(Window { kernel_size, stride, padding }) => {
                let first = (i * stride) as isize - padding as isize;
                (first, first + kernel_size as isize, kernel_size)
            }
        };
        if (first..end).contains(&(at as isize)) { 1.0 / count as f64 } else { 0.0 }
    }

    #[test]
    fn avg_forward_equals_definition_and_backward_is_adjoint() {
        for (average, input, output) in [
            (Average::Adaptive, [7, 7], [1, 1]),
            (Average::Adaptive, [10, 9], [7, 7]),
            (Average::Adaptive, [5, 4], [7, 7]),
            (Average::Adaptive, [7, 7], [7, 7]),
            (WINDOW, [7, 8], [4, 4]),
            (WINDOW, [1, 2], [1, 1]),
            (HALVES, [7, 6], [3, 3]),
        ] {
            let shape = Shape { n: 2, input, output, channels: 3 };
            let (x, g) = (values("x", shape.input_len()), values("g", shape.output_len()));
            let mut y = vec![0.0; shape.output_len()];
            avg_forward(&shape, average, &x, &mut y);
            for (o, &y) in y.iter().enumerate() {
                let (c, pixel) = (o % 3, o / 3);
                let (ox, oy, image) =
                    (pixel % output[1], pixel / output[1] % output[0], pixel / (output[0] * output[1]));
                let mut sum = 0.0;
                for (iy, ix) in (0..input[0] * input[1]).map(|i| (i / input[1], i % input[1])) {
                    let part =
                        share(average, iy, oy, output[0], input[0]) * share(average, ix, ox, output[1], input[1]);
                    sum += part * f64::from(x[((image * input[0] + iy) * input[1] + ix) * 3 + c]);
                }
                assert!((f64::from(y) - sum).abs() < 1e-6, "{average:?}");
            }
            let mut dx = vec![0.0; shape.input_len()];
            avg_backward(&shape, average, &g, false, &mut dx);
            let inner = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            assert!((inner(&y, &g) - inner(&x, &dx)).abs() < 1e-4, "forward and backward must be adjoint");
        }
    }
}

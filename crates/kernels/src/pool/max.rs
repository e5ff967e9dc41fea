//! Max pooling and its gradient.
//!
//! Both kernels write their result line by line, every element once. Maxima, winners and sums of a vector of channels stay
//! in registers over the whole window, which leaves little but the memory traffic.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::Shape;
use crate::prefetch;
use crate::simd::Level;
use crate::vector::{blocks, load_block, load_bytes, store_block, store_bytes};

/// A square pooling window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Side, in pixels; at most [`MAX_WINDOW`] for max pooling.
    pub kernel_size: usize,
    /// Step, in pixels.
    pub stride: usize,
    /// Border on each side, in pixels. It never holds the maximum.
    pub padding: usize,
}

/// Largest side of a max pooling window: positions in a window are stored as bytes.
pub const MAX_WINDOW: usize = 16;

impl Window {
    /// The taps of the window at output position `out` that lie inside an input of length `len`.
    fn taps(&self, out: usize, len: usize) -> Range<usize> {
        let start = out * self.stride;
        let first = self.padding.saturating_sub(start);
        let end = (len + self.padding).saturating_sub(start).min(self.kernel_size);
        first..end
    }

    /// The output positions, of `len`, whose windows contain input position `input`.
    fn around(&self, input: usize, len: usize) -> Range<usize> {
        let at = input + self.padding;
        let end = (at / self.stride + 1).min(len);
        (at + 1).saturating_sub(self.kernel_size).div_ceil(self.stride).min(end)..end
    }

    /// The tap of the window at output position `out` that reads input position `input`.
    fn tap(&self, input: usize, out: usize) -> usize {
        input + self.padding - out * self.stride
    }
}

/// The maximum over each window: `torch.nn.MaxPool2d`.
///
/// `winners` receives the position of each maximum in its window, row-major. As in PyTorch, the first of equal values
/// wins, and NaN wins over all others.
///
/// # Shapes
/// - `input`: `[n, h, w, channels]`
/// - `output`, `winners`: `[n, h_out, w_out, channels]`
///
/// # Panics
/// If a slice has another length than the shape says, or the window is larger than [`MAX_WINDOW`].
pub fn max_forward(shape: &Shape, window: Window, input: &[f32], output: &mut [f32], winners: &mut [u8]) {
    max_forward_at(Level::current(), shape, window, input, output, winners);
}

/// [`max_forward`] of some output `lines` of one image on the calling thread, without winners.
///
/// `input` begins with the image's line `above`.
///
/// # Panics
/// If the input lacks a line that is needed, `output` has another length, or the window is larger than [`MAX_WINDOW`].
pub fn max_forward_alone(
    shape: &Shape,
    window: Window,
    lines: Range<usize>,
    above: usize,
    input: &[f32],
    output: &mut [f32],
) {
    assert!(window.kernel_size <= MAX_WINDOW, "windows above {MAX_WINDOW} are not supported");
    let line = shape.output[1] * shape.channels;
    assert_eq!(output.len(), lines.len() * line);
    for (row, output) in lines.zip(output.chunks_exact_mut(line)) {
        MaxLine { shape, window, row, above, input, output, winners: &mut [] }.run(Level::current());
    }
}

fn max_forward_at(level: Level, shape: &Shape, window: Window, input: &[f32], output: &mut [f32], winners: &mut [u8]) {
    assert!(window.kernel_size <= MAX_WINDOW, "windows above {MAX_WINDOW} are not supported");
    assert_eq!((input.len(), output.len(), winners.len()), (shape.input_len(), shape.output_len(), shape.output_len()));
    let line = shape.output[1] * shape.channels;
    output.par_chunks_mut(line).zip(winners.par_chunks_mut(line)).enumerate().for_each(|(row, (output, winners))| {
        MaxLine { shape, window, row, above: 0, input, output, winners }.run(level);
    });
}

/// Computes the maxima of one output line.
struct MaxLine<'a> {
    shape: &'a Shape,
    window: Window,
    row: usize,
    /// Lines of the batch before the first line of `input`.
    above: usize,
    input: &'a [f32],
    output: &'a mut [f32],
    /// Empty if the winners are not wanted.
    winners: &'a mut [u8],
}

impl MaxLine<'_> {
    /// A plain function around [`Level::run`], which is always inlined, so that the kernel is compiled once for all callers.
    fn run(self, level: Level) {
        level.run(self);
    }
}

impl WithSimd for MaxLine<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let Self { shape, window, row, above, .. } = self;
        let Shape { input: [in_h, in_w], output: [out_h, out_w], channels, .. } = *shape;
        let (image, oy) = (row / out_h, row % out_h);
        let rows = window.taps(oy, in_h);
        let top = image * in_h + oy * window.stride + rows.start - window.padding - above;
        prefetch::touch(&self.input[top * in_w * channels..][..rows.len() * in_w * channels]);
        for ox in 0..out_w {
            let columns = window.taps(ox, in_w);
            let first = top * in_w + ox * window.stride + columns.start - window.padding;
            for (channel, vectors, lanes) in blocks::<S>(channels) {
                let (at, to) = (first * channels + channel, ox * channels + channel);
                match vectors {
                    4 => self.block::<S, 4>(simd, at, [&rows, &columns], to, S::F32_LANES),
                    2 => self.block::<S, 2>(simd, at, [&rows, &columns], to, S::F32_LANES),
                    _ => self.block::<S, 1>(simd, at, [&rows, &columns], to, lanes),
                }
            }
        }
    }
}

impl MaxLine<'_> {
    /// The maxima of `V` vectors of the output pixel at `to`; the vectors of its window's first pixel are at `first`.
    #[inline(always)]
    fn block<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        first: usize,
        [rows, columns]: [&Range<usize>; 2],
        to: usize,
        lanes: usize,
    ) {
        let Self { shape: Shape { input: [_, in_w], channels, .. }, window, .. } = self;
        let mut best = [simd.splat_f32s(f32::NEG_INFINITY); V];
        let mut place = [simd.splat_u32s(0); V];
        for ky in rows.clone() {
            let line = first + (ky - rows.start) * in_w * channels;
            for kx in columns.clone() {
                let x: [_; V] = load_block(simd, self.input, line + (kx - columns.start) * channels, lanes);
                let tap = simd.splat_u32s((ky * window.kernel_size + kx) as u32);
                for v in 0..V {
                    let larger = simd.greater_than_f32s(x[v], best[v]);
                    let wins = simd.or_m32s(larger, simd.not_m32s(simd.equal_f32s(x[v], x[v])));
                    best[v] = simd.select_f32s(wins, x[v], best[v]);
                    place[v] = simd.select_u32s(wins, tap, place[v]);
                }
            }
        }
        store_block(simd, self.output, to, lanes, best);
        for v in 0..if self.winners.is_empty() { 0 } else { V } {
            store_bytes(simd, self.winners, to + v * S::F32_LANES, lanes, place[v]);
        }
    }
}

/// The gradient of the input of [`max_forward`]: each output gradient goes to its winner.
///
/// With `accumulate`, adds to `grad_input`.
///
/// # Panics
/// If a slice has another length than the shape says.
pub fn max_backward(
    shape: &Shape,
    window: Window,
    winners: &[u8],
    grad_output: &[f32],
    accumulate: bool,
    grad_input: &mut [f32],
) {
    max_backward_at(Level::current(), shape, window, winners, grad_output, accumulate, grad_input);
}

fn max_backward_at(
    level: Level,
    shape: &Shape,
    window: Window,
    winners: &[u8],
    grad_output: &[f32],
    accumulate: bool,
    grad_input: &mut [f32],
) {
    assert_eq!(
        (grad_input.len(), grad_output.len(), winners.len()),
        (shape.input_len(), shape.output_len(), shape.output_len())
    );
    grad_input.par_chunks_mut(shape.input[1] * shape.channels).enumerate().for_each(|(row, grad_input)| {
        level.run(GradLine { shape, window, row, winners, grad_output, accumulate, grad_input });
    });
}

/// Computes one line of the input gradient: each pixel sums the gradients of the windows that it has won.
struct GradLine<'a> {
    shape: &'a Shape,
    window: Window,
    row: usize,
    winners: &'a [u8],
    grad_output: &'a [f32],
    accumulate: bool,
    grad_input: &'a mut [f32],
}

impl WithSimd for GradLine<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let Self { shape, window, row, .. } = self;
        let Shape { input: [in_h, in_w], output: [out_h, out_w], channels, .. } = *shape;
        let (image, iy) = (row / in_h, row % in_h);
        let rows = window.around(iy, out_h);
        let (from, len) = ((image * out_h + rows.start) * out_w * channels, rows.len() * out_w * channels);
        prefetch::touch(&self.winners[from..][..len]);
        prefetch::touch(&self.grad_output[from..][..len]);
        for ix in 0..in_w {
            let columns = window.around(ix, out_w);
            for (channel, vectors, lanes) in blocks::<S>(channels) {
                let from = image * out_h * out_w * channels + channel;
                let to = ix * channels + channel;
                match vectors {
                    4 => self.block::<S, 4>(simd, from, [iy, ix], [&rows, &columns], to, S::F32_LANES),
                    2 => self.block::<S, 2>(simd, from, [iy, ix], [&rows, &columns], to, S::F32_LANES),
                    _ => self.block::<S, 1>(simd, from, [iy, ix], [&rows, &columns], to, lanes),
                }
            }
        }
    }
}

impl GradLine<'_> {
    /// The gradient of `V` vectors of the input pixel at `to`, summed over the windows that contain the pixel.
    ///
    /// `from` is the position of these vectors in the first output pixel of the image.
    #[inline(always)]
    fn block<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        from: usize,
        [iy, ix]: [usize; 2],
        [rows, columns]: [&Range<usize>; 2],
        to: usize,
        lanes: usize,
    ) {
        let Self { shape: Shape { output: [_, out_w], channels, .. }, window, .. } = self;
        let zero = simd.splat_f32s(0.0);
        let mut sums = [zero; V];
        if self.accumulate {
            sums = load_block(simd, self.grad_input, to, lanes);
        }
        for oy in rows.clone() {
            for ox in columns.clone() {
                let at = from + (oy * out_w + ox) * channels;
                let tap = simd.splat_u32s((window.tap(iy, oy) * window.kernel_size + window.tap(ix, ox)) as u32);
                let grad: [_; V] = load_block(simd, self.grad_output, at, lanes);
                for v in 0..V {
                    let winner = load_bytes(simd, self.winners, at + v * S::F32_LANES, lanes);
                    let won = simd.equal_u32s(winner, tap);
                    sums[v] = simd.add_f32s(sums[v], simd.select_f32s(won, grad[v], zero));
                }
            }
        }
        store_block(simd, self.grad_input, to, lanes, sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_gradient, dot, values, values_f64};

    fn shapes(channels: usize) -> Vec<(Shape, Window)> {
        let shape = |n, input, output| Shape { n, input, output, channels };
        vec![
            (shape(2, [7, 8], [4, 4]), Window { kernel_size: 3, stride: 2, padding: 1 }),
            (shape(2, [6, 6], [3, 3]), Window { kernel_size: 2, stride: 2, padding: 0 }),
            // ceil_mode: the last window reaches over the edge
            (shape(2, [8, 6], [4, 3]), Window { kernel_size: 3, stride: 2, padding: 0 }),
            // up to nine windows contain a pixel
            (shape(1, [5, 6], [5, 6]), Window { kernel_size: 3, stride: 1, padding: 1 }),
            // pixels between the windows belong to no window
            (shape(1, [8, 5], [3, 2]), Window { kernel_size: 2, stride: 3, padding: 0 }),
        ]
    }

    /// The definition: the largest input of each window.
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

    /// The definition of the gradient: adds each output gradient to its winner.
    fn scatter(shape: &Shape, window: Window, winners: &[u8], grad_output: &[f32], grad_input: &mut [f32]) {
        for (o, (&winner, &g)) in winners.iter().zip(grad_output).enumerate() {
            let (c, pixel) = (o % shape.channels, o / shape.channels);
            let (ox, oy) = (pixel % shape.output[1], pixel / shape.output[1] % shape.output[0]);
            let image = pixel / (shape.output[0] * shape.output[1]);
            let (ky, kx) = (usize::from(winner) / window.kernel_size, usize::from(winner) % window.kernel_size);
            let (iy, ix) = (oy * window.stride + ky - window.padding, ox * window.stride + kx - window.padding);
            grad_input[((image * shape.input[0] + iy) * shape.input[1] + ix) * shape.channels + c] += g;
        }
    }

    #[test]
    fn max_forward_and_backward_follow_definition() {
        for (shape, window) in shapes(5) {
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
    fn max_forward_and_backward_have_same_bits_at_every_level() {
        // Channels for blocks of vectors, single vectors and part of a vector at every level.
        for (shape, window) in [1, 16, 85].into_iter().flat_map(shapes) {
            let (x, g) = (values("x", shape.input_len()), values("g", shape.output_len()));
            let expected: Vec<f32> = {
                let x: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
                max_reference(&shape, window, &x).iter().map(|&y| y as f32).collect()
            };
            for level in Level::available() {
                let (mut y, mut winners) = (vec![f32::NAN; g.len()], vec![u8::MAX; g.len()]);
                max_forward_at(level, &shape, window, &x, &mut y, &mut winners);
                assert_eq!(y, expected, "{level:?}, {shape:?}, {window:?}");
                for (accumulate, before) in [(false, 0.0), (true, 0.5)] {
                    let mut dx = vec![if accumulate { before } else { f32::NAN }; x.len()];
                    max_backward_at(level, &shape, window, &winners, &g, accumulate, &mut dx);
                    let mut scattered = vec![before; x.len()];
                    scatter(&shape, window, &winners, &g, &mut scattered);
                    assert_eq!(dx, scattered, "{level:?}, {shape:?}, {window:?}, accumulate {accumulate}");
                }
            }
        }
    }

    #[test]
    fn first_of_equal_maxima_and_last_nan_win() {
        let shape = Shape { n: 1, input: [2, 2], output: [1, 1], channels: 1 };
        let window = Window { kernel_size: 2, stride: 2, padding: 0 };
        for level in Level::available() {
            let (mut y, mut winner) = ([0.0], [9]);
            max_forward_at(level, &shape, window, &[3.0, 5.0, 5.0, 1.0], &mut y, &mut winner);
            assert_eq!((y, winner), ([5.0], [1]));
            max_forward_at(level, &shape, window, &[3.0, f32::NAN, 5.0, 1.0], &mut y, &mut winner);
            assert!(y[0].is_nan() && winner == [1]);
            max_forward_at(level, &shape, window, &[f32::NAN, 2.0, f32::NAN, 1.0], &mut y, &mut winner);
            assert!(y[0].is_nan() && winner == [2]);
        }
    }

    #[test]
    fn padding_never_wins() {
        let shape = Shape { n: 1, input: [2, 2], output: [2, 2], channels: 1 };
        let window = Window { kernel_size: 3, stride: 1, padding: 1 };
        let (mut y, mut winners) = ([0.0; 4], [9; 4]);
        max_forward(&shape, window, &[-4.0, -3.0, -2.0, -1.0], &mut y, &mut winners);
        assert_eq!((y, winners), ([-1.0; 4], [8, 7, 5, 4]));
        // A window of -inf only names position 0, which may lie in the padding: its gradient is dropped.
        max_forward(&shape, window, &[f32::NEG_INFINITY; 4], &mut y, &mut winners);
        let mut dx = [9.0; 4];
        max_backward(&shape, window, &winners, &[1.0; 4], false, &mut dx);
        assert_eq!((y, dx), ([f32::NEG_INFINITY; 4], [1.0, 0.0, 0.0, 0.0]));
    }
}

//! Depthwise forward pass and input gradient: each line is a sum of source lines times taps.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Line, SlidingWindow, backward_line, forward_line};
use crate::conv::{Epilogue, Shape};
use crate::rows::{Threads, with_scratch};
use crate::simd::{Level, dispatch};
use crate::vector::{for_each_vector, load, store};

/// Lines of the result per piece of work, few enough that one image occupies several threads.
fn lines_per_piece(height: usize) -> usize {
    (height / 4).clamp(1, 8)
}

/// Fewest elements of a result that does not stay in cache.
const LARGE: usize = 4 << 20;

/// Fewest channels for which writing a line vector by vector makes too many short writes.
const MANY: usize = 64;

/// Lets `work` write a line of a result, through a buffer in cache if the result goes to memory.
///
/// The kernels write one vector of channels at a time, which is a bad order for memory.
fn write_line(result_len: usize, channels: usize, accumulate: bool, out: &mut [f32], work: impl FnOnce(&mut [f32])) {
    if result_len < LARGE || channels < MANY {
        return work(out);
    }
    with_scratch(out.len(), |line| {
        if accumulate {
            line.copy_from_slice(out);
        }
        work(line);
        out.copy_from_slice(line);
    });
}

/// The depthwise [`forward`](crate::conv::forward).
pub(in crate::conv) fn forward(
    threads: Threads,
    level: Level,
    shape: &Shape,
    input: &[f32],
    weight: &[f32],
    epilogue: Epilogue,
    output: &mut [f32],
) {
    let (channels, [height, width]) = (shape.in_channels, shape.output);
    let line_len = width * channels;
    let lines = match threads {
        Threads::Pool => lines_per_piece(height),
        Threads::Caller => shape.n * height,
    };
    threads.for_each(output.par_chunks_mut(lines * line_len).enumerate(), |(piece, out)| {
        let mut fetched = 0;
        for (row, out) in (piece * lines..).zip(out.chunks_exact_mut(line_len)) {
            let line = forward_line(shape, row / height, row % height);
            if threads == Threads::Pool {
                fetched = line.fetch(input, channels, fetched);
            }
            let (phases, start) = (&[line], row * line_len);
            let (source, accumulate) = (input, false);
            write_line(shape.output_len(), channels, accumulate, out, |out| {
                SumLine { phases, channels, source, weight, accumulate, epilogue, start, out }.run(level);
            });
        }
        dispatch(
            #[inline(always)]
            || epilogue.gather_rows(piece * lines * line_len, channels, out),
        );
    });
}

/// The depthwise [`backward_input`](crate::conv::backward_input).
pub(in crate::conv) fn backward_input(
    level: Level,
    shape: &Shape,
    grad_output: &[f32],
    weight: &[f32],
    accumulate: bool,
    grad_input: &mut [f32],
) {
    let (channels, [height, width]) = (shape.in_channels, shape.input);
    let (lines, line_len) = (lines_per_piece(height), width * channels);
    grad_input.par_chunks_mut(lines * line_len).enumerate().for_each(|(piece, out)| {
        let mut fetched = 0;
        for (row, out) in (piece * lines..).zip(out.chunks_exact_mut(line_len)) {
            let columns = 0..shape.stride[1].min(width);
            let phases: Vec<_> = columns.map(|first| backward_line(shape, row / height, row % height, first)).collect();
            fetched = phases.iter().fold(fetched, |fetched, line| line.fetch(grad_output, channels, fetched));
            let (phases, start) = (phases.as_slice(), row * line_len);
            let (source, epilogue) = (grad_output, Epilogue::NONE);
            write_line(shape.input_len(), channels, accumulate, out, |out| {
                SumLine { phases, channels, source, weight, accumulate, epilogue, start, out }.run(level);
            });
        }
    });
}

/// Computes a line of the result. With `n` phases, position `p` of phase `i` is pixel `i + p * n` of the line.
struct SumLine<'a> {
    phases: &'a [Line],
    channels: usize,
    source: &'a [f32],
    weight: &'a [f32],
    accumulate: bool,
    epilogue: Epilogue<'a>,
    /// First element of `out` in the whole result.
    start: usize,
    out: &'a mut [f32],
}

impl WithSimd for SumLine<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for_each_vector!(S, self.channels, |channel, lanes| self.vector(simd, channel, lanes));
    }
}

impl SumLine<'_> {
    /// A plain function around [`Level::run`], which is always inlined, so that the kernel is compiled once for all callers.
    fn run(self, level: Level) {
        level.run(self);
    }

    /// The sums of one vector of channels.
    #[inline(always)]
    fn vector<S: Simd>(&mut self, simd: S, channel: usize, lanes: usize) {
        for (phase, line) in self.phases.iter().enumerate() {
            match (line.window_width(), line.step) {
                (Some(2), 1) => self.slide::<S, 2, 2, 1>(simd, phase, channel, lanes),
                (Some(3), 1) => self.slide::<S, 3, 3, 1>(simd, phase, channel, lanes),
                (Some(3), 2) => self.slide::<S, 3, 3, 2>(simd, phase, channel, lanes),
                // The registers hold taps and pixels of two rows only.
                (Some(5), 1) => self.slide::<S, 2, 5, 1>(simd, phase, channel, lanes),
                (Some(5), 2) => self.slide::<S, 2, 5, 2>(simd, phase, channel, lanes),
                _ => self.tap_by_tap(simd, phase, channel, lanes),
            }
        }
    }

    /// Sums with a [`SlidingWindow`], one pass per `R` source rows.
    #[inline(always)]
    fn slide<S: Simd, const R: usize, const K: usize, const STEP: usize>(
        &mut self,
        simd: S,
        phase: usize,
        channel: usize,
        lanes: usize,
    ) {
        let line = &self.phases[phase];
        let last = line.rows.len().div_ceil(R) - 1;
        for (pass, rows) in line.rows.chunks(R).enumerate() {
            let mut weights = [[simd.splat_f32s(0.0); R]; K];
            for j in 0..K.min(line.columns.len()) {
                for i in 0..R.min(rows.len()) {
                    let tap = rows[i].1 + line.columns[j].1;
                    weights[j][i] = load(simd, self.weight, tap * self.channels + channel, lanes);
                }
            }
            let at = [self.channels, channel, lanes];
            let mut window = SlidingWindow::<S, R, K, STEP>::new(simd, line, rows, self.source, at);
            let pass = Pass { accumulate: pass > 0 || self.accumulate, last: pass == last };
            let inside = window.inside(line.count);
            for positions in [0..inside.start, inside.clone(), inside.end..line.count] {
                // A loop of its own without borders has no branches.
                if positions == inside && pass.is_plain(self.epilogue) {
                    let bias = self.bias(simd, channel, lanes);
                    for position in positions {
                        window.slide::<true>(simd);
                        let sum = self.epilogue.activation.value_vector(simd, weigh(simd, &window, &weights, bias));
                        let target = self.target(phase, position, channel);
                        store(simd, self.out, target, lanes, sum);
                    }
                } else {
                    for position in positions {
                        window.slide::<false>(simd);
                        let target = self.target(phase, position, channel);
                        let sum = self.initial_sum(simd, pass, target, channel, lanes);
                        let sum = weigh(simd, &window, &weights, sum);
                        self.write_sum(simd, pass, target, lanes, sum);
                    }
                }
            }
        }
    }

    /// Sums for any filter, tap by tap.
    #[inline(always)]
    fn tap_by_tap<S: Simd>(&mut self, simd: S, phase: usize, channel: usize, lanes: usize) {
        let line = &self.phases[phase];
        for position in 0..line.count {
            let target = self.target(phase, position, channel);
            let pass = Pass { accumulate: self.accumulate, last: true };
            let mut sum = self.initial_sum(simd, pass, target, channel, lanes);
            for &(offset, kx) in &line.columns {
                let Some(pixel) = line.reads(offset, position) else { continue };
                for &(row, tap) in &line.rows {
                    let x = load(simd, self.source, (row + pixel) * self.channels + channel, lanes);
                    let w = load(simd, self.weight, (tap + kx) * self.channels + channel, lanes);
                    sum = simd.mul_add_e_f32s(x, w, sum);
                }
            }
            self.write_sum(simd, pass, target, lanes, sum);
        }
    }

    /// The element of `out` for a position.
    #[inline(always)]
    fn target(&self, phase: usize, position: usize, channel: usize) -> usize {
        (phase + position * self.phases.len()) * self.channels + channel
    }

    /// The bias, or zero.
    #[inline(always)]
    fn bias<S: Simd>(&self, simd: S, channel: usize, lanes: usize) -> S::f32s {
        self.epilogue.bias.map_or(simd.splat_f32s(0.0), |bias| load(simd, bias, channel, lanes))
    }

    /// The value that taps are added to: the previous result or zero, plus the bias in the last pass.
    #[inline(always)]
    fn initial_sum<S: Simd>(&self, simd: S, pass: Pass, target: usize, channel: usize, lanes: usize) -> S::f32s {
        let bias = if pass.last { self.bias(simd, channel, lanes) } else { simd.splat_f32s(0.0) };
        if pass.accumulate { simd.add_f32s(load(simd, self.out, target, lanes), bias) } else { bias }
    }

    /// Writes a sum, in the last pass with the rest of the epilogue.
    #[inline(always)]
    fn write_sum<S: Simd>(&mut self, simd: S, pass: Pass, target: usize, lanes: usize, mut sum: S::f32s) {
        if pass.last {
            if let Some(residual) = self.epilogue.residual {
                sum = simd.add_f32s(sum, load(simd, residual, self.start + target, lanes));
            }
            sum = self.epilogue.activation.value_vector(simd, sum);
        }
        store(simd, self.out, target, lanes, sum);
    }
}

/// One pass over the source rows of a line.
#[derive(Clone, Copy)]
struct Pass {
    /// Whether the sums are added to the previous result.
    accumulate: bool,
    /// Whether this is the last pass, which applies the epilogue.
    last: bool,
}

impl Pass {
    /// Whether neither the previous result nor a residual is read.
    fn is_plain(self, epilogue: Epilogue) -> bool {
        self.last && !self.accumulate && epilogue.residual.is_none()
    }
}

/// Adds the products of a window's pixels with their taps.
#[inline(always)]
fn weigh<S: Simd, const R: usize, const K: usize, const STEP: usize>(
    simd: S,
    window: &SlidingWindow<S, R, K, STEP>,
    weights: &[[S::f32s; R]; K],
    mut sum: S::f32s,
) -> S::f32s {
    for j in 0..K {
        for i in 0..R {
            sum = simd.mul_add_e_f32s(window.pixels[j][i], weights[j][i], sum);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_line_is_same_with_buffer() {
        let mut expected = vec![2.0; 70];
        expected[3] = 9.0;
        for result_len in [70, LARGE] {
            let mut out = vec![1.0; 70];
            write_line(result_len, MANY, true, &mut out, |line| {
                line.iter_mut().for_each(|y| *y += 1.0);
                line[3] = 9.0;
            });
            assert_eq!(out, expected);
            write_line(result_len, MANY, false, &mut out, |line| line.fill(5.0));
            assert_eq!(out, [5.0; 70]);
        }
    }
}

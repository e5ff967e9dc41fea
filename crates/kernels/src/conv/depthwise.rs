//! Depthwise convolution: every channel has one filter of its own, so there is nothing to multiply as
//! matrices. A line of the result is a sum of lines, each times one tap; a few positions are worked on together, so
//! that a tap's weights are loaded once for all of them.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{Epilogue, Shape};
use crate::simd::{Level, dispatch};
use crate::vector::{load, store, vectors};

/// Positions of a line worked on together: their sums stay in registers.
const TOGETHER: usize = 8;

/// One tap's part in a line of the result: position `p` reads pixel `first + p * step` of a line of the source.
#[derive(Clone, Copy, Debug)]
struct Tap {
    /// Where the source's line begins, in pixels.
    line: usize,
    /// The pixel that position 0 reads: may lie outside.
    first: isize,
    /// Which filter position it is.
    weight: usize,
}

/// The taps that reach a line and how positions step through the source.
struct Line {
    taps: Vec<Tap>,
    step: usize,
    /// Pixels of the source's lines.
    source_len: usize,
    /// Positions.
    count: usize,
}

impl Line {
    fn reads(&self, tap: &Tap, position: usize) -> Option<usize> {
        let pixel = tap.first + (position * self.step) as isize;
        (pixel >= 0 && (pixel as usize) < self.source_len).then(|| tap.line + pixel as usize)
    }

    /// The positions for which every tap lies inside.
    fn inside(&self) -> std::ops::Range<usize> {
        let all = |&position: &usize| self.taps.iter().all(|tap| self.reads(tap, position).is_some());
        let start = (0..self.count).find(all).unwrap_or(self.count);
        let end = (start..self.count).rev().find(all).map_or(start, |last| last + 1);
        start..end
    }
}

/// Where a line's positions lie in the result: position `p` is pixel `first + p * step`.
#[derive(Clone, Copy)]
struct Target {
    first: usize,
    step: usize,
    accumulate: bool,
}

/// Sums the taps of a line into the result.
struct SumLine<'a> {
    line: &'a Line,
    channels: usize,
    source: &'a [f32],
    weight: &'a [f32],
    target: Target,
    out: &'a mut [f32],
}

impl WithSimd for SumLine<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let inside = self.line.inside();
        for position in (0..inside.start).chain(inside.end..self.line.count) {
            for (channel, lanes) in vectors::<S>(self.channels) {
                let mut sum = self.start(simd, position, channel, lanes);
                for tap in &self.line.taps {
                    if let Some(pixel) = self.line.reads(tap, position) {
                        let x = load(simd, self.source, pixel * self.channels + channel, lanes);
                        let w = load(simd, self.weight, tap.weight * self.channels + channel, lanes);
                        sum = simd.mul_add_e_f32s(x, w, sum);
                    }
                }
                self.finish(simd, position, channel, lanes, sum);
            }
        }
        // Channels inside: pixels are then read as they lie in memory.
        let mut position = inside.start;
        while position < inside.end {
            let together = if position + TOGETHER <= inside.end { TOGETHER } else { 1 };
            for (channel, lanes) in vectors::<S>(self.channels) {
                if together == TOGETHER {
                    self.block::<S, TOGETHER>(simd, position, channel, lanes);
                } else {
                    self.block::<S, 1>(simd, position, channel, lanes);
                }
            }
            position += together;
        }
    }
}

impl SumLine<'_> {
    #[inline(always)]
    fn start<S: Simd>(&self, simd: S, position: usize, channel: usize, lanes: usize) -> S::f32s {
        let at = (self.target.first + position * self.target.step) * self.channels + channel;
        if self.target.accumulate { load(simd, self.out, at, lanes) } else { simd.splat_f32s(0.0) }
    }

    #[inline(always)]
    fn finish<S: Simd>(&mut self, simd: S, position: usize, channel: usize, lanes: usize, sum: S::f32s) {
        let at = (self.target.first + position * self.target.step) * self.channels + channel;
        store(simd, self.out, at, lanes, sum);
    }

    /// Sums `P` positions for which every tap lies inside.
    #[inline(always)]
    fn block<S: Simd, const P: usize>(&mut self, simd: S, position: usize, channel: usize, lanes: usize) {
        let mut sums = [simd.splat_f32s(0.0); P];
        for p in 0..P {
            sums[p] = self.start(simd, position + p, channel, lanes);
        }
        let stride = self.line.step * self.channels;
        for tap in &self.line.taps {
            let pixel = tap.line + (tap.first + (position * self.line.step) as isize) as usize;
            let source = &self.source[pixel * self.channels + channel..][..(P - 1) * stride + lanes];
            let w = load(simd, self.weight, tap.weight * self.channels + channel, lanes);
            for p in 0..P {
                sums[p] = simd.mul_add_e_f32s(load(simd, source, p * stride, lanes), w, sums[p]);
            }
        }
        for p in 0..P {
            self.finish(simd, position + p, channel, lanes, sums[p]);
        }
    }
}

/// The taps that line `y` of an image's output reads.
fn forward_line(shape: &Shape, image: usize, y: usize) -> Line {
    let rows = (0..shape.kernel[0]).filter_map(|ky| Some((ky, shape.source(0, y, ky)?)));
    let taps = rows.flat_map(|(ky, row)| {
        (0..shape.kernel[1]).map(move |kx| Tap {
            line: (image * shape.input[0] + row) * shape.input[1],
            first: (kx * shape.dilation[1]) as isize - shape.padding[1] as isize,
            weight: ky * shape.kernel[1] + kx,
        })
    });
    Line { taps: taps.collect(), step: shape.stride[1], source_len: shape.input[1], count: shape.output[1] }
}

pub(super) fn forward(
    level: Level,
    shape: &Shape,
    input: &[f32],
    weight: &[f32],
    epilogue: Epilogue,
    output: &mut [f32],
) {
    let channels = shape.in_channels;
    let row_len = shape.output[1] * channels;
    output.par_chunks_mut(row_len).enumerate().for_each(|(row, out)| {
        let line = forward_line(shape, row / shape.output[0], row % shape.output[0]);
        let target = Target { first: 0, step: 1, accumulate: false };
        level.run(SumLine { line: &line, channels, source: input, weight, target, out });
        dispatch(
            #[inline(always)]
            || epilogue.apply(row * row_len, channels, out),
        );
    });
}

/// The lines of the output's gradient that reach line `y` of an image's input, for the columns of one residue of the stride.
fn backward_line(shape: &Shape, image: usize, y: usize, first_column: usize) -> Line {
    // The output position that reads `at` through a tap: a whole number, or none.
    let reader = |axis: usize, at: usize, tap: usize| {
        let from = (at + shape.padding[axis]) as isize - (tap * shape.dilation[axis]) as isize;
        let stride = shape.stride[axis] as isize;
        (from.rem_euclid(stride) == 0).then_some(from.div_euclid(stride))
    };
    let mut taps = Vec::new();
    for ky in 0..shape.kernel[0] {
        let row = reader(0, y, ky).filter(|&row| row >= 0 && (row as usize) < shape.output[0]);
        let Some(row) = row else { continue };
        for kx in 0..shape.kernel[1] {
            if let Some(first) = reader(1, first_column, kx) {
                let line = (image * shape.output[0] + row as usize) * shape.output[1];
                taps.push(Tap { line, first, weight: ky * shape.kernel[1] + kx });
            }
        }
    }
    let count = (shape.input[1] - first_column).div_ceil(shape.stride[1]);
    Line { taps, step: 1, source_len: shape.output[1], count }
}

pub(super) fn backward_input(
    level: Level,
    shape: &Shape,
    grad_output: &[f32],
    weight: &[f32],
    accumulate: bool,
    grad_input: &mut [f32],
) {
    let channels = shape.in_channels;
    grad_input.par_chunks_mut(shape.input[1] * channels).enumerate().for_each(|(row, out)| {
        for first in 0..shape.stride[1].min(shape.input[1]) {
            let line = backward_line(shape, row / shape.input[0], row % shape.input[0], first);
            let target = Target { first, step: shape.stride[1], accumulate };
            level.run(SumLine { line: &line, channels, source: grad_output, weight, target, out });
        }
    });
}

/// Rows of the output that one partial sum of the weight's gradient covers.
const ROWS_PER_PIECE: usize = 8;

/// Taps summed together, and positions.
const TAPS: usize = 3;
const POSITIONS: usize = 4;

/// Positions whose pixels are read from memory once, for all taps.
const STRETCH: usize = 4 * POSITIONS;

/// Adds one line's products of input and output gradient to the sums of each tap.
struct SumTaps<'a> {
    line: &'a Line,
    channels: usize,
    input: &'a [f32],
    /// The line of the output's gradient.
    grad: &'a [f32],
    sums: &'a mut [f32],
}

impl WithSimd for SumTaps<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let inside = self.line.inside();
        let blocks = inside.len() / POSITIONS * POSITIONS;
        for position in (0..inside.start).chain(inside.start + blocks..self.line.count) {
            for tap in &self.line.taps {
                let Some(pixel) = self.line.reads(tap, position) else { continue };
                for (channel, lanes) in vectors::<S>(self.channels) {
                    let x = load(simd, self.input, pixel * self.channels + channel, lanes);
                    let g = load(simd, self.grad, position * self.channels + channel, lanes);
                    let at = tap.weight * self.channels + channel;
                    let sum = load(simd, self.sums, at, lanes);
                    store(simd, self.sums, at, lanes, simd.mul_add_e_f32s(x, g, sum));
                }
            }
        }
        for first in (inside.start..inside.start + blocks).step_by(STRETCH) {
            let count = STRETCH.min(inside.start + blocks - first);
            for (channel, lanes) in vectors::<S>(self.channels) {
                let mut taps = self.line.taps.chunks_exact(TAPS);
                for taps in &mut taps {
                    self.block::<S, TAPS>(simd, taps, first, count, channel, lanes);
                }
                for tap in taps.remainder() {
                    self.block::<S, 1>(simd, std::slice::from_ref(tap), first, count, channel, lanes);
                }
            }
        }
    }
}

impl SumTaps<'_> {
    /// Sums `T` taps over `count` positions, for which every tap lies inside.
    #[inline(always)]
    fn block<S: Simd, const T: usize>(
        &mut self,
        simd: S,
        taps: &[Tap],
        first: usize,
        count: usize,
        channel: usize,
        lanes: usize,
    ) {
        let step = self.line.step;
        let mut sums = [[simd.splat_f32s(0.0); POSITIONS]; T];
        for position in (first..first + count).step_by(POSITIONS) {
            let mut grads = [simd.splat_f32s(0.0); POSITIONS];
            for p in 0..POSITIONS {
                grads[p] = load(simd, self.grad, (position + p) * self.channels + channel, lanes);
            }
            for t in 0..T {
                let pixel = taps[t].line + (taps[t].first + (position * step) as isize) as usize;
                for p in 0..POSITIONS {
                    let x = load(simd, self.input, (pixel + p * step) * self.channels + channel, lanes);
                    sums[t][p] = simd.mul_add_e_f32s(x, grads[p], sums[t][p]);
                }
            }
        }
        for t in 0..T {
            let at = taps[t].weight * self.channels + channel;
            let mut sum = load(simd, self.sums, at, lanes);
            for p in 0..POSITIONS {
                sum = simd.add_f32s(sum, sums[t][p]);
            }
            store(simd, self.sums, at, lanes, sum);
        }
    }
}

pub(super) fn backward_weight(
    level: Level,
    shape: &Shape,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
) {
    let channels = shape.in_channels;
    let row_len = shape.output[1] * channels;
    let partial: Vec<Vec<f32>> = grad_output
        .par_chunks(ROWS_PER_PIECE * row_len)
        .enumerate()
        .map(|(piece, grads)| {
            let mut sums = vec![0.0; grad_weight.len()];
            for (i, grad) in grads.chunks_exact(row_len).enumerate() {
                let row = piece * ROWS_PER_PIECE + i;
                let line = forward_line(shape, row / shape.output[0], row % shape.output[0]);
                level.run(SumTaps { line: &line, channels, input, grad, sums: &mut sums });
            }
            sums
        })
        .collect();
    grad_weight.fill(0.0);
    for sums in &partial {
        for (g, &s) in grad_weight.iter_mut().zip(sums) {
            *g += s;
        }
    }
}

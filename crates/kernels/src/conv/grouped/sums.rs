//! Grouped forward pass and input gradient: sums of spread pixels times taps.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::{SourceRegion, lines_per_strip};
use crate::Memory;
use crate::conv::patches::{Patches, Residue};
use crate::conv::{Epilogue, Shape};
use crate::rows::{Threads, with_scratch};
use crate::simd::{Level, dispatch};
use crate::vector::{load, store};

/// A grouped convolution, whose result is one part per residue of the stride.
struct GroupedSum<'a> {
    level: Level,
    /// Channels per group.
    width: usize,
    channels: usize,
    parts: &'a [Residue],
    /// Vertical and horizontal distance between the results of one part.
    stride: [usize; 2],
    /// Height and width of the result.
    size: [usize; 2],
    source: &'a [f32],
    /// The packed weight, `[parts][vectors of channels][taps, width, lanes]`.
    weight: &'a [f32],
    accumulate: bool,
    epilogue: Epilogue<'a>,
}

/// The forward pass has a single part: all output pixels.
fn forward_parts(shape: &Shape) -> [Residue; 1] {
    [Residue { first: [0, 0], taps: (0..shape.taps()).collect(), patches: Patches::of_input(shape) }]
}

/// Packs the weight for [`forward`]; returns its number of elements.
pub(in crate::conv) fn pack_forward(level: Level, shape: &Shape, weight: &[f32], out: &mut Memory) -> usize {
    let width = shape.in_per_group();
    pack(level, shape, &forward_parts(shape), out, |tap, i, channel| {
        weight[(tap * width + i) * shape.out_channels + channel]
    })
}

/// Packs the weight for [`backward_input`]; returns its number of elements.
pub(in crate::conv) fn pack_backward(level: Level, shape: &Shape, weight: &[f32], out: &mut Memory) -> usize {
    let width = shape.in_per_group();
    pack(level, shape, &Residue::all(shape), out, |tap, i, channel| {
        weight[(tap * width + channel % width) * shape.out_channels + channel / width * width + i]
    })
}

/// Packs `value(tap, input of the group, channel of the result)`, with zeros in missing lanes.
fn pack(
    level: Level,
    shape: &Shape,
    parts: &[Residue],
    out: &mut Memory,
    value: impl Fn(usize, usize, usize) -> f32,
) -> usize {
    let (width, channels, lanes) = (shape.in_per_group(), shape.in_channels, level.lanes());
    let len = shape.taps() * width * channels.next_multiple_of(lanes);
    out.reserve(len);
    let mut vectors = out[..len].chunks_exact_mut(lanes);
    for part in parts {
        for first in (0..channels).step_by(lanes) {
            for &tap in &part.taps {
                for i in 0..width {
                    let vector = vectors.next().expect("a vector for each block, tap and input");
                    for (lane, out) in vector.iter_mut().enumerate() {
                        *out = if first + lane < channels { value(tap, i, first + lane) } else { 0.0 };
                    }
                }
            }
        }
    }
    len
}

/// The grouped [`forward`](crate::conv::forward).
pub(in crate::conv) fn forward(
    threads: Threads,
    level: Level,
    shape: &Shape,
    input: &[f32],
    weight: &[f32],
    epilogue: Epilogue,
    output: &mut [f32],
) {
    let sum = GroupedSum {
        level,
        width: shape.in_per_group(),
        channels: shape.out_channels,
        parts: &forward_parts(shape),
        stride: [1, 1],
        size: shape.output,
        source: input,
        weight,
        accumulate: false,
        epilogue,
    };
    sum.run(threads, output);
}

/// The grouped [`backward_input`](crate::conv::backward_input).
pub(in crate::conv) fn backward_input(
    level: Level,
    shape: &Shape,
    grad_output: &[f32],
    weight: &[f32],
    accumulate: bool,
    grad_input: &mut [f32],
) {
    let sum = GroupedSum {
        level,
        width: shape.in_per_group(),
        channels: shape.in_channels,
        parts: &Residue::all(shape),
        stride: shape.stride,
        size: shape.input,
        source: grad_output,
        weight,
        accumulate,
        epilogue: Epilogue::NONE,
    };
    sum.run(Threads::Pool, grad_input);
}

impl GroupedSum<'_> {
    fn run(&self, threads: Threads, out: &mut [f32]) {
        let [height, width] = self.size;
        let line_len = width * self.channels;
        let lines = lines_per_strip(&self.parts[0].patches, self.width, self.level.lanes());
        let strip = lines * self.stride[0] * line_len;
        let image_len = height * line_len;
        let strips: Vec<_> = out.chunks_mut(image_len).flat_map(|image| image.chunks_mut(strip)).collect();
        let per_image = image_len.div_ceil(strip);
        threads.for_each(strips.into_par_iter().enumerate(), |(i, out)| {
            let (image, first_line) = (i / per_image, i % per_image * lines);
            let start = image * image_len + first_line * self.stride[0] * line_len;
            let region = &self.region(first_line, lines);
            // Outside `Level::run`, because a closure inside would be compiled without the level's vectors.
            with_scratch(region.pixels() * self.width * self.level.lanes(), |spread| {
                self.level.run(StripSum { sum: self, region, spread, image, first_line, lines, start, out });
            });
            dispatch(
                #[inline(always)]
                || self.epilogue.gather_rows(start, self.channels, out),
            );
        });
    }

    /// The region that some lines of positions of all parts read.
    fn region(&self, first: usize, lines: usize) -> SourceRegion {
        let parts = self.parts.iter().map(|part| &part.patches);
        SourceRegion::of(parts.map(|patches| (patches, first..(first + lines).min(patches.positions[0]))))
    }
}

/// Computes a strip of an image's lines.
struct StripSum<'a> {
    sum: &'a GroupedSum<'a>,
    region: &'a SourceRegion,
    /// Buffer for the region's spread pixels of one vector of channels.
    spread: &'a mut [f32],
    image: usize,
    /// First line of positions of each part, and number of lines.
    first_line: usize,
    lines: usize,
    /// First element of `out` in the whole result.
    start: usize,
    out: &'a mut [f32],
}

impl WithSimd for StripSum<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        match self.sum.width {
            2 => self.run::<S, 2>(simd),
            4 => self.run::<S, 4>(simd),
            _ => self.run::<S, 8>(simd),
        }
    }
}

impl StripSum<'_> {
    /// Computes the strip with `W` channels per group.
    #[inline(always)]
    fn run<S: Simd, const W: usize>(&mut self, simd: S) {
        let GroupedSum { parts, channels, source, weight, .. } = *self.sum;
        let map = &parts[0].patches;
        let image_len = map.map[0] * map.map[1] * map.map_channels;
        let image = &source[self.image * image_len..][..image_len];
        self.region.fetch(image, map);
        for first in (0..channels).step_by(S::F32_LANES) {
            self.region.spread::<S, W>(image, map, first, self.spread);
            let (mut place, block) = (0, first / S::F32_LANES);
            for part in parts {
                let len = part.taps.len() * W * S::F32_LANES;
                let block = &weight[place + block * len..][..len];
                place += channels.div_ceil(S::F32_LANES) * len;
                for line in self.first_line..(self.first_line + self.lines).min(part.patches.positions[0]) {
                    self.line::<S, W>(simd, LineTask { part, weight: block, channel: first, line });
                }
            }
        }
    }

    /// Computes one line of positions.
    #[inline(always)]
    fn line<S: Simd, const W: usize>(&mut self, simd: S, at: LineTask) {
        // The step is a constant of the tiles.
        match at.part.patches.step[1] {
            1 => self.tiles::<S, W, 1>(simd, at),
            _ => self.tiles::<S, W, 2>(simd, at),
        }
    }

    /// Computes one line of positions in tiles.
    #[inline(always)]
    fn tiles<S: Simd, const W: usize, const STEP: usize>(&mut self, simd: S, at: LineTask) {
        let columns = at.part.patches.positions[1];
        let mut column = 0;
        while column < columns {
            let left = columns - column;
            column += match left {
                12.. => self.tile::<S, W, STEP, 12>(simd, at, column),
                8.. => self.tile::<S, W, STEP, 8>(simd, at, column),
                4.. => self.tile::<S, W, STEP, 4>(simd, at, column),
                2.. => self.tile::<S, W, STEP, 2>(simd, at, column),
                _ => self.tile::<S, W, STEP, 1>(simd, at, column),
            };
        }
    }

    /// Computes `P` positions from `column` on, whose sums stay in registers; returns `P`.
    #[inline(always)]
    fn tile<S: Simd, const W: usize, const STEP: usize, const P: usize>(
        &mut self,
        simd: S,
        at: LineTask,
        column: usize,
    ) -> usize {
        let GroupedSum { channels, stride, size, epilogue, accumulate, .. } = *self.sum;
        let LineTask { part, weight, channel, line } = at;
        let lanes = S::F32_LANES.min(channels - channel);
        let bias = epilogue.bias.map_or(simd.splat_f32s(0.0), |bias| load(simd, bias, channel, lanes));
        let mut sums = [bias; P];
        let (pixels, taps) = (S::as_simd_f32s(self.spread).0, S::as_simd_f32s(weight).0);
        for (tap, &offset) in part.patches.offsets.iter().enumerate() {
            let first = self.region.pixel(&part.patches, [line, column], offset) * W;
            add_tap::<S, W, STEP, P>(simd, &pixels[first..], &taps[tap * W..], &mut sums);
        }
        let y = (line - self.first_line) * stride[0] + part.first[0];
        for p in 0..P {
            let x = (column + p) * stride[1] + part.first[1];
            let place = (y * size[1] + x) * channels + channel;
            if accumulate {
                sums[p] = simd.add_f32s(sums[p], load(simd, self.out, place, lanes));
            }
            if let Some(residual) = epilogue.residual {
                sums[p] = simd.add_f32s(sums[p], load(simd, residual, self.start + place, lanes));
            }
            store(simd, self.out, place, lanes, epilogue.activation.value_vector(simd, sums[p]));
        }
        P
    }
}

/// Adds the products of a tap with the pixels that `P` positions read through it.
#[inline(always)]
fn add_tap<S: Simd, const W: usize, const STEP: usize, const P: usize>(
    simd: S,
    pixels: &[S::f32s],
    taps: &[S::f32s],
    sums: &mut [S::f32s; P],
) {
    // Constant lengths, so that the loops need no bounds checks.
    let (pixels, taps) = (&pixels[..(P - 1) * STEP * W + W], &taps[..W]);
    let mut acc = *sums;
    for i in 0..W {
        for p in 0..P {
            acc[p] = simd.mul_add_e_f32s(pixels[p * STEP * W + i], taps[i], acc[p]);
        }
    }
    *sums = acc;
}

/// A line of positions, for one vector of channels.
#[derive(Clone, Copy)]
struct LineTask<'a> {
    part: &'a Residue,
    /// The packed weight of the part and vector, `[taps, width, lanes]`.
    weight: &'a [f32],
    channel: usize,
    line: usize,
}

//! Grouped weight gradient: for each tap and input of the group, the sum over positions of spread input times output
//! gradient.

use pulp::{Simd, WithSimd};

use super::{SourceRegion, lines_per_strip};
use crate::conv::Shape;
use crate::conv::patches::Patches;
use crate::prefetch;
use crate::rows::{reduce_pieces, with_scratch};
use crate::simd::Level;
use crate::vector::{load, store};

/// Most pieces that the batch is split into; each sums a gradient of its own.
const PIECES: usize = 16;

/// The grouped [`backward_weight`](crate::conv::backward_weight).
pub(in crate::conv) fn backward_weight(
    level: Level,
    shape: &Shape,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
) {
    let patches = &Patches::of_input(shape);
    let lines = lines_per_strip(patches, shape.in_per_group(), level.lanes());
    let per_image = shape.output[0].div_ceil(lines);
    let strips = shape.n * per_image;
    let total = reduce_pieces(strips, strips.div_ceil(PIECES), grad_weight.len(), |first, count, sums| {
        for strip in first..first + count {
            let (image, line) = (strip / per_image, strip % per_image * lines);
            let lines = line..(line + lines).min(shape.output[0]);
            let region = &SourceRegion::of([(patches, lines.clone())].into_iter());
            // Outside `Level::run`, because a closure inside would be compiled without the level's vectors.
            with_scratch(region.pixels() * shape.in_per_group() * level.lanes(), |spread| {
                level.run(StripGradient {
                    shape,
                    patches,
                    region,
                    spread,
                    input,
                    grad_output,
                    image,
                    lines,
                    sums: &mut *sums,
                });
            });
        }
    });
    for (g, s) in grad_weight.iter_mut().zip(total) {
        *g = s as f32;
    }
}

/// Adds the products of a strip of an image's lines to the sums, `[taps, width, channels]`.
struct StripGradient<'a> {
    shape: &'a Shape,
    patches: &'a Patches,
    region: &'a SourceRegion,
    /// Buffer for the region's spread pixels of one vector of channels.
    spread: &'a mut [f32],
    input: &'a [f32],
    grad_output: &'a [f32],
    image: usize,
    lines: std::ops::Range<usize>,
    sums: &'a mut [f32],
}

impl WithSimd for StripGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        // As many taps at a time as the registers hold sums for.
        match self.shape.in_per_group() {
            2 => self.run::<S, 2, 3>(simd),
            4 => self.run::<S, 4, 3>(simd),
            _ => self.run::<S, 8, 1>(simd),
        }
    }
}

impl StripGradient<'_> {
    /// Adds the strip's products, with `W` channels per group and `TAPS` taps at a time.
    #[inline(always)]
    fn run<S: Simd, const W: usize, const TAPS: usize>(&mut self, simd: S) {
        let channels = self.shape.out_channels;
        let image_len = self.shape.input[0] * self.shape.input[1] * channels;
        let image = &self.input[self.image * image_len..][..image_len];
        self.region.fetch(image, self.patches);
        let line_len = self.shape.output[1] * channels;
        let first = self.image * self.shape.output[0] + self.lines.start;
        prefetch::touch(&self.grad_output[first * line_len..][..self.lines.len() * line_len]);
        for channel in (0..channels).step_by(S::F32_LANES) {
            self.region.spread::<S, W>(image, self.patches, channel, self.spread);
            for line in self.lines.clone() {
                let mut tap = 0;
                while tap + TAPS <= self.shape.taps() {
                    self.tile::<S, W, TAPS>(simd, [line, channel, tap]);
                    tap += TAPS;
                }
                for tap in tap..self.shape.taps() {
                    self.tile::<S, W, 1>(simd, [line, channel, tap]);
                }
            }
        }
    }

    /// Adds the products of `TAPS` taps from `tap` on; their sums over a line of positions stay in registers.
    #[inline(always)]
    fn tile<S: Simd, const W: usize, const TAPS: usize>(&mut self, simd: S, [line, channel, tap]: [usize; 3]) {
        let Shape { output: [height, width], out_channels: channels, .. } = *self.shape;
        let lanes = S::F32_LANES.min(channels - channel);
        let grad = &self.grad_output[(self.image * height + line) * width * channels..][..width * channels];
        let pixels = S::as_simd_f32s(self.spread).0;
        let step = self.patches.step[1] * W;
        let mut taps = [pixels; TAPS];
        for t in 0..TAPS {
            taps[t] = &pixels[self.region.pixel(self.patches, [line, 0], self.patches.offsets[tap + t]) * W..];
        }
        let mut sums = [[simd.splat_f32s(0.0); W]; TAPS];
        for column in 0..width {
            let g = load(simd, grad, column * channels + channel, lanes);
            for t in 0..TAPS {
                let pixel = &taps[t][column * step..][..W];
                for i in 0..W {
                    sums[t][i] = simd.mul_add_e_f32s(pixel[i], g, sums[t][i]);
                }
            }
        }
        for t in 0..TAPS {
            for i in 0..W {
                let at = ((tap + t) * W + i) * channels + channel;
                let sum = load(simd, self.sums, at, lanes);
                store(simd, self.sums, at, lanes, simd.add_f32s(sum, sums[t][i]));
            }
        }
    }
}

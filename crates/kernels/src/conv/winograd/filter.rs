//! Transformation of the weight.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::maps::Points;
use super::transforms::{Filter, POINTS, SIDE, Source, TAPS, in_both, unrolled};
use crate::Memory;
use crate::conv::Shape;
use crate::simd::Level;
use crate::tile::Panels;
use crate::transpose::to_columns;
use crate::vector::{for_each_vector, load, vectors};

/// The taps of one vector of filters, `step` apart.
struct Taps<'a> {
    weight: &'a [f32],
    step: usize,
    at: usize,
    lanes: usize,
}

impl<S: Simd> Source<S, TAPS> for Taps<'_> {
    #[inline(always)]
    fn column(&self, simd: S, j: usize) -> [S::f32s; TAPS] {
        let mut values = [simd.splat_f32s(0.0); TAPS];
        unrolled!(i in 0..TAPS {
            values[i] = load(simd, self.weight, (i * TAPS + j) * self.step + self.at, self.lanes);
        });
        values
    }
}

/// Transforms the weight of one panel of output channels to `[36, in, stride]`.
pub(super) struct TransformFilter<'a> {
    /// Shape of the convolution to compute, with the flipped filter if it is `flipped`.
    pub shape: &'a Shape,
    /// `[3, 3, in, out]`, or `[3, 3, out, in]` if it is to be `flipped`.
    pub weight: &'a [f32],
    pub flipped: bool,
    pub panels: Panels,
    pub panel: usize,
    pub out: &'a mut [f32],
}

impl TransformFilter<'_> {
    /// A plain function around [`Level::run`], which is always inlined, so that the kernel is compiled once for all callers.
    pub fn run(self, level: Level) {
        level.run(self);
    }
}

impl WithSimd for TransformFilter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { shape, weight, panels, .. } = self;
        let (inputs, outputs) = (shape.in_channels, shape.out_channels);
        let first = self.panel * panels.width;
        let columns = panels.width.min(outputs - first);
        let plane = inputs * panels.stride;
        if !self.flipped {
            for input in 0..inputs {
                for_each_vector!(S, columns, |column, lanes| {
                    let (step, at) = (inputs * outputs, input * outputs + first + column);
                    let taps = Taps { weight, step, at, lanes };
                    let mut points = Points { data: &mut *self.out, plane, at: input * panels.stride + column };
                    in_both::<S, Filter, TAPS, SIDE>(simd, &taps, &mut points);
                });
            }
            return;
        }
        // The weight is `[taps, outputs, inputs]` for this convolution, so each block is transposed first. Lanes beyond the
        // last column keep values of an earlier block; their results are not read.
        const BLOCK: usize = 16;
        let mut block = vec![0.0; TAPS * TAPS * BLOCK * S::F32_LANES];
        for start in (0..inputs).step_by(BLOCK) {
            let count = BLOCK.min(inputs - start);
            for (column, lanes) in vectors::<S>(columns) {
                for tap in 0..TAPS * TAPS {
                    let block = &mut block[(TAPS * TAPS - 1 - tap) * BLOCK * S::F32_LANES..][..BLOCK * S::F32_LANES];
                    let from = |lane: usize| &weight[(tap * outputs + first + column + lane) * inputs + start..];
                    to_columns(lanes, from, count, S::F32_LANES, block);
                }
                for i in 0..count {
                    let (step, at) = (BLOCK * S::F32_LANES, i * S::F32_LANES);
                    let taps = Taps { weight: &block, step, at, lanes: S::F32_LANES };
                    let at = (start + i) * panels.stride + column;
                    in_both::<S, Filter, TAPS, SIDE>(simd, &taps, &mut Points { data: &mut *self.out, plane, at });
                }
            }
        }
    }
}

/// Transforms the weight for a convolution of this shape to `[panels, 36, in, stride]`; returns its number of elements.
///
/// `weight` is `[3, 3, in, out]`, or `[3, 3, out, in]` if it is to be `flipped`.
pub(in crate::conv) fn transform_filter(
    level: Level,
    shape: &Shape,
    weight: &[f32],
    flipped: bool,
    out: &mut Memory,
) -> usize {
    let panels = Panels::new(level, POINTS * shape.in_channels, shape.out_channels);
    let len = panels.count(shape.out_channels) * panels.step;
    out.reserve(len);
    out[..len].par_chunks_mut(panels.step).enumerate().for_each(|(panel, out)| {
        TransformFilter { shape, weight, flipped, panels, panel, out }.run(level);
    });
    len
}

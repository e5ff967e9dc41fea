//! The weight in the transformed domain.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::maps::Points;
use super::transforms::{Filter, POINTS, SIDE, Source, TAPS, in_both, unrolled};
use crate::Memory;
use crate::conv::Shape;
use crate::simd::Level;
use crate::tile::Panels;
use crate::transpose::to_columns;
use crate::vector::{load, vectors};

/// A vector of filters, their taps `step` apart.
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

/// The transformed weight of one panel of output channels: `[36, in, stride]`.
pub(super) struct TransformFilter<'a> {
    /// The convolution that is computed, with the filter already turned around if it is.
    pub shape: &'a Shape,
    /// `[3, 3, in, out]`, or, to be `turned` around, `[3, 3, out, in]`.
    pub weight: &'a [f32],
    pub turned: bool,
    pub panels: Panels,
    pub panel: usize,
    pub out: &'a mut [f32],
}

impl TransformFilter<'_> {
    /// Runs it. A function, so that its code is compiled once however many call it.
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
        if !self.turned {
            for input in 0..inputs {
                for (column, lanes) in vectors::<S>(columns) {
                    let (step, at) = (inputs * outputs, input * outputs + first + column);
                    let mut points = Points { data: &mut *self.out, plane, at: input * panels.stride + column };
                    // Twice, so that the number of lanes of all but the last vector is known where it is compiled.
                    if lanes == S::F32_LANES {
                        let taps = Taps { weight, step, at, lanes: S::F32_LANES };
                        in_both::<S, Filter, TAPS, SIDE>(simd, &taps, &mut points);
                    } else {
                        let taps = Taps { weight, step, at, lanes };
                        in_both::<S, Filter, TAPS, SIDE>(simd, &taps, &mut points);
                    }
                }
            }
            return;
        }
        // The weight is `[taps, outputs, inputs]` for this convolution: a block is transposed on the way. Lanes beyond
        // the last column keep what an earlier block left; nothing reads what they give.
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

/// Transforms the weight for a convolution of this shape: `[panels, 36, in, stride]`; returns how many elements that is.
///
/// `weight` is `[3, 3, in, out]`, or, to be `turned` around, `[3, 3, out, in]`.
pub(in crate::conv) fn transform_filter(
    level: Level,
    shape: &Shape,
    weight: &[f32],
    turned: bool,
    out: &mut Memory,
) -> usize {
    let panels = Panels::new(level, POINTS * shape.in_channels, shape.out_channels);
    let len = panels.count(shape.out_channels) * panels.step;
    out.reserve(len);
    out[..len].par_chunks_mut(panels.step).enumerate().for_each(|(panel, out)| {
        TransformFilter { shape, weight, turned, panels, panel, out }.run(level);
    });
    len
}

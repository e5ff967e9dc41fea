//! Weight gradient of the direct algorithm: the transposed patch matrix times the output gradient.

use rayon::prelude::*;

use crate::Precision;
use crate::bf16::pair_all_rows;
use crate::conv::Shape;
use crate::conv::patches::Patches;
use crate::epilogue::TileEpilogue;
use crate::rows::{rows_per_piece, with_scratch};
use crate::simd::Level;
use crate::tile::{Panels, Product, RowOffsets, Rows};

/// Pixels per product.
const PIXELS: usize = 128;

/// Columns of the patch matrix that are gathered at a time.
const COLUMNS: usize = 256;

/// Most elements of a small gradient. A small one is split by batch, a larger one by its own rows.
const SMALL: usize = 128 * 1024;

/// Most parts of a batch.
const PARTS: usize = 16;

/// Sums the products of some pixels into some rows of one group's gradient.
struct PartialGradient<'a> {
    level: Level,
    precision: Precision,
    shape: &'a Shape,
    patches: &'a Patches,
    input: &'a [f32],
    grad_output: &'a [f32],
    group: usize,
    pixels: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
    scratch: &'a mut [f32],
    out: &'a mut [f32],
}

/// Distance between the gathered rows of two pixels: an odd number of cache lines, so that neighbours do not share cache
/// sets.
fn panel_stride(columns: usize) -> usize {
    (columns.div_ceil(16) | 1) * 16
}

/// Scratch elements for a [`PartialGradient`].
fn scratch_len(level: Level, shape: &Shape) -> usize {
    let panels = Panels::new(level, PIXELS, shape.out_per_group());
    // Includes room for bfloat16 pairs.
    PIXELS * 3 / 2 * panel_stride(COLUMNS)
        + PIXELS / 2 * shape.out_channels
        + panels.count(shape.out_per_group()) * panels.step
}

impl PartialGradient<'_> {
    fn run(self) {
        let (n, channels) = (self.shape.out_per_group(), self.shape.out_channels);
        let panels = Panels::new(self.level, PIXELS, n);
        let paired = self.precision == Precision::Bf16;
        let (panel, scratch) = self.scratch.split_at_mut(PIXELS * panel_stride(COLUMNS));
        let (words, scratch) = scratch.split_at_mut(if paired { PIXELS / 2 * panel_stride(COLUMNS) } else { 0 });
        let (row_words, packed) = scratch.split_at_mut(if paired { PIXELS / 2 * channels } else { 0 });
        for first in self.pixels.clone().step_by(PIXELS) {
            let count = PIXELS.min(self.pixels.end - first);
            let mut rows = &self.grad_output[first * channels..(first + count) * channels];
            // The products sum over pixels, so pixels are paired.
            let k = self.precision.words(count);
            if paired {
                pair_all_rows(rows, count, channels, channels, row_words);
                rows = &row_words[..k * channels];
            }
            let (b, panels) = if self.shape.groups == 1 {
                panels.of_rows(self.level, rows, n, packed)
            } else {
                panels.pack(n, rows.chunks_exact(channels).map(|row| &row[self.group * n..]), packed);
                (&*packed, panels)
            };
            for start in self.columns.clone().step_by(COLUMNS) {
                let columns = start..self.columns.end.min(start + COLUMNS);
                let stride = panel_stride(columns.len());
                let m = columns.len();
                let row = start - self.columns.start;
                let first_channel = self.group * self.shape.in_per_group();
                let runs = self.patches.runs(columns);
                self.patches.gather(self.input, first_channel, first..first + count, &runs, stride, panel);
                if paired {
                    pair_all_rows(panel, count, m, stride, words);
                }
                let product = Product {
                    m,
                    n,
                    k,
                    a: Rows::Strided { values: if paired { words } else { panel }, strides: [1, stride] },
                    b,
                    panels,
                    row_offsets: RowOffsets::Strided(channels),
                    accumulate: first > self.pixels.start,
                    epilogue: TileEpilogue::NONE,
                    precision: self.precision,
                };
                product.run(self.level, &mut self.out[row * channels + self.group * n..]);
            }
        }
    }
}

/// The direct [`backward_weight`](crate::conv::backward_weight).
pub(in crate::conv) fn backward_weight(
    level: Level,
    precision: Precision,
    shape: &Shape,
    input: &[f32],
    grad_output: &[f32],
    grad_weight: &mut [f32],
) {
    let patches = Patches::of_input(shape);
    let total = shape.output_pixels();
    let sum = |pixels: std::ops::Range<usize>, columns: std::ops::Range<usize>, out: &mut [f32]| {
        with_scratch(scratch_len(level, shape), |scratch| {
            for group in 0..shape.groups {
                let (pixels, columns) = (pixels.clone(), columns.clone());
                PartialGradient {
                    level,
                    precision,
                    shape,
                    patches: &patches,
                    input,
                    grad_output,
                    group,
                    pixels,
                    columns,
                    scratch,
                    out,
                }
                .run();
            }
        });
    };
    if grad_weight.len() <= SMALL {
        let part = total.div_ceil(PARTS).next_multiple_of(PIXELS);
        let parts: Vec<Vec<f32>> = (0..total.div_ceil(part))
            .into_par_iter()
            .map(|i| {
                let mut out = vec![0.0; grad_weight.len()];
                sum(i * part..total.min((i + 1) * part), 0..patches.columns(), &mut out);
                out
            })
            .collect();
        let piece = rows_per_piece(1);
        grad_weight.par_chunks_mut(piece).enumerate().for_each(|(i, grad)| {
            grad.fill(0.0);
            for part in &parts {
                grad.iter_mut().zip(&part[i * piece..]).for_each(|(g, &p)| *g += p);
            }
        });
    } else {
        let rows = patches.columns().div_ceil(16).clamp(48, COLUMNS).next_multiple_of(6);
        grad_weight.par_chunks_mut(rows * shape.out_channels).enumerate().for_each(|(i, out)| {
            sum(0..total, i * rows..i * rows + out.len() / shape.out_channels, out);
        });
    }
}

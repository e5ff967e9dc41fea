//! Convolution as a matrix product over patches, for every shape: strides, dilations, groups, any filter.
//!
//! A row of the patch matrix is a few contiguous runs of the map. The register [tile](crate::tile) reads them in place
//! (Dukhan, "The Indirect Convolution Algorithm", 2019); only runs that reach beyond the map's sides are copied. The whole
//! patch matrix, nine times the input for a 3x3 filter, is never built.

mod input_gradient;
mod weight_gradient;

use std::ops::Range;

use rayon::prelude::*;

use input_gradient::packed_residues;
pub(super) use input_gradient::{backward_input, pack_backward};
pub(super) use weight_gradient::backward_weight;

use super::filter::Form;
use super::patches::Patches;
use super::{Epilogue, Shape};
use crate::epilogue::TileEpilogue;
use crate::rows::{Threads, with_scratch};
use crate::simd::Level;
use crate::tile::{Panels, Product, ROWS, RowOffsets, Rows};
use crate::{Memory, Precision};

/// Most columns of the patch matrix per product: their weights stay in the second-level cache.
const COLUMNS: usize = 1024;

/// Runs shorter than this on average are gathered into whole rows, because the tile has a cost per run.
const SHORT: usize = 64;

/// Fewest elements of a large weight, and most pixels of a small batch. With both, the threads share the weight's panels
/// instead of the pixels, so that the weight is read only once.
const LARGE: usize = 1 << 19;
const FEW: usize = 512;

/// Most pixels per block.
const PIXELS: usize = 24 * ROWS;

/// Pixels per block: eight blocks or more where possible, so that small maps still use several cores.
fn pixels_per_block(pixels: usize) -> usize {
    pixels.div_ceil(8).next_multiple_of(ROWS).clamp(4 * ROWS, PIXELS)
}

/// The weight's rows for a product.
#[derive(Clone, Copy)]
enum PanelSource<'a> {
    /// All rows, packed.
    Packed(&'a [f32]),
    /// Packs some rows of one panel when they are used.
    PackOnUse(&'a dyn Fn(Range<usize>, &mut [f32])),
}

/// The product of the patches of some positions with one group's weight.
struct Multiply<'a> {
    level: Level,
    patches: &'a Patches,
    map: &'a [f32],
    first_channel: usize,
    positions: Range<usize>,
    /// The weight, `[columns, n]`.
    filter: PanelSource<'a>,
    panels: Panels,
    n: usize,
    row_offsets: RowOffsets<'a>,
    accumulate: bool,
    epilogue: TileEpilogue<'a>,
    precision: Precision,
}

impl Multiply<'_> {
    /// Writes the product to `out`; adds statistics to `sums` if the epilogue has pivots.
    fn run(self, out: &mut [f32], sums: &mut [f32]) {
        let total = self.patches.columns();
        let step = total.div_ceil(total.div_ceil(COLUMNS));
        for start in (0..total).step_by(step) {
            let k = step.min(total - start);
            let packed_len = if let PanelSource::PackOnUse(_) = self.filter { k * self.panels.stride } else { 0 };
            let runs = self.patches.runs(start..start + k);
            let is_short = k < SHORT * runs.len();
            let copies_len = match (self.patches.is_map(), is_short) {
                (true, _) => 0,
                (false, true) => self.positions.len() * k,
                (false, false) => self.positions.len() * k + k,
            };
            with_scratch(packed_len + copies_len, |scratch| {
                let (packed, copies) = scratch.split_at_mut(packed_len);
                let b = match self.filter {
                    PanelSource::Packed(filter) => &filter[start * self.panels.stride..],
                    PanelSource::PackOnUse(pack) => {
                        pack(start..start + k, packed);
                        packed
                    }
                };
                let mut product = |a: Rows| {
                    let product = Product {
                        m: self.positions.len(),
                        n: self.n,
                        k,
                        a,
                        b,
                        panels: self.panels,
                        row_offsets: self.row_offsets,
                        accumulate: self.accumulate || start > 0,
                        epilogue: if start + k == total { self.epilogue } else { TileEpilogue::NONE },
                        precision: self.precision,
                    };
                    product.run_and_sum(self.level, out, sums);
                };
                let (map, positions) = (self.map, self.positions.clone());
                if self.patches.is_map() {
                    let stride = self.patches.map_channels;
                    let values = &map[positions.start * stride + self.first_channel + start..];
                    product(Rows::Strided { values, strides: [stride, 1] });
                } else if is_short {
                    self.patches.gather(map, self.first_channel, positions, &runs, k, copies);
                    product(Rows::Strided { values: copies, strides: [k, 1] });
                } else {
                    let lens: Vec<usize> = runs.iter().map(|run| run.len).collect();
                    let slices = self.patches.rows(map, self.first_channel, positions, &runs, copies);
                    product(Rows::Pieces { slices: &slices, lens: &lens });
                }
            });
        }
    }
}

/// Layout of one group's packed weight for [`forward`].
fn forward_panels(level: Level, shape: &Shape) -> Panels {
    Panels::new(level, shape.taps() * shape.in_per_group(), shape.out_per_group())
}

/// Whether the threads share the weight's panels instead of the pixels.
fn is_weight_bound(patches: &Patches, n: usize, pixels: usize) -> bool {
    patches.columns() * n >= LARGE && pixels <= FEW
}

/// Whether [`forward`], or [`backward_input`] if `backward`, takes the raw weight and packs each panel when it is used.
pub(super) fn takes_raw_weight(level: Level, shape: &Shape, backward: bool) -> bool {
    if shape.groups > 1 {
        return false;
    }
    if !backward {
        return is_weight_bound(&Patches::of_input(shape), shape.out_channels, shape.output_pixels());
    }
    let (residues, _) = packed_residues(level, shape);
    let [height, width] = shape.input;
    residues.len() == 1 && is_weight_bound(&residues[0].residue.patches, shape.in_channels, shape.n * height * width)
}

/// Multiplies the patches of all pixels with a weight, panel by panel, and applies the epilogue.
///
/// `pack(weight, panel, rows, out)` packs some rows of one panel of a raw weight.
#[allow(clippy::too_many_arguments)] // sizes and slices of one product
fn multiply_by_panels(
    level: Level,
    precision: Precision,
    patches: &Patches,
    map: &[f32],
    filter: Form,
    pack: impl Fn(&[f32], usize, Range<usize>, &mut [f32]) + Sync,
    panels: Panels,
    n: usize,
    accumulate: bool,
    epilogue: Epilogue,
    out: &mut [f32],
) {
    let pixels = out.len() / n;
    let columns = |panel: usize| panels.width.min(n - panel * panels.width);
    with_scratch(panels.count(n) * pixels * panels.width, |parts| {
        parts.par_chunks_mut(pixels * panels.width).enumerate().for_each(|(panel, part)| {
            let packs: &dyn Fn(Range<usize>, &mut [f32]) = &|rows, out| match filter {
                Form::Raw(weight) => pack(weight, panel, rows, out),
                Form::Packed(_) => unreachable!("the weight is packed"),
            };
            let multiply = Multiply {
                level,
                patches,
                map,
                first_channel: 0,
                positions: 0..pixels,
                filter: match filter {
                    Form::Packed(filter) => PanelSource::Packed(&filter[panel * panels.step..]),
                    Form::Raw(_) => PanelSource::PackOnUse(packs),
                },
                panels,
                n: columns(panel),
                row_offsets: RowOffsets::Strided(panels.width),
                accumulate: false,
                epilogue: TileEpilogue::NONE,
                precision,
            };
            multiply.run(part, &mut []);
        });
        out.par_chunks_mut(ROWS * n).enumerate().for_each(|(i, out)| {
            for (row, out) in out.chunks_exact_mut(n).enumerate() {
                for (panel, out) in out.chunks_mut(panels.width).enumerate() {
                    let part = &parts[(panel * pixels + i * ROWS + row) * panels.width..][..out.len()];
                    if accumulate {
                        out.iter_mut().zip(part).for_each(|(o, &p)| *o += p);
                    } else {
                        out.copy_from_slice(part);
                    }
                }
            }
            epilogue.apply(i * ROWS * n, n, out);
        });
    });
}

/// Packs some rows, of `[taps, in]`, of one panel of a group's weight for [`forward`].
fn pack_rows(
    shape: &Shape,
    panels: Panels,
    weight: &[f32],
    [group, panel]: [usize; 2],
    rows: Range<usize>,
    out: &mut [f32],
) {
    let n = shape.out_per_group();
    let first = panel * panels.width;
    let columns = panels.width.min(n - first);
    let rows = weight.chunks_exact(shape.out_channels).take(rows.end).skip(rows.start);
    panels.pack(columns, rows.map(|row| &row[group * n + first..][..columns]), out);
}

/// Packs the weight for [`forward`]; returns its number of elements.
pub(super) fn pack_forward(level: Level, shape: &Shape, weight: &[f32], out: &mut Memory) -> usize {
    let panels = forward_panels(level, shape);
    let count = panels.count(shape.out_per_group());
    let len = shape.groups * count * panels.step;
    out.reserve(len);
    // One panel is one piece of work.
    out[..len].par_chunks_mut(panels.step).enumerate().for_each(|(i, out)| {
        pack_rows(shape, panels, weight, [i / count, i % count], 0..shape.taps() * shape.in_per_group(), out);
    });
    len
}

/// The direct [`forward`](crate::conv::forward), with a weight from [`pack_forward`] or a raw one.
///
/// With bfloat16, input and weight hold pairs of input channels, and `shape` counts pairs.
#[allow(clippy::too_many_arguments)] // threads, level, precision and the slices
pub(super) fn forward(
    threads: Threads,
    level: Level,
    precision: Precision,
    shape: &Shape,
    input: &[f32],
    filter: Form,
    epilogue: Epilogue,
    output: &mut [f32],
) {
    let patches = Patches::of_input(shape);
    let panels = forward_panels(level, shape);
    let n = shape.out_per_group();
    let group_len = panels.count(n) * panels.step;
    let channels = shape.out_channels;
    if threads == Threads::Pool && shape.groups == 1 && is_weight_bound(&patches, n, shape.output_pixels()) {
        let pack = |weight: &[f32], panel, rows, out: &mut [f32]| {
            pack_rows(shape, panels, weight, [0, panel], rows, out);
        };
        return multiply_by_panels(level, precision, &patches, input, filter, pack, panels, n, false, epilogue, output);
    }
    let filter = filter.packed();
    let block = match threads {
        Threads::Pool => pixels_per_block(shape.output_pixels()),
        Threads::Caller => PIXELS,
    };
    threads.for_each(output.par_chunks_mut(block * channels).enumerate(), |(i, output)| {
        let pixels = output.len() / channels;
        let first = i * block;
        let mut sums = epilogue.sums(channels);
        for (group, filter) in filter.chunks_exact(group_len).enumerate().take(shape.groups) {
            let multiply = Multiply {
                level,
                patches: &patches,
                map: input,
                first_channel: group * shape.in_per_group(),
                positions: first..first + pixels,
                filter: PanelSource::Packed(filter),
                panels,
                n,
                row_offsets: RowOffsets::Strided(channels),
                accumulate: false,
                epilogue: epilogue.tile(first * channels, group * n..(group + 1) * n),
                precision,
            };
            let mut part = epilogue.sums(n);
            multiply.run(&mut output[group * n..], &mut part);
            for (sums, part) in sums.chunks_mut(channels).zip(part.chunks(n)) {
                sums[group * n..][..n].copy_from_slice(part);
            }
        }
        epilogue.gathered(first, sums);
    });
}

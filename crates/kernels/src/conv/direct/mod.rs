//! Convolution as a matrix product over patches, for every shape: strides, dilations, groups, any filter.
//!
//! A row of the patch matrix is a few runs of neighbouring elements of the map. The register [tile](crate::tile) reads
//! them where they lie (Dukhan, "The Indirect Convolution Algorithm", 2019); only runs that reach over the map's sides
//! are copied. The whole patch matrix, nine times the input for a 3x3 filter, never exists.

mod patches;
mod weight_gradient;

use std::ops::Range;

use rayon::prelude::*;

pub(super) use weight_gradient::backward_weight;

use super::filter::Form;
use super::{Epilogue, Shape};
use crate::rows::{Threads, with_scratch};
use crate::simd::Level;
use crate::tile::{Finish, Panels, Places, Product, ROWS, Rows};
use crate::transpose::to_columns;
use crate::{Memory, Precision};
use patches::Patches;

/// Columns of the patch matrix that are multiplied at a time, at most: their weights stay in the second-level cache.
const COLUMNS: usize = 1024;

/// Runs that are shorter than this, on average, are gathered into whole rows: the tile takes a while to start a run.
const SHORT: usize = 64;

/// Elements of a weight from which on it is large, and pixels of a batch up to which there are few: then the weight's
/// panels are dealt out to the threads instead of the pixels, so that the weight is read only once.
const LARGE: usize = 1 << 19;
const FEW: usize = 512;

/// Pixels in a block, where there are many.
const PIXELS: usize = 24 * ROWS;

/// Pixels a block: at least eight blocks where there is enough to do, so that small maps still use several cores.
fn pixels_per_block(pixels: usize) -> usize {
    pixels.div_ceil(8).next_multiple_of(ROWS).clamp(4 * ROWS, PIXELS)
}

/// The rows of a weight, to multiply with.
#[derive(Clone, Copy)]
enum Weights<'a> {
    /// Packed.
    Packed(&'a [f32]),
    /// Some rows of one panel are packed where they are used.
    Packs(&'a dyn Fn(Range<usize>, &mut [f32])),
}

/// Multiplies the patches of some positions with one group's weight.
struct Multiply<'a> {
    level: Level,
    patches: &'a Patches,
    map: &'a [f32],
    first_channel: usize,
    positions: Range<usize>,
    /// `[columns, n]`.
    filter: Weights<'a>,
    panels: Panels,
    n: usize,
    places: Places<'a>,
    accumulate: bool,
    finish: Finish<'a>,
    precision: Precision,
}

impl Multiply<'_> {
    /// Adds to `sums` if `finish` says so.
    fn run(self, out: &mut [f32], sums: &mut [f32]) {
        let total = self.patches.columns();
        let step = total.div_ceil(total.div_ceil(COLUMNS));
        for start in (0..total).step_by(step) {
            let k = step.min(total - start);
            let packed_len = if let Weights::Packs(_) = self.filter { k * self.panels.stride } else { 0 };
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
                    Weights::Packed(filter) => &filter[start * self.panels.stride..],
                    Weights::Packs(pack) => {
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
                        places: self.places,
                        accumulate: self.accumulate || start > 0,
                        finish: if start + k == total { self.finish } else { Finish::NONE },
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

fn forward_panels(level: Level, shape: &Shape) -> Panels {
    Panels::new(level, shape.taps() * shape.in_per_group(), shape.out_per_group())
}

/// Whether the weight is dealt out instead of the pixels.
fn is_weight_bound(patches: &Patches, n: usize, pixels: usize) -> bool {
    patches.columns() * n >= LARGE && pixels <= FEW
}

/// Whether [`forward`], or [`backward_input`], takes the weight as it is and packs each panel where it is used.
pub(super) fn packs_by_panel(level: Level, shape: &Shape, backward: bool) -> bool {
    if shape.groups > 1 {
        return false;
    }
    if !backward {
        return is_weight_bound(&Patches::of_input(shape), shape.out_channels, shape.output_pixels());
    }
    let (classes, _) = classes(level, shape);
    let [height, width] = shape.input;
    classes.len() == 1 && is_weight_bound(&classes[0].patches, shape.in_channels, shape.n * height * width)
}

/// Multiplies the patches of all pixels with a weight, panel by panel, and finishes them. `pack` packs some rows of a
/// panel of a weight that comes as it is.
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
                Form::AsIs(weight) => pack(weight, panel, rows, out),
                Form::Packed(_) => unreachable!("nothing is left to pack"),
            };
            let multiply = Multiply {
                level,
                patches,
                map,
                first_channel: 0,
                positions: 0..pixels,
                filter: match filter {
                    Form::Packed(filter) => Weights::Packed(&filter[panel * panels.step..]),
                    Form::AsIs(_) => Weights::Packs(packs),
                },
                panels,
                n: columns(panel),
                places: Places::Strided(panels.width),
                accumulate: false,
                finish: Finish::NONE,
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

/// Packs some rows, `[taps, in]`, of a panel of a group's weight for [`forward`].
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

/// The weight, packed for [`forward`].
pub(super) fn pack_forward(level: Level, shape: &Shape, weight: &[f32], out: &mut Memory) -> usize {
    let panels = forward_panels(level, shape);
    let count = panels.count(shape.out_per_group());
    let len = shape.groups * count * panels.step;
    out.reserve(len);
    // A panel is a piece of work by itself.
    out[..len].par_chunks_mut(panels.step).enumerate().for_each(|(i, out)| {
        pack_rows(shape, panels, weight, [i / count, i % count], 0..shape.taps() * shape.in_per_group(), out);
    });
    len
}

/// Convolves with a weight from [`pack_forward`], or as it is where it is large. With bfloat16, input and weight consist of pairs of input channels, which
/// `shape` counts.
#[allow(clippy::too_many_arguments)] // three choices and the slices
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
    if threads == Threads::All && shape.groups == 1 && is_weight_bound(&patches, n, shape.output_pixels()) {
        let pack = |weight: &[f32], panel, rows, out: &mut [f32]| {
            pack_rows(shape, panels, weight, [0, panel], rows, out);
        };
        return multiply_by_panels(level, precision, &patches, input, filter, pack, panels, n, false, epilogue, output);
    }
    let filter = filter.packed();
    let block = match threads {
        Threads::All => pixels_per_block(shape.output_pixels()),
        Threads::Own => PIXELS,
    };
    threads.each(output.par_chunks_mut(block * channels).enumerate(), |(i, output)| {
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
                filter: Weights::Packed(filter),
                panels,
                n,
                places: Places::Strided(channels),
                accumulate: false,
                finish: epilogue.finish(first * channels, group * n..(group + 1) * n),
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

/// The input pixels of one residue of the stride: all of them are reached by the same taps, so that their gradient is a
/// convolution with stride 1 of the output's gradient.
struct Class {
    /// The first line and column of these pixels.
    first: [usize; 2],
    /// The taps that reach them.
    taps: Vec<usize>,
    patches: Patches,
    panels: Panels,
    /// Where this class's packed weight begins, and a group's length in it.
    start: usize,
    group_len: usize,
}

/// All classes of a shape, and the elements of their packed weights.
fn classes(level: Level, shape: &Shape) -> (Vec<Class>, usize) {
    let mut classes = Vec::new();
    let mut start = 0;
    for first_y in 0..shape.stride[0].min(shape.input[0]) {
        for first_x in 0..shape.stride[1].min(shape.input[1]) {
            let first = [first_y, first_x];
            // The output position that reads the class's first pixel through a tap: a whole number, or none.
            let offset = |axis: usize, tap: usize| {
                let from = (first[axis] + shape.padding[axis]) as isize - (tap * shape.dilation[axis]) as isize;
                let stride = shape.stride[axis] as isize;
                (from.rem_euclid(stride) == 0).then_some(from.div_euclid(stride))
            };
            let reached = (0..shape.taps()).filter_map(|tap| {
                let [y, x] = [offset(0, tap / shape.kernel[1])?, offset(1, tap % shape.kernel[1])?];
                Some((tap, [y, x]))
            });
            let (taps, offsets): (Vec<_>, Vec<_>) = reached.unzip();
            let positions = std::array::from_fn(|i| (shape.input[i] - first[i]).div_ceil(shape.stride[i]));
            let patches = Patches {
                map: shape.output,
                map_channels: shape.out_channels,
                channels: shape.out_per_group(),
                positions,
                step: [1, 1],
                offsets,
            };
            let panels = Panels::new(level, patches.columns(), shape.in_per_group());
            let group_len = panels.count(shape.in_per_group()) * panels.step;
            classes.push(Class { first, taps, patches, panels, start, group_len });
            start += shape.groups * group_len;
        }
    }
    (classes, start)
}

impl Class {
    /// Packs some rows, `[taps of the class, out]`, of a panel of a group's weight for [`backward_input`].
    fn pack_rows(
        &self,
        shape: &Shape,
        weight: &[f32],
        [group, panel]: [usize; 2],
        rows: Range<usize>,
        mut out: &mut [f32],
    ) {
        let (inputs, outputs, stride) = (shape.in_per_group(), shape.out_per_group(), self.panels.stride);
        let first = panel * self.panels.width;
        let columns = self.panels.width.min(inputs - first);
        let mut row = rows.start;
        while row < rows.end {
            let (tap, output) = (self.taps[row / outputs], row % outputs);
            let count = (outputs - output).min(rows.end - row);
            let (part, rest) = out.split_at_mut(count * stride);
            let from = |column: usize| {
                &weight[(tap * inputs + first + column) * shape.out_channels + group * outputs + output..]
            };
            to_columns(columns, from, count, stride, part);
            (row, out) = (row + count, rest);
        }
    }
}

/// The weight, packed for [`backward_input`].
pub(super) fn pack_backward(level: Level, shape: &Shape, weight: &[f32], out: &mut Memory) -> usize {
    let (classes, len) = classes(level, shape);
    out.reserve(len);
    for class in classes.iter().filter(|class| !class.taps.is_empty()) {
        let panels = class.panels;
        let count = panels.count(shape.in_per_group());
        let out = &mut out[class.start..][..shape.groups * class.group_len];
        out.par_chunks_mut(panels.step).enumerate().for_each(|(i, out)| {
            class.pack_rows(shape, weight, [i / count, i % count], 0..class.patches.columns(), out);
        });
    }
    len
}

/// The gradient of the input with a weight from [`pack_backward`], or as it is where it is large. With bfloat16, gradient and weight consist of pairs of
/// output channels, which `shape` counts.
pub(super) fn backward_input(
    level: Level,
    precision: Precision,
    shape: &Shape,
    grad_output: &[f32],
    filter: Form,
    accumulate: bool,
    grad_input: &mut [f32],
) {
    let (classes, _) = classes(level, shape);
    let [height, width] = shape.input;
    let channels = shape.in_channels;
    let n = shape.in_per_group();
    if let ([class], 1) = (classes.as_slice(), shape.groups)
        && is_weight_bound(&class.patches, n, shape.n * height * width)
    {
        let Class { patches, panels, .. } = class;
        return multiply_by_panels(
            level,
            precision,
            patches,
            grad_output,
            filter,
            |weight, panel, rows, out| class.pack_rows(shape, weight, [0, panel], rows, out),
            *panels,
            n,
            accumulate,
            Epilogue::NONE,
            grad_input,
        );
    }
    let filter = filter.packed();
    // Strips of whole lines of each class, so that a piece of the gradient is contiguous.
    let lines = height.div_ceil(shape.stride[0]);
    let line_len = width.div_ceil(shape.stride[1]);
    let lines_per_strip = pixels_per_block(shape.n * lines * line_len).div_ceil(line_len).min(lines);
    let rows_per_strip = lines_per_strip * shape.stride[0];
    let strips_per_image = height.div_ceil(rows_per_strip);
    let mut strips = Vec::new();
    for image in grad_input.chunks_exact_mut(height * width * channels) {
        strips.extend(image.chunks_mut(rows_per_strip * width * channels));
    }
    strips.into_par_iter().enumerate().for_each(|(i, out)| {
        let (image, first_line) = (i / strips_per_image, i % strips_per_image * lines_per_strip);
        for class in &classes {
            let [class_lines, class_width] = class.patches.positions;
            let end_line = (first_line + lines_per_strip).min(class_lines);
            let count = end_line.saturating_sub(first_line) * class_width;
            let start = (image * class_lines + first_line) * class_width;
            let place = |pixel: usize| {
                let y = pixel / class_width * shape.stride[0] + class.first[0];
                let x = pixel % class_width * shape.stride[1] + class.first[1];
                (y * width + x) * channels
            };
            let is_all = shape.stride == [1, 1];
            let scattered: Vec<usize> = if is_all { Vec::new() } else { (0..count).map(place).collect() };
            let places = if is_all { Places::Strided(channels) } else { Places::At(&scattered) };
            if class.taps.is_empty() {
                if !accumulate {
                    scattered.iter().for_each(|&at| out[at..at + channels].fill(0.0));
                }
                continue;
            }
            for group in 0..shape.groups {
                let multiply = Multiply {
                    level,
                    patches: &class.patches,
                    map: grad_output,
                    first_channel: group * shape.out_per_group(),
                    positions: start..start + count,
                    filter: Weights::Packed(&filter[class.start + group * class.group_len..][..class.group_len]),
                    panels: class.panels,
                    n,
                    places,
                    accumulate,
                    finish: Finish::NONE,
                    precision,
                };
                multiply.run(&mut out[group * n..], &mut []);
            }
        }
    });
}

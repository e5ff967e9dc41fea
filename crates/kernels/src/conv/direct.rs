//! Convolution as a matrix product over gathered patches ("im2col"; Chellapilla et al. 2006), a block at a time.
//!
//! The patches of a block of pixels are gathered into a panel that stays in cache, one row a pixel, and are
//! multiplied with the packed weight by the register [tile](crate::tile). The whole patch matrix, nine times
//! the input for a 3x3 filter, never exists. It takes every shape: strides, dilations, groups, any filter.

mod weight_gradient;

use rayon::prelude::*;

pub(super) use weight_gradient::backward_weight;

use super::{Epilogue, Shape};
use crate::rows::with_scratch;
use crate::simd::{Level, dispatch};
use crate::tile::{Panels, Product, ROWS};

/// Columns of a panel that are gathered and multiplied at a time.
const COLUMNS: usize = 256;

/// Pixels in a block, where there are many.
const PIXELS: usize = 24 * ROWS;

/// Pixels a block: at least eight blocks where there is enough to do, so that small maps still use several cores.
fn pixels_per_block(pixels: usize) -> usize {
    pixels.div_ceil(8).next_multiple_of(ROWS).clamp(4 * ROWS, PIXELS)
}

/// Where patches are read from a map.
///
/// Positions are numbered by image, line and column. Tap `t` of the position at line `y`, column `x` reads pixel
/// `(y * step[0] + offsets[t][0], x * step[1] + offsets[t][1])`, zero where that is outside.
#[derive(Clone, Debug)]
struct Patches {
    /// Height and width of the map.
    map: [usize; 2],
    /// Channels of the map, of which a group's are read.
    map_channels: usize,
    /// Channels that are read.
    channels: usize,
    /// Lines and columns of positions in an image.
    positions: [usize; 2],
    step: [usize; 2],
    offsets: Vec<[isize; 2]>,
}

impl Patches {
    /// What a convolution reads from its input, position by output pixel.
    fn of_input(shape: &Shape) -> Self {
        let offset = |axis: usize, tap: usize| (tap * shape.dilation[axis]) as isize - shape.padding[axis] as isize;
        let offsets = (0..shape.taps()).map(|tap| [offset(0, tap / shape.kernel[1]), offset(1, tap % shape.kernel[1])]);
        Self {
            map: shape.input,
            map_channels: shape.in_channels,
            channels: shape.in_per_group(),
            positions: shape.output,
            step: shape.stride,
            offsets: offsets.collect(),
        }
    }

    fn columns(&self) -> usize {
        self.offsets.len() * self.channels
    }

    /// Patches are the map's own rows: nothing to gather.
    fn is_map(&self) -> bool {
        self.offsets == [[0, 0]] && self.step == [1, 1] && self.positions == self.map
    }

    /// The pieces of which `columns` (of `[taps, channels]`) consist: neighbouring taps of all channels are one.
    fn runs(&self, columns: std::ops::Range<usize>) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut column = columns.start;
        while column < columns.end {
            let (tap, channel) = (column / self.channels, column % self.channels);
            let len = (self.channels - channel).min(columns.end - column);
            let offset = self.offsets[tap];
            match runs.last_mut() {
                Some(last)
                    if len == self.map_channels
                        && last.len == last.pixels * len
                        && last.offset[0] == offset[0]
                        && last.offset[1] + last.pixels as isize == offset[1] =>
                {
                    last.pixels += 1;
                    last.len += len;
                }
                _ => runs.push(Run { offset, pixels: 1, channel, len }),
            }
            column += len;
        }
        runs
    }

    /// Gathers the columns of some `runs` of the patches of some positions, rows `stride` apart.
    fn gather(
        &self,
        map: &[f32],
        first_channel: usize,
        positions: std::ops::Range<usize>,
        runs: &[Run],
        stride: usize,
        panel: &mut [f32],
    ) {
        let [height, width] = self.map;
        let [lines, line_len] = self.positions;
        let start = positions.start;
        let (mut image, mut y, mut x) = (start / (lines * line_len), start / line_len % lines, start % line_len);
        for row in panel.chunks_mut(stride).take(positions.len()) {
            let mut row = row;
            for run in runs {
                let (out, rest) = row.split_at_mut(run.len);
                row = rest;
                let iy = (y * self.step[0]) as isize + run.offset[0];
                let ix = (x * self.step[1]) as isize + run.offset[1];
                if iy < 0 || iy as usize >= height {
                    out.fill(0.0);
                    continue;
                }
                let line = &map[(image * height + iy as usize) * width * self.map_channels..];
                if ix >= 0 && ix as usize + run.pixels <= width {
                    let at = ix as usize * self.map_channels + first_channel + run.channel;
                    out.copy_from_slice(&line[at..at + run.len]);
                    continue;
                }
                for (i, out) in out.chunks_exact_mut(run.len / run.pixels).enumerate() {
                    let ix = ix + i as isize;
                    if ix >= 0 && (ix as usize) < width {
                        let at = ix as usize * self.map_channels + first_channel + run.channel;
                        out.copy_from_slice(&line[at..at + out.len()]);
                    } else {
                        out.fill(0.0);
                    }
                }
            }
            x += 1;
            if x == line_len {
                (x, y) = (0, y + 1);
                if y == lines {
                    (y, image) = (0, image + 1);
                }
            }
        }
    }
}

/// Columns of a patch that lie side by side in the map: channels of one pixel, or all channels of several in a line.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Where the first pixel is, from the position.
    offset: [isize; 2],
    pixels: usize,
    /// The first channel.
    channel: usize,
    /// Columns.
    len: usize,
}

/// Multiplies the patches of some positions with one group's packed weight.
struct Multiply<'a> {
    level: Level,
    patches: &'a Patches,
    map: &'a [f32],
    first_channel: usize,
    positions: std::ops::Range<usize>,
    /// Packed `[columns, n]`.
    filter: &'a [f32],
    panels: Panels,
    n: usize,
    accumulate: bool,
    out: &'a mut [f32],
    out_stride: usize,
    panel: &'a mut [f32],
}

impl Multiply<'_> {
    fn run(self) {
        let total = self.patches.columns();
        for start in (0..total).step_by(COLUMNS) {
            let k = COLUMNS.min(total - start);
            let (a, a_stride) = if self.patches.is_map() {
                let at = self.positions.start * self.patches.map_channels + self.first_channel + start;
                (&self.map[at..], self.patches.map_channels)
            } else {
                let runs = self.patches.runs(start..start + k);
                self.patches.gather(self.map, self.first_channel, self.positions.clone(), &runs, k, self.panel);
                (&*self.panel, k)
            };
            let product = Product {
                m: self.positions.len(),
                n: self.n,
                k,
                a: [a_stride, 1],
                b: self.panels,
                c_stride: self.out_stride,
                accumulate: self.accumulate || start > 0,
            };
            product.run(self.level, a, &self.filter[start * self.panels.stride..], self.out);
        }
    }
}

/// Packs `n` columns of `k` rows into panels; `at(row, column)` tells where an element comes from.
fn pack(weight: &[f32], panels: Panels, k: usize, n: usize, at: impl Fn(usize, usize) -> usize, out: &mut [f32]) {
    for (panel, out) in out.chunks_exact_mut(panels.step).enumerate().take(panels.count(n)) {
        let first = panel * panels.width;
        for (row, out) in out.chunks_exact_mut(panels.stride).enumerate().take(k) {
            for (column, out) in out.iter_mut().enumerate() {
                *out = if first + column < n { weight[at(row, first + column)] } else { 0.0 };
            }
        }
    }
}

fn forward_panels(level: Level, shape: &Shape) -> Panels {
    Panels::new(level, shape.taps() * shape.in_per_group(), shape.out_per_group())
}

/// The weight, packed for [`forward`]: a group's panels after the other's.
pub(super) fn pack_forward(level: Level, shape: &Shape, weight: &[f32], out: &mut Vec<f32>) {
    let panels = forward_panels(level, shape);
    let (k, n) = (shape.taps() * shape.in_per_group(), shape.out_per_group());
    let group_len = panels.count(n) * panels.step;
    out.clear();
    out.resize(shape.groups * group_len, 0.0);
    out.par_chunks_mut(group_len).enumerate().for_each(|(group, out)| {
        pack(weight, panels, k, n, |row, column| row * shape.out_channels + group * n + column, out);
    });
}

/// Convolves with a weight from [`pack_forward`].
pub(super) fn forward(
    level: Level,
    shape: &Shape,
    input: &[f32],
    filter: &[f32],
    epilogue: Epilogue,
    output: &mut [f32],
) {
    let patches = Patches::of_input(shape);
    let panels = forward_panels(level, shape);
    let n = shape.out_per_group();
    let group_len = panels.count(n) * panels.step;
    let channels = shape.out_channels;
    let block = pixels_per_block(shape.output_pixels());
    output.par_chunks_mut(block * channels).enumerate().for_each(|(i, output)| {
        let pixels = output.len() / channels;
        let positions = i * block..i * block + pixels;
        with_scratch(block * COLUMNS, |panel| {
            for (group, filter) in filter.chunks_exact(group_len).enumerate() {
                let multiply = Multiply {
                    level,
                    patches: &patches,
                    map: input,
                    first_channel: group * shape.in_per_group(),
                    positions: positions.clone(),
                    filter,
                    panels,
                    n,
                    accumulate: false,
                    out: &mut output[group * n..],
                    out_stride: channels,
                    panel,
                };
                multiply.run();
            }
        });
        dispatch(
            #[inline(always)]
            || epilogue.apply(positions.start * channels, channels, output),
        );
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

/// The weight, packed for [`backward_input`].
pub(super) fn pack_backward(level: Level, shape: &Shape, weight: &[f32], out: &mut Vec<f32>) {
    let (classes, len) = classes(level, shape);
    out.clear();
    out.resize(len, 0.0);
    let (inputs, outputs) = (shape.in_per_group(), shape.out_per_group());
    for class in classes.iter().filter(|class| !class.taps.is_empty()) {
        let out = &mut out[class.start..][..shape.groups * class.group_len];
        for (group, out) in out.chunks_exact_mut(class.group_len).enumerate() {
            out.par_chunks_mut(class.panels.step).enumerate().for_each(|(panel, out)| {
                let first = panel * class.panels.width;
                let at = |row: usize, column: usize| {
                    let (tap, output) = (class.taps[row / outputs], row % outputs);
                    (tap * inputs + first + column) * shape.out_channels + group * outputs + output
                };
                pack(weight, class.panels, class.patches.columns(), (inputs - first).min(class.panels.width), at, out);
            });
        }
    }
}

/// The gradient of the input with a weight from [`pack_backward`].
pub(super) fn backward_input(
    level: Level,
    shape: &Shape,
    grad_output: &[f32],
    filter: &[f32],
    accumulate: bool,
    grad_input: &mut [f32],
) {
    let (classes, _) = classes(level, shape);
    let [height, width] = shape.input;
    let channels = shape.in_channels;
    let n = shape.in_per_group();
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
    let block = lines_per_strip * line_len;
    strips.into_par_iter().enumerate().for_each(|(i, out)| {
        let (image, first_line) = (i / strips_per_image, i % strips_per_image * lines_per_strip);
        with_scratch(block * (COLUMNS + n), |scratch| {
            let (panel, result) = scratch.split_at_mut(block * COLUMNS);
            for class in &classes {
                let [class_lines, class_width] = class.patches.positions;
                let end_line = (first_line + lines_per_strip).min(class_lines);
                let count = end_line.saturating_sub(first_line) * class_width;
                let start = (image * class_lines + first_line) * class_width;
                for group in 0..shape.groups {
                    let in_place = shape.stride == [1, 1];
                    let target = if in_place { &mut out[group * n..] } else { &mut result[..] };
                    if class.taps.is_empty() {
                        target.fill(0.0);
                    } else {
                        let multiply = Multiply {
                            level,
                            patches: &class.patches,
                            map: grad_output,
                            first_channel: group * shape.out_per_group(),
                            positions: start..start + count,
                            filter: &filter[class.start + group * class.group_len..][..class.group_len],
                            panels: class.panels,
                            n,
                            accumulate: accumulate && in_place,
                            out: target,
                            out_stride: if in_place { channels } else { n },
                            panel,
                        };
                        multiply.run();
                    }
                    if in_place {
                        continue;
                    }
                    for (pixel, result) in result.chunks_exact(n).enumerate().take(count) {
                        let y = pixel / class_width * shape.stride[0] + class.first[0];
                        let x = pixel % class_width * shape.stride[1] + class.first[1];
                        let out = &mut out[(y * width + x) * channels + group * n..][..n];
                        if accumulate {
                            out.iter_mut().zip(result).for_each(|(o, r)| *o += r);
                        } else {
                            out.copy_from_slice(result);
                        }
                    }
                }
            }
        });
    });
}

//! The gradient of the input: one product per residue of the stride.

use std::ops::Range;

use rayon::prelude::*;

use super::{Multiply, Weights, is_weight_bound, multiply_by_panels, pixels_per_block};
use crate::conv::filter::Form;
use crate::conv::patches::Residue;
use crate::conv::{Epilogue, Shape};
use crate::epilogue::TileEpilogue;
use crate::simd::Level;
use crate::tile::{Panels, RowOffsets};
use crate::transpose::to_columns;
use crate::{Memory, Precision};

/// A [`Residue`] with its part of the packed weight.
pub(super) struct Class {
    pub residue: Residue,
    panels: Panels,
    /// Where this class's packed weight begins, and a group's length in it.
    start: usize,
    group_len: usize,
}

/// All classes of a shape, and the elements of their packed weights.
pub(super) fn classes(level: Level, shape: &Shape) -> (Vec<Class>, usize) {
    let mut start = 0;
    let class = |residue: Residue| {
        let panels = Panels::new(level, residue.patches.columns(), shape.in_per_group());
        let group_len = panels.count(shape.in_per_group()) * panels.step;
        let class = Class { residue, panels, start, group_len };
        start += shape.groups * group_len;
        class
    };
    (Residue::of(shape).into_iter().map(class).collect(), start)
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
            let (tap, output) = (self.residue.taps[row / outputs], row % outputs);
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
pub(in crate::conv) fn pack_backward(level: Level, shape: &Shape, weight: &[f32], out: &mut Memory) -> usize {
    let (classes, len) = classes(level, shape);
    out.reserve(len);
    for class in classes.iter().filter(|class| !class.residue.taps.is_empty()) {
        let panels = class.panels;
        let count = panels.count(shape.in_per_group());
        let out = &mut out[class.start..][..shape.groups * class.group_len];
        out.par_chunks_mut(panels.step).enumerate().for_each(|(i, out)| {
            class.pack_rows(shape, weight, [i / count, i % count], 0..class.residue.patches.columns(), out);
        });
    }
    len
}

/// The gradient of the input with a weight from [`pack_backward`], or as it is where it is large. With bfloat16, gradient and weight consist of pairs of
/// output channels, which `shape` counts.
pub(in crate::conv) fn backward_input(
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
        && is_weight_bound(&class.residue.patches, n, shape.n * height * width)
    {
        let Class { residue: Residue { patches, .. }, panels, .. } = class;
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
            let [class_lines, class_width] = class.residue.patches.positions;
            let end_line = (first_line + lines_per_strip).min(class_lines);
            let count = end_line.saturating_sub(first_line) * class_width;
            let start = (image * class_lines + first_line) * class_width;
            let place = |pixel: usize| {
                let y = pixel / class_width * shape.stride[0] + class.residue.first[0];
                let x = pixel % class_width * shape.stride[1] + class.residue.first[1];
                (y * width + x) * channels
            };
            let is_all = shape.stride == [1, 1];
            let scattered: Vec<usize> = if is_all { Vec::new() } else { (0..count).map(place).collect() };
            let row_offsets = if is_all { RowOffsets::Strided(channels) } else { RowOffsets::Listed(&scattered) };
            if class.residue.taps.is_empty() {
                if !accumulate {
                    scattered.iter().for_each(|&at| out[at..at + channels].fill(0.0));
                }
                continue;
            }
            for group in 0..shape.groups {
                let multiply = Multiply {
                    level,
                    patches: &class.residue.patches,
                    map: grad_output,
                    first_channel: group * shape.out_per_group(),
                    positions: start..start + count,
                    filter: Weights::Packed(&filter[class.start + group * class.group_len..][..class.group_len]),
                    panels: class.panels,
                    n,
                    row_offsets,
                    accumulate,
                    epilogue: TileEpilogue::NONE,
                    precision,
                };
                multiply.run(&mut out[group * n..], &mut []);
            }
        }
    });
}

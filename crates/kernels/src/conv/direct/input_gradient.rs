//! Input gradient of the direct algorithm: one product per residue modulo the stride.

use std::ops::Range;

use rayon::prelude::*;

use super::{Multiply, PanelSource, is_weight_bound, multiply_by_panels, pixels_per_block};
use crate::conv::filter::Form;
use crate::conv::patches::Residue;
use crate::conv::{Epilogue, Shape};
use crate::epilogue::TileEpilogue;
use crate::simd::Level;
use crate::tile::{Panels, RowOffsets};
use crate::transpose::to_columns;
use crate::{Memory, Precision};

/// A [`Residue`] and the location of its part of the packed weight.
pub(super) struct PackedResidue {
    pub residue: Residue,
    panels: Panels,
    /// First element of this residue's packed weight.
    start: usize,
    /// Elements of the packed weight per group.
    group_len: usize,
}

/// All residues of a shape, and the number of elements of their packed weights.
pub(super) fn packed_residues(level: Level, shape: &Shape) -> (Vec<PackedResidue>, usize) {
    let mut start = 0;
    let pack = |residue: Residue| {
        let panels = Panels::new(level, residue.patches.columns(), shape.in_per_group());
        let group_len = panels.count(shape.in_per_group()) * panels.step;
        let packed = PackedResidue { residue, panels, start, group_len };
        start += shape.groups * group_len;
        packed
    };
    (Residue::all(shape).into_iter().map(pack).collect(), start)
}

impl PackedResidue {
    /// Packs some rows, of `[taps of the residue, out]`, of one panel of a group's weight for [`backward_input`].
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

/// Packs the weight for [`backward_input`]; returns its number of elements.
pub(in crate::conv) fn pack_backward(level: Level, shape: &Shape, weight: &[f32], out: &mut Memory) -> usize {
    let (residues, len) = packed_residues(level, shape);
    out.reserve(len);
    for packed in residues.iter().filter(|packed| !packed.residue.taps.is_empty()) {
        let panels = packed.panels;
        let count = panels.count(shape.in_per_group());
        let out = &mut out[packed.start..][..shape.groups * packed.group_len];
        out.par_chunks_mut(panels.step).enumerate().for_each(|(i, out)| {
            packed.pack_rows(shape, weight, [i / count, i % count], 0..packed.residue.patches.columns(), out);
        });
    }
    len
}

/// The direct [`backward_input`](crate::conv::backward_input), with a weight from [`pack_backward`] or a raw one.
///
/// With bfloat16, output gradient and weight hold pairs of output channels, and `shape` counts pairs.
pub(in crate::conv) fn backward_input(
    level: Level,
    precision: Precision,
    shape: &Shape,
    grad_output: &[f32],
    filter: Form,
    accumulate: bool,
    grad_input: &mut [f32],
) {
    let (residues, _) = packed_residues(level, shape);
    let [height, width] = shape.input;
    let channels = shape.in_channels;
    let n = shape.in_per_group();
    if let ([packed], 1) = (residues.as_slice(), shape.groups)
        && is_weight_bound(&packed.residue.patches, n, shape.n * height * width)
    {
        let PackedResidue { residue: Residue { patches, .. }, panels, .. } = packed;
        return multiply_by_panels(
            level,
            precision,
            patches,
            grad_output,
            filter,
            |weight, panel, rows, out| packed.pack_rows(shape, weight, [0, panel], rows, out),
            *panels,
            n,
            accumulate,
            Epilogue::NONE,
            grad_input,
        );
    }
    let filter = filter.packed();
    // Strips of whole lines of all residues, so that a piece of the gradient is contiguous.
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
        for packed in &residues {
            let [residue_lines, residue_width] = packed.residue.patches.positions;
            let end_line = (first_line + lines_per_strip).min(residue_lines);
            let count = end_line.saturating_sub(first_line) * residue_width;
            let start = (image * residue_lines + first_line) * residue_width;
            let place = |pixel: usize| {
                let y = pixel / residue_width * shape.stride[0] + packed.residue.first[0];
                let x = pixel % residue_width * shape.stride[1] + packed.residue.first[1];
                (y * width + x) * channels
            };
            let is_all = shape.stride == [1, 1];
            let scattered: Vec<usize> = if is_all { Vec::new() } else { (0..count).map(place).collect() };
            let row_offsets = if is_all { RowOffsets::Strided(channels) } else { RowOffsets::Listed(&scattered) };
            if packed.residue.taps.is_empty() {
                if !accumulate {
                    scattered.iter().for_each(|&at| out[at..at + channels].fill(0.0));
                }
                continue;
            }
            for group in 0..shape.groups {
                let multiply = Multiply {
                    level,
                    patches: &packed.residue.patches,
                    map: grad_output,
                    first_channel: group * shape.out_per_group(),
                    positions: start..start + count,
                    filter: PanelSource::Packed(&filter[packed.start + group * packed.group_len..][..packed.group_len]),
                    panels: packed.panels,
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

//! Fully connected layers for small batches.
//!
//! The weight is far larger than the samples, so it is read once while the samples' data stays in cache.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::epilogue::Epilogue;
use crate::prefetch;
use crate::rows::with_scratch;
use crate::simd::{Level, dispatch};
use crate::vector::load;

/// Output features per piece of work in the forward pass.
const FEATURES: usize = 64;

/// Inputs per block of the inner products: blocks of four samples and four features fit the first-level cache, blocks of
/// all samples the second.
const INPUTS: usize = 1024;

/// Most columns of the input gradient per piece of work; their sums fit the first cache levels.
const COLUMNS: usize = 512;

/// Fewest columns per piece of work: four cache lines.
const FEWEST_COLUMNS: usize = 64;

/// Pieces that the input gradient is split into if they keep [`FEWEST_COLUMNS`].
const PIECES: usize = 8;

/// `output = epilogue(input * weight^T)`.
pub(super) fn forward(level: Level, n: usize, input: &[f32], weight: &[f32], epilogue: Epilogue, output: &mut [f32]) {
    let (in_features, out_features) = (input.len() / n, output.len() / n);
    let pieces = column_blocks(output, out_features, FEATURES);
    pieces.into_par_iter().zip(weight.par_chunks(FEATURES * in_features)).for_each(|(sums, weight)| {
        level.run(DotProducts { in_features, start: 0, input, weight, sums });
    });
    output.par_chunks_exact_mut(out_features).enumerate().for_each(|(row, output)| {
        dispatch(
            #[inline(always)]
            || epilogue.apply(row * out_features, out_features, output),
        );
    });
}

/// The gradient of the input, `grad_output * weight`.
pub(super) fn backward_input(
    level: Level,
    n: usize,
    grad_output: &[f32],
    weight: &[f32],
    accumulate: bool,
    grad_input: &mut [f32],
) {
    let (out_features, in_features) = (grad_output.len() / n, grad_input.len() / n);
    let width = (in_features / PIECES).next_multiple_of(FEWEST_COLUMNS).clamp(FEWEST_COLUMNS, COLUMNS);
    column_blocks(grad_input, in_features, width).into_par_iter().enumerate().for_each(|(block, mut parts)| {
        let columns = parts[0].len();
        let stride = columns.next_multiple_of(level.lanes());
        with_scratch(n * stride, |sums| {
            sums.fill(0.0);
            let start = block * width;
            level.run(WeightedRows { in_features, out_features, start, columns, grad_output, weight, sums, stride });
            for (part, sums) in parts.iter_mut().zip(sums.chunks_exact(stride)) {
                if accumulate {
                    part.iter_mut().zip(sums).for_each(|(g, &sum)| *g += sum);
                } else {
                    part.copy_from_slice(&sums[..columns]);
                }
            }
        });
    });
}

/// Splits a matrix into blocks of `width` columns: for each block, its part of every row.
fn column_blocks(matrix: &mut [f32], columns: usize, width: usize) -> Vec<Vec<&mut [f32]>> {
    let mut blocks: Vec<Vec<_>> = (0..columns.div_ceil(width)).map(|_| Vec::new()).collect();
    for row in matrix.chunks_exact_mut(columns) {
        for (block, part) in blocks.iter_mut().zip(row.chunks_mut(width)) {
            block.push(part);
        }
    }
    blocks
}

/// Samples of a full tile: how often each weight vector is used once it is in a register.
const SAMPLES: usize = 4;

/// A computation on tiles of a few samples by a few rows of the weight.
trait Tiles {
    /// Computes the tile of `N` samples from `sample` on and `R` rows from `row` on.
    fn tile<S: Simd, const N: usize, const R: usize>(&mut self, simd: S, sample: usize, row: usize);

    /// Computes all tiles: all samples for some rows, then all samples for the next rows.
    #[inline(always)]
    fn cover<S: Simd>(&mut self, simd: S, samples: usize, rows: usize) {
        let mut row = 0;
        while row < rows {
            // One register per sample and row, so four rows need 32 registers.
            if rows - row >= 4 && S::REGISTER_COUNT >= 32 {
                self.samples::<S, 4>(simd, samples, row);
                row += 4;
            } else if rows - row >= 2 {
                self.samples::<S, 2>(simd, samples, row);
                row += 2;
            } else {
                self.samples::<S, 1>(simd, samples, row);
                row += 1;
            }
        }
    }

    /// Computes the tiles of all samples and `R` rows.
    #[inline(always)]
    fn samples<S: Simd, const R: usize>(&mut self, simd: S, samples: usize, row: usize) {
        for sample in (0..samples).step_by(SAMPLES) {
            match samples - sample {
                1 => self.tile::<S, 1, R>(simd, sample, row),
                2 => self.tile::<S, 2, R>(simd, sample, row),
                3 => self.tile::<S, 3, R>(simd, sample, row),
                _ => self.tile::<S, SAMPLES, R>(simd, sample, row),
            }
        }
    }
}

/// The whole vectors in `len` columns from `start` on, for `R` rows of a matrix from `row` on.
#[inline(always)]
fn rows<S: Simd, const R: usize>(
    matrix: &[f32],
    columns: usize,
    row: usize,
    start: usize,
    len: usize,
) -> [&[S::f32s]; R] {
    let mut rows: [&[S::f32s]; R] = [&[]; R];
    for r in 0..R {
        // The same length for all rows, so that the loops need no bounds checks.
        rows[r] = &S::as_simd_f32s(&matrix[(row + r) * columns + start..][..len]).0[..len / S::F32_LANES];
    }
    rows
}

/// The rows of `next` to prefetch during the tile that begins at `sample`; the others come back empty.
///
/// The tiles of one row block share its next rows, so that memory is read all the time. The hardware prefetcher does not
/// help: it follows a row beyond the block of columns.
#[inline(always)]
fn rows_to_prefetch<S: Simd, const R: usize>(
    mut next: [&[S::f32s]; R],
    sample: usize,
    samples: usize,
) -> [&[S::f32s]; R] {
    let (turn, turns) = (sample / SAMPLES, samples.div_ceil(SAMPLES));
    for r in 0..R {
        if r % turns != turn {
            next[r] = &[];
        }
    }
    next
}

/// Computes the inner products of every sample with some rows of the weight.
struct DotProducts<'a> {
    in_features: usize,
    /// First input of the current block.
    start: usize,
    /// All samples, `[n, in]`.
    input: &'a [f32],
    /// The rows, `[rows, in]`.
    weight: &'a [f32],
    /// The products of each sample.
    sums: Vec<&'a mut [f32]>,
}

impl WithSimd for DotProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for start in (0..self.in_features).step_by(INPUTS) {
            self.start = start;
            self.cover(simd, self.sums.len(), self.weight.len() / self.in_features);
        }
    }
}

impl Tiles for DotProducts<'_> {
    #[inline(always)]
    fn tile<S: Simd, const N: usize, const R: usize>(&mut self, simd: S, sample: usize, row: usize) {
        let Self { in_features, start, input, weight, .. } = *self;
        let len = INPUTS.min(in_features - start);
        let (count, tail) = (len / S::F32_LANES, len % S::F32_LANES);
        let inputs = rows::<S, N>(input, in_features, sample, start, len);
        let weights = rows::<S, R>(weight, in_features, row, start, len);
        // After the last rows, the last rows again.
        let next_row = (row + R).min(weight.len() / in_features - R);
        let next = rows::<S, R>(weight, in_features, next_row, start, len);
        let next = rows_to_prefetch::<S, R>(next, sample, self.sums.len());
        let mut sums = [[simd.splat_f32s(0.0); R]; N];
        for i in 0..count {
            for r in 0..R {
                if let Some(vector) = next[r].get(i) {
                    prefetch::to_read(vector);
                }
            }
            for s in 0..N {
                for r in 0..R {
                    sums[s][r] = simd.mul_add_e_f32s(inputs[s][i], weights[r][i], sums[s][r]);
                }
            }
        }
        if tail > 0 {
            let last = start + len - tail;
            for s in 0..N {
                let x = load(simd, input, (sample + s) * in_features + last, tail);
                for r in 0..R {
                    let w = load(simd, weight, (row + r) * in_features + last, tail);
                    sums[s][r] = simd.mul_add_e_f32s(x, w, sums[s][r]);
                }
            }
        }
        for s in 0..N {
            for r in 0..R {
                let sum = simd.reduce_sum_f32s(sums[s][r]);
                let to = &mut self.sums[sample + s][row + r];
                *to = if start == 0 { sum } else { *to + sum };
            }
        }
    }
}

/// Computes, for every sample and a block of columns, the sum of the weight's rows times their output gradients.
struct WeightedRows<'a> {
    in_features: usize,
    out_features: usize,
    /// First column of the block.
    start: usize,
    columns: usize,
    grad_output: &'a [f32],
    weight: &'a [f32],
    /// Sums of each sample, `[n, stride]`, zero at the start.
    sums: &'a mut [f32],
    /// Elements of a row of sums: whole vectors.
    stride: usize,
}

impl WithSimd for WeightedRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        self.cover(simd, self.sums.len() / self.stride, self.out_features);
    }
}

impl Tiles for WeightedRows<'_> {
    #[inline(always)]
    fn tile<S: Simd, const N: usize, const R: usize>(&mut self, simd: S, sample: usize, row: usize) {
        let Self { in_features, out_features, start, columns, grad_output, weight, stride, .. } = *self;
        let (count, tail) = (columns / S::F32_LANES, columns % S::F32_LANES);
        let weights = rows::<S, R>(weight, in_features, row, start, columns);
        let next = rows::<S, R>(weight, in_features, (row + R).min(out_features - R), start, columns);
        let next = rows_to_prefetch::<S, R>(next, sample, self.sums.len() / stride);
        let mut grads = [[simd.splat_f32s(0.0); R]; N];
        for s in 0..N {
            for r in 0..R {
                grads[s][r] = simd.splat_f32s(grad_output[(sample + s) * out_features + row + r]);
            }
        }
        // The samples' rows of sums, all of the same length, so that the loop needs no bounds checks.
        let mut left = &mut self.sums[sample * stride..];
        let mut sums: [&mut [S::f32s]; N] = [const { None::<&mut [S::f32s]> }; N].map(Option::unwrap_or_default);
        for s in 0..N {
            let (sample, others) = left.split_at_mut(stride);
            sums[s] = &mut S::as_mut_simd_f32s(sample).0[..count + usize::from(tail > 0)];
            left = others;
        }
        for i in 0..count {
            for r in 0..R {
                if let Some(vector) = next[r].get(i) {
                    prefetch::to_read(vector);
                }
            }
            for s in 0..N {
                let mut sum = sums[s][i];
                for r in 0..R {
                    sum = simd.mul_add_e_f32s(grads[s][r], weights[r][i], sum);
                }
                sums[s][i] = sum;
            }
        }
        if tail > 0 {
            for r in 0..R {
                let w = load(simd, weight, (row + r) * in_features + start + columns - tail, tail);
                for s in 0..N {
                    sums[s][count] = simd.mul_add_e_f32s(grads[s][r], w, sums[s][count]);
                }
            }
        }
    }
}

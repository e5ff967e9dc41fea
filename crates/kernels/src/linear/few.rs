//! Few samples: the weight is far larger than all else, so each of its elements is read once (or written once, as the
//! weight's gradient), and what is kept of the samples stays in cache meanwhile.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::conv::Epilogue;
use crate::prefetch;
use crate::rows::with_scratch;
use crate::simd::{Level, dispatch};
use crate::vector::load;

/// Output features that one piece of the forward pass computes.
const FEATURES: usize = 64;

/// Inputs that are multiplied before the next: those of four samples and four features stay in the first-level cache,
/// those of all samples in the second.
const INPUTS: usize = 1024;

/// Samples whose sums are in registers at once.
const SAMPLES: usize = 4;

/// `output = epilogue(input * weight^T)`.
pub(super) fn forward(level: Level, n: usize, input: &[f32], weight: &[f32], epilogue: Epilogue, output: &mut [f32]) {
    let (in_features, out_features) = (input.len() / n, output.len() / n);
    let pieces = column_blocks(output, out_features, FEATURES);
    pieces.into_par_iter().zip(weight.par_chunks(FEATURES * in_features)).for_each(|(sums, weight)| {
        level.run(Dots { in_features, input, weight, sums });
    });
    output.par_chunks_exact_mut(out_features).enumerate().for_each(|(row, output)| {
        dispatch(
            #[inline(always)]
            || epilogue.apply(row * out_features, out_features, output),
        );
    });
}

/// Cuts the rows of a matrix into parts of `width` columns: for each block of columns, its part of every row.
fn column_blocks(matrix: &mut [f32], columns: usize, width: usize) -> Vec<Vec<&mut [f32]>> {
    let mut blocks: Vec<Vec<_>> = (0..columns.div_ceil(width)).map(|_| Vec::new()).collect();
    for row in matrix.chunks_exact_mut(columns) {
        for (block, part) in blocks.iter_mut().zip(row.chunks_mut(width)) {
            block.push(part);
        }
    }
    blocks
}

/// The inner products of every sample with some rows of the weight.
struct Dots<'a> {
    in_features: usize,
    /// The samples.
    input: &'a [f32],
    /// The rows.
    weight: &'a [f32],
    /// For each sample its products.
    sums: Vec<&'a mut [f32]>,
}

impl WithSimd for Dots<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let features = self.weight.len() / self.in_features;
        for start in (0..self.in_features).step_by(INPUTS) {
            let mut row = 0;
            while row < features {
                // As many rows as there are registers for the sums.
                if row + 4 <= features && S::REGISTER_COUNT >= 32 {
                    self.rows::<S, 4>(simd, start, row);
                    row += 4;
                } else if row + 2 <= features {
                    self.rows::<S, 2>(simd, start, row);
                    row += 2;
                } else {
                    self.rows::<S, 1>(simd, start, row);
                    row += 1;
                }
            }
        }
    }
}

impl Dots<'_> {
    /// The products of a block of inputs with `R` rows.
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&mut self, simd: S, start: usize, row: usize) {
        for sample in (0..self.sums.len()).step_by(SAMPLES) {
            match self.sums.len() - sample {
                1 => self.tile::<S, 1, R>(simd, start, sample, row),
                2 => self.tile::<S, 2, R>(simd, start, sample, row),
                3 => self.tile::<S, 3, R>(simd, start, sample, row),
                _ => self.tile::<S, SAMPLES, R>(simd, start, sample, row),
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const N: usize, const R: usize>(&mut self, simd: S, start: usize, sample: usize, row: usize) {
        let len = INPUTS.min(self.in_features - start);
        let (count, tail) = (len / S::F32_LANES, len % S::F32_LANES);
        let at = |row: usize| row * self.in_features + start;
        let mut inputs: [&[S::f32s]; N] = [&[]; N];
        let (mut weights, mut next): ([&[S::f32s]; R], [&[S::f32s]; R]) = ([&[]; R], [&[]; R]);
        for s in 0..N {
            inputs[s] = &S::as_simd_f32s(&self.input[at(sample + s)..][..len]).0[..count];
        }
        for r in 0..R {
            weights[r] = &S::as_simd_f32s(&self.weight[at(row + r)..][..len]).0[..count];
            // The CPU fetches a row ahead of its own accord, but does not see that the next block of columns is far away.
            let ahead = self.weight.get(at(row + R + r)..).and_then(|row| row.get(..len));
            next[r] = ahead.map_or(weights[r], |row| &S::as_simd_f32s(row).0[..count]);
        }
        let mut sums = [[simd.splat_f32s(0.0); R]; N];
        for i in 0..count {
            if sample == 0 {
                for r in 0..R {
                    prefetch::to_read(&next[r][i]);
                }
            }
            for s in 0..N {
                for r in 0..R {
                    sums[s][r] = simd.mul_add_e_f32s(inputs[s][i], weights[r][i], sums[s][r]);
                }
            }
        }
        if tail > 0 {
            for s in 0..N {
                let x = load(simd, self.input, at(sample + s) + len - tail, tail);
                for r in 0..R {
                    let w = load(simd, self.weight, at(row + r) + len - tail, tail);
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

/// Inputs whose gradients one piece of work sums up, in the first-level cache.
const COLUMNS: usize = 512;

/// The gradient of the input: `grad_output * weight`.
pub(super) fn backward_input(
    level: Level,
    n: usize,
    grad_output: &[f32],
    weight: &[f32],
    accumulate: bool,
    grad_input: &mut [f32],
) {
    let in_features = grad_input.len() / n;
    column_blocks(grad_input, in_features, COLUMNS).into_par_iter().enumerate().for_each(|(block, mut parts)| {
        let columns = parts[0].len();
        let stride = columns.next_multiple_of(level.lanes());
        with_scratch(n * stride, |sums| {
            sums.fill(0.0);
            level.run(Combine { in_features, first: block * COLUMNS, columns, grad_output, weight, sums, n, stride });
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

/// For every sample, the sum of the weight's rows, each times its gradient, in a block of columns.
struct Combine<'a> {
    n: usize,
    in_features: usize,
    first: usize,
    columns: usize,
    grad_output: &'a [f32],
    weight: &'a [f32],
    /// The sums, a row of whole vectors for each sample.
    sums: &'a mut [f32],
    /// Elements of such a row.
    stride: usize,
}

impl WithSimd for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let features = self.weight.len() / self.in_features;
        let mut row = 0;
        while row < features {
            if row + 4 <= features && S::REGISTER_COUNT >= 32 {
                self.rows::<S, 4>(simd, row);
                row += 4;
            } else if row + 2 <= features {
                self.rows::<S, 2>(simd, row);
                row += 2;
            } else {
                self.rows::<S, 1>(simd, row);
                row += 1;
            }
        }
    }
}

impl Combine<'_> {
    #[inline(always)]
    fn rows<S: Simd, const R: usize>(&mut self, simd: S, row: usize) {
        for sample in (0..self.n).step_by(SAMPLES) {
            match self.n - sample {
                1 => self.tile::<S, 1, R>(simd, sample, row),
                2 => self.tile::<S, 2, R>(simd, sample, row),
                3 => self.tile::<S, 3, R>(simd, sample, row),
                _ => self.tile::<S, SAMPLES, R>(simd, sample, row),
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const N: usize, const R: usize>(&mut self, simd: S, sample: usize, row: usize) {
        let (count, tail) = (self.columns / S::F32_LANES, self.columns % S::F32_LANES);
        let features = self.grad_output.len() / self.n;
        let at = |row: usize| row * self.in_features + self.first;
        let (mut weights, mut next): ([&[S::f32s]; R], [&[S::f32s]; R]) = ([&[]; R], [&[]; R]);
        let mut grads = [[simd.splat_f32s(0.0); R]; N];
        for r in 0..R {
            weights[r] = &S::as_simd_f32s(&self.weight[at(row + r)..][..self.columns]).0[..count];
            let ahead = self.weight.get(at(row + R + r)..).and_then(|row| row.get(..self.columns));
            next[r] = ahead.map_or(weights[r], |row| &S::as_simd_f32s(row).0[..count]);
            for s in 0..N {
                grads[s][r] = simd.splat_f32s(self.grad_output[(sample + s) * features + row + r]);
            }
        }
        let mut rows = self.sums.chunks_exact_mut(self.stride).skip(sample);
        let sums: [&mut [S::f32s]; N] = std::array::from_fn(|_| S::as_mut_simd_f32s(rows.next().unwrap_or_default()).0);
        for s in 0..N {
            assert!(sums[s].len() >= count);
        }
        for i in 0..count {
            if sample == 0 {
                for r in 0..R {
                    prefetch::to_read(&next[r][i]);
                }
            }
            let mut w = [simd.splat_f32s(0.0); R];
            for r in 0..R {
                w[r] = weights[r][i];
            }
            for s in 0..N {
                let mut sum = sums[s][i];
                for r in 0..R {
                    sum = simd.mul_add_e_f32s(grads[s][r], w[r], sum);
                }
                sums[s][i] = sum;
            }
        }
        if tail > 0 {
            for r in 0..R {
                let w = load(simd, self.weight, at(row + r) + self.columns - tail, tail);
                for s in 0..N {
                    sums[s][count] = simd.mul_add_e_f32s(grads[s][r], w, sums[s][count]);
                }
            }
        }
    }
}

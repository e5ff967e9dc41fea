//! Copies, sums, column slices, shuffles, transposes and masks of values.

use rayon::prelude::*;

use crate::rows::rows_per_piece;
use crate::simd::dispatch;

/// `target = values`; with `accumulate`, `target += values`.
pub fn add_or_copy(values: &[f32], accumulate: bool, target: &mut [f32]) {
    assert_eq!(values.len(), target.len());
    let piece = rows_per_piece(1);
    target.par_chunks_mut(piece).zip(values.par_chunks(piece)).for_each(|(target, values)| {
        if accumulate {
            dispatch(
                #[inline(always)]
                || target.iter_mut().zip(values).for_each(|(t, &v)| *t += v),
            );
        } else {
            target.copy_from_slice(values);
        }
    });
}

/// Copies `values`, `[rows, width]`, into the columns of `target`, `[rows, total]`, from column `offset` on.
///
/// One call per input concatenates channels.
pub fn put_columns(values: &[f32], width: usize, total: usize, offset: usize, target: &mut [f32]) {
    let rows = rows_per_piece(total);
    target.par_chunks_mut(rows * total).zip(values.par_chunks(rows * width)).for_each(|(target, values)| {
        for (t, v) in target.chunks_exact_mut(total).zip(values.chunks_exact(width)) {
            t[offset..offset + width].copy_from_slice(v);
        }
    });
}

/// Copies `width` columns of `values`, `[rows, total]`, from column `offset` on, to `target`, `[rows, width]`.
///
/// The inverse of [`put_columns`]. With `accumulate`, adds to `target`.
pub fn take_columns(values: &[f32], width: usize, total: usize, offset: usize, accumulate: bool, target: &mut [f32]) {
    let rows = rows_per_piece(total);
    target.par_chunks_mut(rows * width).zip(values.par_chunks(rows * total)).for_each(|(target, values)| {
        for (t, v) in target.chunks_exact_mut(width).zip(values.chunks_exact(total)) {
            let v = &v[offset..offset + width];
            if accumulate {
                t.iter_mut().zip(v).for_each(|(t, &v)| *t += v);
            } else {
                t.copy_from_slice(v);
            }
        }
    });
}

/// The gradient of [`take_columns`]: adds `values`, `[rows, width]`, to columns of `target`, `[rows, total]`.
///
/// Without `accumulate`, `target` is zeroed first.
pub fn add_columns(values: &[f32], width: usize, total: usize, offset: usize, accumulate: bool, target: &mut [f32]) {
    let rows = rows_per_piece(total);
    target.par_chunks_mut(rows * total).zip(values.par_chunks(rows * width)).for_each(|(target, values)| {
        if !accumulate {
            target.fill(0.0);
        }
        for (t, v) in target.chunks_exact_mut(total).zip(values.chunks_exact(width)) {
            t[offset..offset + width].iter_mut().zip(v).for_each(|(t, &v)| *t += v);
        }
    });
}

/// `torch.nn.ChannelShuffle` of rows of `channels`: column `j` of group `i` becomes column `i` of group `j`.
///
/// A shuffle with `channels / groups` groups is the inverse. With `accumulate`, adds to `target`.
pub fn shuffle_columns(values: &[f32], channels: usize, groups: usize, accumulate: bool, target: &mut [f32]) {
    assert_eq!(values.len(), target.len());
    let (rows, width) = (rows_per_piece(channels), channels / groups);
    target.par_chunks_mut(rows * channels).zip(values.par_chunks(rows * channels)).for_each(|(target, values)| {
        for (t, v) in target.chunks_exact_mut(channels).zip(values.chunks_exact(channels)) {
            for (j, t) in t.chunks_exact_mut(groups).enumerate() {
                for (i, t) in t.iter_mut().enumerate() {
                    let v = v[i * width + j];
                    *t = if accumulate { *t + v } else { v };
                }
            }
        }
    });
}

/// Transposes each matrix of a batch, `[rows, cols]`. With `accumulate`, adds to `target`.
///
/// Converts flattened maps between NHWC and PyTorch's NCHW.
pub fn transpose(values: &[f32], rows: usize, cols: usize, accumulate: bool, target: &mut [f32]) {
    assert_eq!(values.len(), target.len());
    target.par_chunks_mut(rows * cols).zip(values.par_chunks(rows * cols)).for_each(|(target, values)| {
        for (j, out) in target.chunks_exact_mut(rows).enumerate() {
            for (i, t) in out.iter_mut().enumerate() {
                let v = values[i * cols + j];
                *t = if accumulate { *t + v } else { v };
            }
        }
    });
}

/// `target = values * mask`, or `target += values * mask` with `accumulate`.
///
/// `mask(sample, out)` fills the `sample_len` factors of one sample. The backward pass of a dropout is the same call on
/// gradients.
pub fn mask(
    values: &[f32],
    sample_len: usize,
    mask: impl Fn(usize, &mut [f32]) + Sync,
    accumulate: bool,
    target: &mut [f32],
) {
    assert_eq!(values.len(), target.len());
    target.par_chunks_mut(sample_len).zip(values.par_chunks(sample_len)).enumerate().for_each(
        |(sample, (target, values))| {
            let mut factors = vec![0.0; sample_len];
            mask(sample, &mut factors);
            for ((t, &v), &f) in target.iter_mut().zip(values).zip(&factors) {
                *t = if accumulate { *t + v * f } else { v * f };
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    #[test]
    fn take_columns_returns_what_put_columns_wrote() {
        let (a, b) = (values("a", 7 * 3), values("b", 7 * 5));
        let mut both = vec![0.0; 7 * 8];
        put_columns(&a, 3, 8, 0, &mut both);
        put_columns(&b, 5, 8, 3, &mut both);
        assert_eq!(both[8..11], a[3..6]);
        assert_eq!(both[11..16], b[5..10]);
        let mut back = vec![1.0; 7 * 5];
        take_columns(&both, 5, 8, 3, false, &mut back);
        assert_eq!(back, b);
        take_columns(&both, 5, 8, 3, true, &mut back);
        assert_eq!(back, b.iter().map(|x| x + x).collect::<Vec<_>>());
        add_columns(&b, 5, 8, 3, true, &mut both);
        assert_eq!((both[8], both[11]), (a[3], 2.0 * b[5]));
        add_columns(&b, 5, 8, 3, false, &mut both);
        assert_eq!((both[8], both[11]), (0.0, b[5]));
    }

    #[test]
    fn shuffle_columns_follows_pytorch_and_has_inverse() {
        let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let (mut y, mut z) = (vec![0.0; 12], vec![1.0; 12]);
        shuffle_columns(&x, 6, 2, false, &mut y);
        assert_eq!(y[..6], [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        shuffle_columns(&y, 6, 3, true, &mut z);
        assert_eq!(z, x.iter().map(|x| x + 1.0).collect::<Vec<_>>());
    }

    #[test]
    fn transpose_twice_is_identity() {
        let x = values("x", 2 * 3 * 4);
        let (mut y, mut z) = (vec![0.0; 24], vec![0.0; 24]);
        transpose(&x, 3, 4, false, &mut y);
        assert_eq!(y[12 + 2 * 3 + 1], x[12 + 4 + 2]);
        transpose(&y, 4, 3, false, &mut z);
        assert_eq!(z, x);
    }

    #[test]
    fn mask_is_per_sample_and_accumulates() {
        let mut y = vec![1.0; 6];
        mask(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3, |sample, f| f.fill(sample as f32), true, &mut y);
        assert_eq!(y, [1.0, 1.0, 1.0, 5.0, 6.0, 7.0]);
        add_or_copy(&[2.0; 6], true, &mut y);
        assert_eq!(y, [3.0, 3.0, 3.0, 7.0, 8.0, 9.0]);
    }
}

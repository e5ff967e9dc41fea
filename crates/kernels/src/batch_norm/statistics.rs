//! Batch statistics, computed from a map or gathered while the map is computed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::rows::rows_per_piece;
use crate::simd::dispatch;

/// Mean and variance of one batch, one value per channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Mean.
    pub mean: Vec<f32>,
    /// Biased variance (divided by the count), which the normalisation uses.
    pub var: Vec<f32>,
}

impl Statistics {
    /// The statistics of `x`, `[rows, channels]`.
    ///
    /// Method: each piece is summed around its own mean and the pieces are merged in `f64` (Chan, Golub and LeVeque
    /// 1979), so that a large mean does not swamp a small variance.
    pub fn of(x: &[f32], channels: usize) -> Self {
        let rows = x.len() / channels;
        let step = rows_per_piece(channels);
        let pieces: Vec<(Vec<f32>, Vec<f32>)> = x
            .par_chunks(step * channels)
            .map(|piece| {
                let (mut mean, mut squares) = (vec![0.0f32; channels], vec![0.0f32; channels]);
                let scale = 1.0 / (piece.len() / channels) as f32;
                dispatch(
                    #[inline(always)]
                    || {
                        for row in piece.chunks_exact(channels) {
                            for (m, &x) in mean.iter_mut().zip(row) {
                                *m += x;
                            }
                        }
                        for m in &mut mean {
                            *m *= scale;
                        }
                        for row in piece.chunks_exact(channels) {
                            for ((s, &m), &x) in squares.iter_mut().zip(&mean).zip(row) {
                                *s += (x - m) * (x - m);
                            }
                        }
                    },
                );
                (mean, squares)
            })
            .collect();
        let mut merged = Statistics { mean: vec![0.0; channels], var: vec![0.0; channels] };
        for c in 0..channels {
            let (mut count, mut mean, mut squares) = (0.0f64, 0.0f64, 0.0f64);
            for (i, (piece_mean, piece_squares)) in pieces.iter().enumerate() {
                let n = step.min(rows - i * step) as f64;
                let delta = f64::from(piece_mean[c]) - mean;
                mean += delta * n / (count + n);
                squares += f64::from(piece_squares[c]) + delta * delta * count * n / (count + n);
                count += n;
            }
            merged.mean[c] = mean as f32;
            merged.var[c] = (squares / count) as f32;
        }
        merged
    }

    /// Updates running statistics as PyTorch does, with the unbiased variance of `rows` values.
    pub fn update_running(&self, rows: usize, momentum: f32, running_mean: &mut [f32], running_var: &mut [f32]) {
        let unbiased = if rows > 1 { rows as f32 / (rows - 1) as f32 } else { 1.0 };
        for (r, &m) in running_mean.iter_mut().zip(&self.mean) {
            *r += momentum * (m - *r);
        }
        for (r, &v) in running_var.iter_mut().zip(&self.var) {
            *r += momentum * (v * unbiased - *r);
        }
    }
}

/// Accumulates the batch statistics of a map while it is computed, piece by piece.
///
/// Each piece sums its values' distances from the channel's pivot, and their squares. This is exact enough for a pivot
/// near the mean, such as the running mean; [`statistics`](Self::statistics) detects one that is too far away.
#[derive(Debug)]
pub struct Gather<'a> {
    pivots: &'a [f32],
    /// Sums by the place of their piece, which fixes the order of summation whichever thread finishes first.
    pieces: Mutex<BTreeMap<usize, Vec<f32>>>,
}

impl<'a> Gather<'a> {
    /// An empty accumulator with one pivot per channel.
    pub fn new(pivots: &'a [f32]) -> Self {
        Self { pivots, pieces: Mutex::default() }
    }

    /// The pivots, one per channel.
    pub(crate) fn pivots(&self) -> &[f32] {
        self.pivots
    }

    /// Adds the sums of the piece at `place`, `[2, channels]`: distances from the pivot, and their squares.
    pub(crate) fn add(&self, place: usize, sums: Vec<f32>) {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner).insert(place, sums);
    }

    /// The statistics of all pieces, which hold `rows` values per channel.
    ///
    /// `None` if a pivot lies more than about 30 standard deviations from the mean, where digits are lost, or if a value
    /// is not finite.
    pub fn statistics(self, rows: usize) -> Option<Statistics> {
        let channels = self.pivots.len();
        let mut sums = vec![0.0; 2 * channels];
        for piece in self.pieces.into_inner().unwrap_or_else(PoisonError::into_inner).values() {
            sums.iter_mut().zip(piece).for_each(|(s, &p)| *s += f64::from(p));
        }
        let mut statistics = Statistics { mean: vec![0.0; channels], var: vec![0.0; channels] };
        for c in 0..channels {
            let (distance, square) = (sums[c] / rows as f64, sums[channels + c] / rows as f64);
            let var = square - distance * distance;
            let near = distance * distance <= 1e3 * var || square == 0.0;
            if !near {
                return None;
            }
            statistics.mean[c] = (f64::from(self.pivots[c]) + distance) as f32;
            statistics.var[c] = var as f32;
        }
        Some(statistics)
    }
}

//! The statistics of a batch: of a map, or gathered while it is computed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::rows::rows_per_piece;
use crate::simd::dispatch;

/// Statistics of one batch, a value a channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Mean.
    pub mean: Vec<f32>,
    /// Biased variance (divided by the count), which normalises.
    pub var: Vec<f32>,
}

impl Statistics {
    /// Mean and variance of each channel of `x`.
    ///
    /// Pieces are summed around their own mean and merged in `f64` (Chan, Golub and LeVeque 1979), so that a
    /// large mean does not drown a small variance.
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

    /// Moves running statistics towards these, as PyTorch does: with the unbiased variance of `rows` values.
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

/// Gathers the statistics of a map while it is computed, piece by piece.
///
/// Each piece adds up its values' distances from a pivot of the channel, and their squares. Around a pivot near the mean,
/// such as the running mean, nothing is lost by that; [`statistics`](Self::statistics) says where it was too far off.
#[derive(Debug)]
pub struct Gather<'a> {
    pivots: &'a [f32],
    /// By the place of the piece, so that they are added up in one order, whoever came first.
    pieces: Mutex<BTreeMap<usize, Vec<f32>>>,
}

impl<'a> Gather<'a> {
    /// Around these pivots, one a channel.
    pub fn new(pivots: &'a [f32]) -> Self {
        Self { pivots, pieces: Mutex::default() }
    }

    pub(crate) fn pivots(&self) -> &[f32] {
        self.pivots
    }

    /// Adds the sums of a piece, `[2, channels]`: of the distances, and of their squares.
    pub(crate) fn add(&self, place: usize, sums: Vec<f32>) {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner).insert(place, sums);
    }

    /// The statistics of all pieces, `rows` values a channel; nothing if a pivot was so far from the mean, 30 times the
    /// standard deviation, that digits were lost, or if the values are not finite.
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

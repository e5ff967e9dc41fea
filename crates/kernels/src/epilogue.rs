//! The epilogue of a product: bias, residual, activation and statistics, applied while the result is in cache.

use crate::Activation;
use crate::batch_norm::Gather;

/// Applied to the output of a convolution or linear layer: `activation(y + bias + residual)`.
#[derive(Clone, Copy)]
pub struct Epilogue<'a> {
    /// Bias, one value per output channel.
    pub bias: Option<&'a [f32]>,
    /// Residual, as long as the output.
    pub residual: Option<&'a [f32]>,
    /// Activation, applied last.
    pub activation: Activation,
    /// Accumulates the batch statistics of the result.
    pub gather: Option<&'a Gather<'a>>,
}

impl Epilogue<'_> {
    /// Leaves the output as it is.
    pub const NONE: Epilogue<'static> =
        Epilogue { bias: None, residual: None, activation: Activation::Identity, gather: None };

    /// The part of the epilogue for a tile: `channels` of the output rows that start at element `start`.
    pub(crate) fn tile(&self, start: usize, channels: std::ops::Range<usize>) -> TileEpilogue<'_> {
        TileEpilogue {
            bias: self.bias.map(|bias| &bias[channels.clone()]),
            residual: self.residual.map(|residual| &residual[start + channels.start..]),
            activation: self.activation,
            pivots: self.gather.map(|gather| &gather.pivots()[channels]),
        }
    }

    /// Zeroed statistics of one piece of the output, `[2, channels]`; empty if none are wanted.
    pub(crate) fn sums(&self, channels: usize) -> Vec<f32> {
        vec![0.0; if self.gather.is_some() { 2 * channels } else { 0 }]
    }

    /// Adds the statistics of the piece at `place` to the gatherer, if there is one.
    pub(crate) fn gathered(&self, place: usize, sums: Vec<f32>) {
        if let Some(gather) = self.gather {
            gather.add(place, sums);
        }
    }

    /// Applies the whole epilogue to the output rows that start at element `start`.
    #[inline(always)]
    pub(crate) fn apply(&self, start: usize, channels: usize, output: &mut [f32]) {
        if let Some(bias) = self.bias {
            for row in output.chunks_exact_mut(channels) {
                for (y, &b) in row.iter_mut().zip(bias) {
                    *y += b;
                }
            }
        }
        if let Some(residual) = self.residual {
            for (y, &r) in output.iter_mut().zip(&residual[start..]) {
                *y += r;
            }
        }
        self.activation.apply(output);
        self.gather_rows(start, channels, output);
    }

    /// Adds the statistics of finished output rows that start at element `start`, if they are wanted.
    #[inline(always)]
    pub(crate) fn gather_rows(&self, start: usize, channels: usize, output: &[f32]) {
        let Some(gather) = self.gather else { return };
        let mut sums = self.sums(channels);
        let (distances, squares) = sums.split_at_mut(channels);
        let pivots = &gather.pivots()[..channels];
        for row in output.chunks_exact(channels) {
            for c in 0..channels {
                let distance = row[c] - pivots[c];
                distances[c] += distance;
                squares[c] += distance * distance;
            }
        }
        gather.add(start, sums);
    }
}

/// An [`Epilogue`] restricted to the rows and columns of one matrix product, applied in registers.
#[derive(Clone, Copy)]
pub(crate) struct TileEpilogue<'a> {
    /// Bias, one value per column.
    pub bias: Option<&'a [f32]>,
    /// Residual, whose rows lie as those of the product do.
    pub residual: Option<&'a [f32]>,
    /// Activation, applied last.
    pub activation: Activation,
    /// One pivot per column, around which the results are summed; none if no statistics are wanted.
    pub pivots: Option<&'a [f32]>,
}

impl TileEpilogue<'_> {
    pub const NONE: TileEpilogue<'static> =
        TileEpilogue { bias: None, residual: None, activation: Activation::Identity, pivots: None };
}

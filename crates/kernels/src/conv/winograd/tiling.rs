//! Division of the output map into tiles.

use std::ops::Range;

use super::transforms::OUT;
use crate::conv::Shape;

/// The tiles of a batch. A strip is one row of tiles, up to 4 lines of the output.
#[derive(Clone, Copy)]
pub(super) struct Tiling {
    pub shape: Shape,
    pub strips_per_image: usize,
    pub tiles_per_strip: usize,
}

impl Tiling {
    pub fn new(shape: &Shape) -> Self {
        let [height, width] = shape.output;
        Self { shape: *shape, strips_per_image: height.div_ceil(OUT), tiles_per_strip: width.div_ceil(OUT) }
    }

    /// Number of strips of the batch.
    pub fn strips(&self) -> usize {
        self.shape.n * self.strips_per_image
    }

    /// Number of tiles of the batch.
    pub fn tiles(&self) -> usize {
        self.strips() * self.tiles_per_strip
    }

    /// A tile's image, and the line and column of its first output pixel.
    pub fn position(&self, tile: usize) -> (usize, [usize; 2]) {
        let (strip, column) = (tile / self.tiles_per_strip, tile % self.tiles_per_strip);
        (strip / self.strips_per_image, [strip % self.strips_per_image * OUT, column * OUT])
    }

    /// First output pixel of a strip, counted over the batch.
    pub fn first_pixel(&self, strip: usize) -> usize {
        let [height, width] = self.shape.output;
        (strip / self.strips_per_image * height + strip % self.strips_per_image * OUT) * width
    }

    /// The input lines of some strips, for prefetching; empty past the last strip.
    pub fn input_lines<'a>(&self, strips: Range<usize>, input: &'a [f32]) -> &'a [f32] {
        let [height, width] = self.shape.input;
        let line = |strip: usize| strip / self.strips_per_image * height + strip % self.strips_per_image * OUT;
        let lines = line(strips.start.min(self.strips()))..line(strips.end.min(self.strips()));
        let len = width * self.shape.in_channels;
        &input[lines.start * len..(lines.end * len).min(input.len())]
    }

    /// The output lines of some strips; empty past the last strip.
    pub fn output_lines<'a>(&self, strips: Range<usize>, output: &'a [f32]) -> &'a [f32] {
        let at = |strip: usize| self.first_pixel(strip.min(self.strips())) * self.shape.out_channels;
        &output[at(strips.start)..at(strips.end)]
    }

    /// Splits the output map into blocks of `strips` strips: the first tile of each block, and its elements.
    pub fn blocks<'a>(&self, strips: usize, mut output: &'a mut [f32]) -> Vec<(usize, &'a mut [f32])> {
        let channels = self.shape.out_channels;
        let mut blocks = Vec::new();
        for first in (0..self.strips()).step_by(strips) {
            let end = (first + strips).min(self.strips());
            let (block, rest) = output.split_at_mut((self.first_pixel(end) - self.first_pixel(first)) * channels);
            blocks.push((first * self.tiles_per_strip, block));
            output = rest;
        }
        blocks
    }
}

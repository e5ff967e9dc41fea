//! The decoded picture.

/// An RGB picture, 8 bits a channel, rows from top to bottom without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl Image {
    /// A picture of `width` by `height` pixels from its bytes, row by row, three (R, G, B) a pixel.
    ///
    /// # Panics
    /// If a side is 0 or `pixels` does not hold `width * height * 3` bytes.
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Self {
        assert!(width > 0 && height > 0, "an image needs at least one pixel");
        assert_eq!(pixels.len() as u64, u64::from(width) * u64::from(height) * 3, "three bytes a pixel");
        Self { width, height, pixels }
    }

    /// A picture of one colour.
    ///
    /// # Panics
    /// If a side is 0.
    pub fn filled(width: u32, height: u32, rgb: [u8; 3]) -> Self {
        Self::new(width, height, rgb.repeat(width as usize * height as usize))
    }

    /// Width in pixels, at least 1.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels, at least 1.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The bytes: `[height, width, 3]`.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The bytes, to be changed in place.
    pub(crate) fn pixels_mut(&mut self) -> &mut [u8] {
        &mut self.pixels
    }

    /// Mirrors the picture left to right, as PIL's `FLIP_LEFT_RIGHT`.
    pub fn flip_horizontal(&mut self) {
        let row_bytes = self.width as usize * 3;
        for row in self.pixels.chunks_exact_mut(row_bytes) {
            let (pixels, _) = row.as_chunks_mut::<3>();
            pixels.reverse();
        }
    }

    /// Turns the picture upright according to an EXIF orientation (1 to 8), as PIL's
    /// `ImageOps.exif_transpose`; any other value leaves it as it is.
    pub(crate) fn upright(self, orientation: u8) -> Self {
        let (w, h) = (self.width as usize, self.height as usize);
        let (source, _) = self.pixels.as_chunks::<3>();
        // For each pixel (x, y) of the result: where it lies in the stored picture.
        let from = |x: usize, y: usize| match orientation {
            2 => (w - 1 - x, y),
            3 => (w - 1 - x, h - 1 - y),
            4 => (x, h - 1 - y),
            5 => (y, x),
            6 => (y, h - 1 - x),
            7 => (w - 1 - y, h - 1 - x),
            _ => (w - 1 - y, x),
        };
        let (width, height) = match orientation {
            2..=4 => (w, h),
            5..=8 => (h, w),
            _ => return self,
        };
        let mut pixels = Vec::with_capacity(self.pixels.len());
        for y in 0..height {
            for x in 0..width {
                let (sx, sy) = from(x, y);
                pixels.extend_from_slice(&source[sy * w + sx]);
            }
        }
        Self::new(width as u32, height as u32, pixels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flip_reverses_each_row() {
        let mut image = Image::new(2, 2, vec![1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
        image.flip_horizontal();
        assert_eq!(image.pixels(), [2, 2, 2, 1, 1, 1, 4, 4, 4, 3, 3, 3]);
    }

    #[test]
    #[should_panic(expected = "three bytes a pixel")]
    fn the_bytes_must_match_the_size() {
        Image::new(2, 2, vec![0; 11]);
    }
}

//! Colours: red, green and blue as a screen shows them (sRGB's own scale), 0 to 1 each.

/// A colour; values above 1 are highlights that the camera will cut off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Colour(pub [f32; 3]);

impl Colour {
    /// From the usual notation `0xRRGGBB`.
    pub const fn hex(rgb: u32) -> Self {
        Self([((rgb >> 16) & 255) as f32 / 255.0, ((rgb >> 8) & 255) as f32 / 255.0, (rgb & 255) as f32 / 255.0])
    }

    /// All the way from this colour (`t` 0) to another (`t` 1).
    pub fn mix(self, other: Self, t: f32) -> Self {
        self.zip(other, |a, b| a + (b - a) * t)
    }

    /// Lighter (`factor` above 1) or darker.
    pub fn lit(self, factor: f32) -> Self {
        Self(self.0.map(|level| level * factor))
    }

    /// Each channel with its counterpart of another colour.
    pub fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self([f(self.0[0], other.0[0]), f(self.0[1], other.0[1]), f(self.0[2], other.0[2])])
    }
}

//! The camera: light, lens and sensor, from the painted canvas to bytes.

use regraft_random::{Generator, Rng};

use crate::canvas::Canvas;
use crate::colour::Colour;
use crate::draws::{around_zero, between, chance};
use crate::trig::direction;

/// Takes the picture: red, green and blue of each pixel, row by row.
pub(crate) fn expose(canvas: &Canvas, rng: &mut Generator) -> Vec<u8> {
    let side = canvas.side;
    let pixels = soften(canvas, rng);
    let light = Light::new(rng);
    let noise = if chance(rng, 0.7) { between(rng, 0.005, 0.05) } else { 0.0 };
    let mut bytes = Vec::with_capacity(side * side * 3);
    for (place, pixel) in pixels.into_iter().enumerate() {
        let (x, y) = ((place % side) as f32 / side as f32 - 0.5, (place / side) as f32 / side as f32 - 0.5);
        let Colour(levels) = light.on(pixel, x, y);
        // Two bytes a channel: the difference of two uniform draws has a triangle's density, near enough to a bell.
        let random = rng.next_u64().to_le_bytes();
        for (channel, level) in levels.into_iter().enumerate() {
            let difference = f32::from(random[2 * channel]) - f32::from(random[2 * channel + 1]);
            let noisy = level + noise * difference * (1.0 / 128.0);
            // The cast keeps to 0..=255.
            bytes.push((noisy * 255.0 + 0.5) as u8);
        }
    }
    bytes
}

/// The light of a picture and what the lens makes of it.
struct Light {
    /// Brightness of each channel: exposure and colour temperature.
    gain: Colour,
    /// By how much one side is lighter than the other, right and down.
    slope: (f32, f32),
    /// How much darker the corners are.
    vignette: f32,
    /// How much everything is drowned in grey: mist, or a lens against the light.
    haze: f32,
    /// 1 as painted, 0 grey.
    saturation: f32,
}

impl Light {
    fn new(rng: &mut Generator) -> Self {
        let exposure = between(rng, 0.7, 1.25);
        let (warm, tint) = (around_zero(rng, 0.22), around_zero(rng, 0.06));
        let gain = Colour([1.0 + warm, 1.0 + tint, 1.0 - warm]).lit(exposure);
        let (dx, dy) = direction(between(rng, 0.0, 1.0));
        let slope = between(rng, 0.0, 0.5);
        Self {
            gain,
            slope: (slope * dx, slope * dy),
            vignette: between(rng, 0.0, 0.6),
            haze: between(rng, 0.0, 0.18),
            saturation: between(rng, 0.75, 1.08),
        }
    }

    /// A colour as it arrives at the sensor; `x` and `y` run from -0.5 to 0.5.
    fn on(&self, colour: Colour, x: f32, y: f32) -> Colour {
        let lit = 1.0 + self.slope.0 * x + self.slope.1 * y - self.vignette * (x * x + y * y);
        let Colour([r, g, b]) = colour;
        let grey = 0.3 * r + 0.6 * g + 0.1 * b;
        let colour = Colour([grey; 3]).mix(colour, self.saturation);
        colour.zip(self.gain, |level, gain| level * gain * lit).mix(Colour([0.6; 3]), self.haze)
    }
}

/// A slight blur, of random strength: each pixel with its neighbours, first along rows, then along columns.
fn soften(canvas: &Canvas, rng: &mut Generator) -> Vec<Colour> {
    let side = canvas.side;
    let share = if chance(rng, 0.7) { between(rng, 0.0, 0.3) } else { 0.0 };
    let blend = |pixels: &[Colour], step: usize, place: usize, index: usize| {
        let before = pixels[if index == 0 { place } else { place - step }];
        let after = pixels[if index + 1 == side { place } else { place + step }];
        pixels[place].mix(before.mix(after, 0.5), 2.0 * share)
    };
    let rows: Vec<Colour> = (0..side * side).map(|place| blend(&canvas.pixels, 1, place, place % side)).collect();
    (0..side * side).map(|place| blend(&rows, side, place, place / side)).collect()
}

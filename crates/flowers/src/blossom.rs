//! One blossom: grown from the layers of its kind, and the shader that says what colour it has at a place.

use regraft_random::{Generator, Rng};

use crate::canvas::{Area, Canvas, Point};
use crate::colour::Colour;
use crate::draws::{around_zero, between, count};
use crate::kinds::Palette;
use crate::layer::{Disc, Ink, Layer, Mark, Petals, Spread};
use crate::noise::{cell, ease, smooth, step};
use crate::outline::zigzag;
use crate::trig::{direction, sine, turns_of};

/// Where a blossom is and how it is seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pose {
    pub centre: Point,
    /// What a blossom unit is in the frame.
    pub radius: f32,
    /// Rotation in its own plane, in turns.
    pub turn: f32,
    /// How oblique the view is: 1 from above, towards 0 from the side.
    pub squash: f32,
    /// The direction in which it is squashed, in turns.
    pub axis: f32,
}

/// A blossom that can be painted.
pub(crate) struct Blossom {
    pose: Pose,
    /// From the frame to blossom units: a 2x2 matrix, row by row.
    inverse: [f32; 4],
    /// Where the plane at height 1 has its middle, in blossom units.
    lean: (f32, f32),
    /// How far from its origin it reaches, in blossom units.
    extent: f32,
    palette: Palette,
    layers: Vec<(Layer, Grown)>,
}

/// What is random about a layer.
struct Grown {
    key: u32,
    /// In the order of their angles; none for a disc.
    petals: Vec<Petal>,
    /// The first petal's angle and the angle between two, in turns.
    first: f32,
    spacing: f32,
    /// How many petals to each side of a place may cover it.
    reach: usize,
}

struct Petal {
    direction: (f32, f32),
    length: f32,
    half_width: f32,
    /// Higher ones lie on lower ones.
    rank: u32,
    /// Brightness: petals face the light differently.
    tone: f32,
}

impl Blossom {
    /// Grows one from the layers of its kind.
    pub fn grow(layers: &[Layer], palette: Palette, pose: Pose, rng: &mut Generator) -> Self {
        let (ax, ay) = direction(pose.axis);
        let (c, s) = direction(pose.turn);
        let stretch = 1.0 / pose.squash - 1.0;
        // Undo the squash along the axis, then the rotation, then the scale.
        let [m00, m01, m11] = [1.0 + stretch * ax * ax, stretch * ax * ay, 1.0 + stretch * ay * ay];
        let scale = 1.0 / pose.radius;
        let inverse = [c * m00 + s * m01, c * m01 + s * m11, c * m01 - s * m00, c * m11 - s * m01].map(|m| m * scale);
        let seen = (1.0 - pose.squash * pose.squash).max(0.0).sqrt() * pose.radius;
        let lean = ((inverse[0] * ax + inverse[1] * ay) * seen, (inverse[2] * ax + inverse[3] * ay) * seen);
        let sun = direction(between(rng, 0.0, 1.0));
        let extent = layers.iter().map(Layer::extent).fold(0.0, f32::max);
        let layers = layers.iter().map(|layer| (*layer, Grown::new(layer, sun, rng))).collect();
        Self { pose, inverse, lean, extent, palette, layers }
    }

    /// Paints it.
    pub fn paint(&self, canvas: &mut Canvas) {
        let Pose { centre: (x, y), radius, .. } = self.pose;
        canvas.paint(Area::around((x, y), self.extent * radius), |place| Some((self.colour_at(place)?, 1.0)));
    }

    /// Its colour at a place in the frame, if it is there.
    fn colour_at(&self, (x, y): Point) -> Option<Colour> {
        let (x, y) = (x - self.pose.centre.0, y - self.pose.centre.1);
        let [a, b, c, d] = self.inverse;
        let (x, y) = (a * x + b * y, c * x + d * y);
        self.layers.iter().rev().find_map(|(layer, grown)| {
            let (at, lift) = match layer {
                Layer::Petals(petals) => (petals.at, petals.lift),
                Layer::Disc(disc) => (disc.at, disc.lift),
            };
            let place = (x - at.0 - lift * self.lean.0, y - at.1 - lift * self.lean.1);
            match layer {
                Layer::Petals(petals) => self.petal_colour(petals, grown, place),
                Layer::Disc(disc) => self.disc_colour(disc, grown.key, place),
            }
        })
    }

    fn petal_colour(&self, spec: &Petals, grown: &Grown, (x, y): (f32, f32)) -> Option<Colour> {
        let (farthest, square) = (spec.farthest(), x * x + y * y);
        if square > farthest * farthest || square < spec.start * spec.start {
            return None;
        }
        let (petal, t, s) = grown.topmost(spec, (x, y))?;
        let [base, tip] = spec.inks.map(|ink| self.palette.ink(ink));
        let mut colour = base.mix(tip, ease(t));
        let strength = marked(spec.mark, t, s, grown.key ^ petal.rank);
        if strength > 0.0 {
            colour = colour.mix(self.palette.ink(Ink::Mark), strength);
        }
        // Darker towards the base and the sides, as bent surfaces are, and fine grooves.
        let edge = 0.16 * step(0.8, 1.0, s.abs()) + 0.1 * s * s;
        let groove = 0.07 * zigzag(3.5 * s);
        Some(colour.lit(petal.tone * (1.0 - edge - groove - 0.22 * (1.0 - t) * (1.0 - t))))
    }

    fn disc_colour(&self, spec: &Disc, key: u32, (x, y): (f32, f32)) -> Option<Colour> {
        let distance = (x * x + y * y).sqrt() / spec.radius;
        if distance > 1.0 + spec.frill {
            return None;
        }
        if spec.frill > 0.0 {
            let angle = turns_of(x, y);
            let wave = 0.6 * sine(9.0 * angle) + 0.4 * sine(14.0 * angle + cell(1, 1, key));
            if distance > 1.0 + spec.frill * wave {
                return None;
            }
        }
        let [middle, rim] = spec.inks.map(|ink| self.palette.ink(ink));
        let colour = middle.mix(rim, ease(distance));
        let dots = 40.0 / (1.0 + 2.0 * spec.radius);
        let dot = 1.6 * (smooth(x * dots, y * dots, key) - 0.5);
        Some(colour.lit(1.05 - 0.25 * distance * distance + spec.grain * dot - 0.12 * (x + y) / spec.radius))
    }
}

/// How much of a petal's place (`t` along, `s` across) has the mark's colour, 0 to 1.
fn marked(mark: Mark, t: f32, s: f32, key: u32) -> f32 {
    match mark {
        Mark::None => 0.0,
        Mark::Veins => 0.55 * step(0.62, 0.9, zigzag(3.0 * s)) * (1.0 - 0.5 * t),
        Mark::Spots => {
            let (x, y) = (t * 11.0, s * 3.5);
            let (column, row) = (x.floor(), y.floor());
            let (dx, dy) = (x - column - 0.5, y - row - 0.5);
            let chosen = cell(column as i32, row as i32, key) < 0.5;
            if chosen && t < 0.75 && dx * dx + dy * dy < 0.14 { 0.85 } else { 0.0 }
        }
        Mark::Checks => {
            let even = ((t * 9.0).floor() as i32 + (s * 3.5).floor() as i32) & 1 == 0;
            if even { 0.75 } else { 0.0 }
        }
        Mark::Blotch(reach) => 1.0 - step(reach * 0.8, reach, t + 0.08 * zigzag(2.5 * s)),
        Mark::Edge(from) => step(from, 0.5 * (1.0 + from), t),
        Mark::Streak(reach) => (1.0 - step(0.12, 0.3, s.abs())) * (1.0 - step(reach * 0.8, reach, t)),
    }
}

impl Grown {
    fn new(layer: &Layer, sun: (f32, f32), rng: &mut Generator) -> Self {
        let key = rng.next_u32();
        let Layer::Petals(spec) = layer else {
            return Self { key, petals: Vec::new(), first: 0.0, spacing: 1.0, reach: 0 };
        };
        let number = count(rng, spec.count);
        let (first, spacing) = match spec.spread {
            Spread::Ring => (between(rng, 0.0, 1.0), 1.0 / number as f32),
            Spread::Fan { towards, width } => {
                let spacing = width / number.saturating_sub(1).max(1) as f32;
                (towards - 0.5 * spacing * number.saturating_sub(1) as f32, spacing)
            }
        };
        let petals = (0..number)
            .map(|place| {
                let turned = around_zero(rng, 0.3 * spec.wobble * spacing.min(0.2));
                let direction = direction(first + spacing * place as f32 + turned);
                Petal {
                    direction,
                    length: spec.length * (1.0 + around_zero(rng, 0.25 * spec.wobble)),
                    half_width: spec.half_width * (1.0 + around_zero(rng, 0.25 * spec.wobble)),
                    rank: rng.next_u32(),
                    tone: 1.0 + 0.09 * (direction.0 * sun.0 + direction.1 * sun.1) + around_zero(rng, 0.08),
                }
            })
            .collect();
        let widest = turns_of(spec.start + 0.4 * spec.length, spec.half_width);
        let reach = if number <= 8 || spec.spread != Spread::Ring {
            number as usize
        } else {
            1 + (1.3 * widest / spacing) as usize
        };
        Self { key, petals, first, spacing, reach }
    }

    /// The petal that is on top at a place, and the place on it: its share of the length from base to tip, and of the
    /// half width to the side (-1 to 1).
    fn topmost(&self, spec: &Petals, (x, y): (f32, f32)) -> Option<(&Petal, f32, f32)> {
        let number = self.petals.len();
        let (low, several) = if 2 * self.reach + 1 >= number {
            (0, number)
        } else {
            let turns = turns_of(x, y) - self.first;
            let nearest = ((turns - turns.floor()) / self.spacing).round() as usize;
            (nearest + number - self.reach, 2 * self.reach + 1)
        };
        let mut top: Option<(&Petal, f32, f32)> = None;
        for place in low..low + several {
            let petal = &self.petals[place % number];
            let (dx, dy) = petal.direction;
            let along = x * dx + y * dy - spec.start;
            let across = y * dx - x * dy;
            if along < 0.0 || along > petal.length || across.abs() > petal.half_width {
                continue;
            }
            if top.is_some_and(|(higher, ..)| higher.rank > petal.rank) {
                continue;
            }
            let (t, s) = (along / petal.length, across / petal.half_width);
            let half_width = spec.outline.half_width(t);
            if s.abs() < half_width && t < spec.outline.end(s) {
                top = Some((petal, t, s / half_width));
            }
        }
        top
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use regraft_random::{Purpose, keyed};

    fn grown(kind: &kinds::Kind, pose: Pose, number: u64) -> Blossom {
        Blossom::grow(kind.layers, kind.palettes[0], pose, &mut keyed(0, Purpose::Drawing, 0, number))
    }

    #[test]
    fn blossoms_end_within_their_extent_however_they_are_seen() {
        for kind in &kinds::ALL {
            for number in 0..20 {
                let squash = 0.5 + 0.025 * number as f32;
                let pose = Pose { centre: (0.4, 0.6), radius: 0.2, turn: 0.1, squash, axis: 0.07 * number as f32 };
                let blossom = grown(kind, pose, number);
                let beyond = 1.001 * blossom.extent * pose.radius;
                for step in 0..400 {
                    let (dx, dy) = direction(step as f32 / 400.0);
                    let place = (0.4 + beyond * dx, 0.6 + beyond * dy);
                    assert_eq!(blossom.colour_at(place), None, "{} {number} at {place:?}", kind.name);
                }
            }
        }
    }

    #[test]
    fn a_blossom_seen_obliquely_is_narrower_along_its_axis_alone() {
        let daisy = kinds::ALL.iter().find(|kind| kind.name == "daisy").unwrap();
        let pose = Pose { centre: (0.5, 0.5), radius: 0.4, turn: 0.0, squash: 0.5, axis: 0.0 };
        let blossom = grown(daisy, pose, 0);
        // The farthest place that is covered, in blossom units, to both sides of a direction.
        let reach = |towards: f32| {
            let covered = |share: f32, around: f32| {
                let (dx, dy) = direction(towards + around);
                blossom.colour_at((0.5 + 0.4 * share * dx, 0.5 + 0.4 * share * dy)).is_some()
            };
            (0..150)
                .map(|i| i as f32 * 0.01)
                .filter(|&share| [-0.02, 0.0, 0.02].iter().any(|&a| covered(share, a)))
                .fold(0.0, f32::max)
        };
        assert!((0.4..0.65).contains(&reach(0.0)), "{}", reach(0.0));
        assert!((0.8..1.1).contains(&reach(0.25)), "{}", reach(0.25));
    }
}

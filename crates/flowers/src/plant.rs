//! One plant: its leaves and stem, and its blossoms in their places.

use regraft_random::Generator;

use crate::blossom::{Blossom, Pose};
use crate::canvas::{Canvas, Point};
use crate::colour::Colour;
use crate::draws::{around_zero, between, chance, count, pick};
use crate::kinds::{Habit, Kind, Leaves, Palette};
use crate::stroke::{Profile, Stroke};
use crate::trig::direction;

/// Where a plant's flowers are to be: about what a square frame around them would show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub centre: Point,
    /// Half of the width of what is in flower, as a share of the frame.
    pub radius: f32,
}

/// A plant that can be painted.
pub(crate) struct Plant {
    place: Place,
    strokes: Vec<Stroke>,
    blossoms: Vec<Blossom>,
}

/// What is needed while a plant grows.
struct Growing<'a> {
    kind: &'static Kind,
    palette: Palette,
    place: Place,
    rng: &'a mut Generator,
    plant: Plant,
}

impl Plant {
    /// Grows a plant of one of the kind's varieties at a place.
    pub fn grow(kind: &'static Kind, mut palette: Palette, place: Place, rng: &mut Generator) -> Self {
        palette.green = pick(rng, &GREENS).lit(between(rng, 0.8, 1.15));
        let plant = Self { place, strokes: Vec::new(), blossoms: Vec::new() };
        let mut growing = Growing { kind, palette, place, rng, plant };
        match kind.habit {
            Habit::Face { turns } => growing.face(turns),
            Habit::Cup => growing.cup(),
            Habit::Nodding => growing.nodding(),
            Habit::Spray => growing.spray(),
            Habit::Umbel => growing.umbel(),
        }
        growing.plant
    }

    /// Paints it, from the leaves to the blossoms, which cast a faint shadow on what lies behind them.
    pub fn paint(&self, canvas: &mut Canvas) {
        self.strokes.iter().for_each(|stroke| stroke.paint(canvas));
        let Place { centre: (x, y), radius } = self.place;
        canvas.blob((x + 0.05 * radius, y + 0.1 * radius), radius, Colour([0.0; 3]), 0.25, 0.3);
        self.blossoms.iter().for_each(|blossom| blossom.paint(canvas));
    }
}

/// Greens of stems and leaves, from yellowish to bluish.
pub(crate) const GREENS: [Colour; 5] =
    [Colour::hex(0x7a9a3c), Colour::hex(0x5c8a3a), Colour::hex(0x4a7a44), Colour::hex(0x6c945a), Colour::hex(0x8a9a5a)];

impl Growing<'_> {
    /// A blossom seen from above or obliquely; leaves look out beneath it.
    fn face(&mut self, turns: f32) {
        let Place { centre, radius } = self.place;
        let foot = (centre.0 + around_zero(self.rng, 0.8 * radius), centre.1 + 2.5 * radius);
        self.stem(centre, foot, 0.05);
        for _ in 0..count(self.rng, (1, 4)) {
            let (dx, dy) = direction(between(self.rng, 0.0, 1.0));
            let length = radius * between(self.rng, 1.2, 1.7);
            self.leaf(centre, (centre.0 + dx * length, centre.1 + dy * length), 0.3 * radius);
        }
        let turn = between(self.rng, -turns, turns);
        self.blossom(centre, radius, turn, 0.5);
    }

    /// A blossom seen from the side on top of its stem.
    fn cup(&mut self) {
        let Place { centre, radius } = self.place;
        let turn = around_zero(self.rng, 0.07);
        let (ux, uy) = direction(0.25 + turn);
        let base = (centre.0 + 0.7 * radius * ux, centre.1 + 0.7 * radius * uy);
        let foot = (base.0 + 1.5 * radius * ux, base.1 + 2.2 * radius);
        self.foot_leaves(foot);
        self.stem(base, foot, 0.06);
        self.blossom(base, radius, turn, 0.82);
    }

    /// A blossom that hangs from a hook.
    fn nodding(&mut self) {
        let Place { centre, radius } = self.place;
        let turn = around_zero(self.rng, 0.06);
        let aside = if chance(self.rng, 0.5) { radius } else { -radius };
        let top = (centre.0, centre.1 - 0.6 * radius);
        let side = (top.0 + 0.65 * aside, top.1 + 0.15 * radius);
        let foot = (side.0 + between(self.rng, 0.0, 0.6) * aside, side.1 + 3.0 * radius);
        self.foot_leaves(foot);
        self.stroke([top, (top.0 + 0.3 * aside, top.1 - 0.75 * radius), side], 0.045 * radius, Profile::Even);
        self.stroke([side, (side.0 + 0.2 * aside, side.1 + radius), foot], 0.045 * radius, Profile::Even);
        self.blossom(top, 0.95 * radius, turn, 0.85);
    }

    /// Small blossoms that hang along the end of an arching stem.
    fn spray(&mut self) {
        let Place { centre: (x, y), radius } = self.place;
        let aside = if chance(self.rng, 0.5) { radius } else { -radius };
        let foot = (x - between(self.rng, 0.3, 0.8) * aside, y + 1.6 * radius);
        let end = (x + between(self.rng, 0.4, 0.7) * aside, y - 0.55 * radius);
        let bend = (x - between(self.rng, 0.4, 0.6) * aside, y - 1.35 * radius);
        self.foot_leaves(foot);
        let stem = self.stroke([foot, bend, end], 0.035 * radius, Profile::Even);
        let number = count(self.rng, (5, 9));
        for place in 0..number {
            let from = stem.at(0.4 + 0.6 * (place as f32 + between(self.rng, 0.3, 1.0)) / number as f32);
            let outwards = if chance(self.rng, 0.75) { aside } else { -aside };
            let hang =
                (from.0 + between(self.rng, 0.05, 0.25) * outwards, from.1 + between(self.rng, 0.02, 0.12) * radius);
            self.stroke([from, (hang.0, from.1), hang], 0.022 * radius, Profile::Even);
            let turn = around_zero(self.rng, 0.05) - 0.04 * outwards / radius;
            let size = radius * between(self.rng, 0.3, 0.4) * (1.0 - 0.25 * place as f32 / number as f32);
            self.blossom(hang, size, turn, 0.85);
        }
    }

    /// Small blossoms on stalks from the stem's end, nodding to one side.
    fn umbel(&mut self) {
        let Place { centre: (x, y), radius } = self.place;
        let lean = between(self.rng, -0.14, 0.14);
        let top = (x - 0.6 * radius * direction(0.75 + lean).0, y + 0.25 * radius);
        let foot = (top.0 + around_zero(self.rng, 0.5 * radius), top.1 + 2.6 * radius);
        self.foot_leaves(foot);
        self.stem(top, foot, 0.05);
        let number = count(self.rng, (5, 8));
        for place in 0..number {
            let share = (place as f32 + between(self.rng, 0.2, 0.8)) / number as f32;
            let towards = 0.75 + lean + (share - 0.5) * 0.62;
            let (dx, dy) = direction(towards);
            let reach = radius * between(self.rng, 0.1, 0.5);
            let hang = (top.0 + reach * dx, top.1 + reach * dy);
            self.stroke([top, (top.0 + 0.5 * reach * dx, hang.1 - 0.1 * radius), hang], 0.028 * radius, Profile::Even);
            let size = radius * between(self.rng, 0.36, 0.46);
            let turn = towards - 0.75 + around_zero(self.rng, 0.05);
            self.blossom(hang, size, turn, 0.75);
        }
    }

    /// A blossom at a place, seen from an angle that squashes it to a share from `least` to 1.
    fn blossom(&mut self, centre: Point, radius: f32, turn: f32, least: f32) {
        let squash = between(self.rng, least, 1.0);
        let pose = Pose { centre, radius, turn, squash, axis: between(self.rng, 0.0, 1.0) };
        let blossom = Blossom::grow(self.kind.layers, self.palette, pose, self.rng);
        self.plant.blossoms.push(blossom);
    }

    /// A stem from a blossom down to its foot, bending a little; `share` of the radius is half of its width.
    fn stem(&mut self, top: Point, foot: Point, share: f32) {
        let radius = self.place.radius;
        let bend = (top.0 + around_zero(self.rng, 0.3 * radius), 0.5 * (top.1 + foot.1));
        self.stroke([top, bend, foot], share * radius, Profile::Even);
    }

    /// Leaves from the foot of the stem upwards.
    fn foot_leaves(&mut self, foot: Point) {
        let radius = self.place.radius;
        for _ in 0..count(self.rng, (1, 4)) {
            let tip = (foot.0 + around_zero(self.rng, 1.8 * radius), foot.1 - between(self.rng, 1.2, 2.6) * radius);
            self.leaf(foot, tip, 0.22 * radius);
        }
    }

    fn leaf(&mut self, from: Point, to: Point, half_width: f32) {
        let (profile, share) = match self.kind.leaves {
            Leaves::Blades => (Profile::Blade, 0.35),
            Leaves::Ovals => (Profile::Leaf, 1.0),
            Leaves::None => return,
        };
        let sway = around_zero(self.rng, 0.4 * self.place.radius);
        let bend = (0.5 * (from.0 + to.0) + sway, 0.5 * (from.1 + to.1) - 0.3 * sway.abs());
        self.stroke([from, bend, to], share * half_width, profile);
    }

    fn stroke(&mut self, curve: [Point; 3], half_width: f32, profile: Profile) -> Stroke {
        let colour = self.palette.green.lit(between(self.rng, 0.85, 1.1));
        let stroke = Stroke { curve, half_width, profile, colour };
        self.plant.strokes.push(stroke);
        stroke
    }
}

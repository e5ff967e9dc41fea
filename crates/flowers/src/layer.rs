//! What blossoms are made of: rings or fans of petals, and discs. These are descriptions without anything random;
//! `blossom` grows one flower from them.
//!
//! Lengths are in blossom units: 1 is about the distance from the middle of the blossom to its petals' tips.

use crate::outline::Outline;

/// One of the colours of a palette.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ink {
    /// The petals' colour where they start.
    Base,
    /// The petals' colour at their ends.
    Tip,
    /// Spots, veins, checks, blotches.
    Mark,
    /// The middle of the blossom.
    Heart,
    /// A second colour of the middle.
    Rim,
    /// Green parts.
    Green,
}

/// How petals stand around the middle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Spread {
    /// All round, at equal angles.
    Ring,
    /// From one side to the other of a direction: its angle and the angle between the outermost, in turns.
    Fan { towards: f32, width: f32 },
}

/// What is drawn on a petal in the colour `Ink::Mark`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mark {
    None,
    /// Fine lines from base to tip.
    Veins,
    /// Dots on the inner three quarters.
    Spots,
    /// A chessboard.
    Checks,
    /// All of the petal up to this share of its length.
    Blotch(f32),
    /// All of the petal beyond this share of its length.
    Edge(f32),
    /// A line along the middle, up to this share of the length.
    Streak(f32),
}

/// A ring or a fan of petals (or stamens).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Petals {
    /// How many, from and to.
    pub count: (u32, u32),
    pub spread: Spread,
    pub outline: Outline,
    /// Where they start from, right and down of the blossom's middle.
    pub at: (f32, f32),
    /// Height above the blossom's plane; what is higher moves when the blossom is seen obliquely.
    pub lift: f32,
    /// Distance from the point `at` to the base of each.
    pub start: f32,
    pub length: f32,
    pub half_width: f32,
    /// Colours at base and tip.
    pub inks: [Ink; 2],
    pub mark: Mark,
    /// How irregular length, width and direction are: 0 not at all, 1 very.
    pub wobble: f32,
}

/// What most petals are like; the kinds say where theirs differ.
pub(crate) const PETALS: Petals = Petals {
    count: (5, 5),
    spread: Spread::Ring,
    outline: Outline::Round,
    at: (0.0, 0.0),
    lift: 0.0,
    start: 0.0,
    length: 1.0,
    half_width: 0.4,
    inks: [Ink::Base, Ink::Tip],
    mark: Mark::None,
    wobble: 0.3,
};

/// A round thing: the middle of a daisy, a trumpet's mouth, a seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disc {
    /// As in [`Petals`].
    pub at: (f32, f32),
    /// As in [`Petals`].
    pub lift: f32,
    pub radius: f32,
    /// Colours in the middle and at the rim.
    pub inks: [Ink; 2],
    /// How strongly it is dotted: 0 smooth, 1 very.
    pub grain: f32,
    /// How far its rim waves in and out, as a share of the radius.
    pub frill: f32,
}

/// What most discs are like.
pub(crate) const DISC: Disc =
    Disc { at: (0.0, 0.0), lift: 0.05, radius: 0.2, inks: [Ink::Heart, Ink::Rim], grain: 0.5, frill: 0.0 };

/// A part of a blossom; later ones lie on earlier ones.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layer {
    Petals(Petals),
    Disc(Disc),
}

impl Layer {
    /// How far from the blossom's origin it may reach, in blossom units.
    pub fn extent(&self) -> f32 {
        let (at, lift, own) = match self {
            Self::Petals(petals) => (petals.at, petals.lift, petals.farthest()),
            Self::Disc(disc) => (disc.at, disc.lift, disc.radius * (1.0 + disc.frill)),
        };
        (at.0 * at.0 + at.1 * at.1).sqrt() + lift + own
    }
}

impl Petals {
    /// How far from where they start a petal may reach: the longest, and the corners of wide ones.
    pub fn farthest(&self) -> f32 {
        let (length, half_width) = (1.0 + 0.25 * self.wobble, 0.6 * self.half_width);
        let along = self.start + self.length * length;
        (along * along + half_width * half_width).sqrt()
    }
}

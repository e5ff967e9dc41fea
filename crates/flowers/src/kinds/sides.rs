//! Flowers seen from the side: cups on their stems, and bells that hang. Their origin is where their stalk ends.

use super::{DOWN, Habit, Kind, Leaves, STAMENS, UP, fan, palette};
use crate::layer::{DISC, Disc, Ink, Layer, Mark, PETALS, Petals};
use crate::outline::Outline;

pub(super) const BLUEBELL: Kind = Kind {
    name: "bluebell",
    habit: Habit::Spray,
    leaves: Leaves::Blades,
    palettes: &[
        palette([0x5a54c4, 0x8f8be8, 0x3c3795, 0xefe9c0, 0xefe9c0]),
        palette([0xd27bab, 0xf2b3d0, 0xa04f80, 0xefe9c0, 0xefe9c0]),
        palette([0xe6e6ee, 0xfafaff, 0xb0b6c0, 0xefe9c0, 0xefe9c0]),
    ],
    layers: &[
        Layer::Petals(Petals {
            count: (2, 2),
            spread: fan(DOWN, 0.16),
            outline: Outline::Pointed,
            at: (0.0, 0.7),
            length: 0.75,
            half_width: 0.2,
            ..PETALS
        }),
        Layer::Petals(Petals {
            count: (1, 1),
            spread: fan(DOWN, 0.0),
            outline: Outline::Bell,
            length: 1.35,
            half_width: 0.52,
            mark: Mark::Streak(0.9),
            ..PETALS
        }),
    ],
};

pub(super) const COWSLIP: Kind = Kind {
    name: "cowslip",
    habit: Habit::Umbel,
    leaves: Leaves::Ovals,
    palettes: &[
        palette([0xf0a810, 0xffe040, 0xe07010, 0xd87800, 0xc8d890]),
        palette([0xe88030, 0xd8382a, 0xf4c030, 0xf0c020, 0xc8d890]),
        palette([0xf0d040, 0xa070c8, 0xf4e080, 0xf0d020, 0xc8d890]),
    ],
    layers: &[
        Layer::Petals(Petals {
            spread: fan(UP, 0.56),
            outline: Outline::Heart,
            at: (0.0, -0.95),
            length: 0.78,
            half_width: 0.34,
            mark: Mark::Blotch(0.35),
            ..PETALS
        }),
        Layer::Petals(Petals {
            count: (1, 1),
            spread: fan(UP, 0.0),
            outline: Outline::Bell,
            length: 1.15,
            half_width: 0.36,
            inks: [Ink::Green, Ink::Rim],
            ..PETALS
        }),
    ],
};

pub(super) const CROCUS: Kind = Kind {
    name: "crocus",
    habit: Habit::Cup,
    leaves: Leaves::Blades,
    palettes: &[
        palette([0x7a4ab8, 0xa988e0, 0x58309a, 0xf08a10, 0xffb020]),
        palette([0xf2a800, 0xffcf30, 0xb87010, 0xe87010, 0xff9010]),
        palette([0xe8e0f0, 0xfcfaff, 0x8058b0, 0xf08a10, 0xffb020]),
    ],
    layers: &[
        Layer::Petals(Petals {
            count: (1, 1),
            spread: fan(DOWN, 0.0),
            outline: Outline::Strap,
            at: (0.0, -0.1),
            length: 1.0,
            half_width: 0.1,
            inks: [Ink::Base, Ink::Green],
            ..PETALS
        }),
        Layer::Petals(Petals {
            count: (3, 4),
            spread: fan(UP, 0.2),
            outline: Outline::Pointed,
            length: 1.4,
            half_width: 0.34,
            mark: Mark::Veins,
            ..PETALS
        }),
        Layer::Petals(Petals {
            count: (3, 3),
            spread: fan(UP, 0.06),
            start: 0.2,
            length: 1.1,
            half_width: 0.05,
            ..STAMENS
        }),
        Layer::Petals(Petals {
            count: (2, 2),
            spread: fan(UP, 0.13),
            outline: Outline::Pointed,
            length: 1.2,
            half_width: 0.32,
            mark: Mark::Veins,
            ..PETALS
        }),
    ],
};

pub(super) const FRITILLARY: Kind = Kind {
    name: "fritillary",
    habit: Habit::Nodding,
    leaves: Leaves::Blades,
    palettes: &[
        palette([0x8a3a78, 0xb26a9c, 0xe2b8cc, 0xe0d060, 0xe0d060]),
        palette([0xe4e8d4, 0xf8f8ee, 0xb6c69c, 0xe0d060, 0xe0d060]),
        palette([0x6a2c4a, 0x8c4460, 0xc88a8a, 0xe0d060, 0xe0d060]),
    ],
    layers: &[
        Layer::Petals(Petals {
            count: (2, 2),
            spread: fan(DOWN, 0.1),
            outline: Outline::Spoon,
            length: 1.5,
            half_width: 0.5,
            mark: Mark::Checks,
            wobble: 0.1,
            ..PETALS
        }),
        Layer::Petals(Petals {
            count: (1, 1),
            spread: fan(DOWN, 0.0),
            outline: Outline::Spoon,
            length: 1.55,
            half_width: 0.5,
            mark: Mark::Checks,
            wobble: 0.1,
            ..PETALS
        }),
    ],
};

pub(super) const IRIS: Kind = Kind {
    name: "iris",
    habit: Habit::Cup,
    leaves: Leaves::Blades,
    palettes: &[
        palette([0x4a34a8, 0x7a68d8, 0xf5d020, 0xf0c020, 0xd8d0f8]),
        palette([0xe8c020, 0xffe860, 0x8a5010, 0xf0c020, 0xfff0a0]),
        palette([0xd8dcf4, 0xf6f6ff, 0xf0c020, 0xf0c020, 0xe8e8ff]),
    ],
    layers: &[
        Layer::Petals(Petals {
            count: (2, 3),
            spread: fan(UP, 0.14),
            at: (0.0, -0.6),
            length: 1.05,
            half_width: 0.34,
            mark: Mark::Veins,
            inks: [Ink::Base, Ink::Rim],
            ..PETALS
        }),
        Layer::Petals(Petals {
            count: (2, 2),
            spread: fan(DOWN, 0.33),
            at: (0.0, -0.7),
            length: 1.1,
            half_width: 0.36,
            mark: Mark::Streak(0.55),
            ..PETALS
        }),
        Layer::Petals(Petals {
            count: (1, 1),
            spread: fan(DOWN, 0.0),
            at: (0.0, -0.75),
            length: 1.15,
            half_width: 0.42,
            mark: Mark::Streak(0.6),
            ..PETALS
        }),
    ],
};

pub(super) const SNOWDROP: Kind = Kind {
    name: "snowdrop",
    habit: Habit::Nodding,
    leaves: Leaves::Blades,
    palettes: &[
        palette([0xe4eae2, 0xffffff, 0x5a9a3a, 0x6a9a40, 0x88b050]),
        palette([0xf0e8c8, 0xfffbe8, 0x9a9a30, 0x9aa040, 0xb8b860]),
    ],
    layers: &[
        Layer::Petals(Petals {
            count: (1, 1),
            spread: fan(DOWN, 0.0),
            outline: Outline::Bell,
            at: (0.0, 0.2),
            length: 0.95,
            half_width: 0.32,
            mark: Mark::Edge(0.62),
            ..PETALS
        }),
        Layer::Petals(Petals {
            count: (2, 2),
            spread: fan(DOWN, 0.17),
            at: (0.0, 0.2),
            outline: Outline::Spoon,
            length: 1.35,
            half_width: 0.26,
            wobble: 0.4,
            ..PETALS
        }),
        Layer::Disc(Disc { at: (0.0, 0.12), radius: 0.17, grain: 0.1, lift: 0.0, ..DISC }),
    ],
};

pub(super) const TULIP: Kind = Kind {
    name: "tulip",
    habit: Habit::Cup,
    leaves: Leaves::Ovals,
    palettes: &[
        palette([0xb81818, 0xe83830, 0xf0d040, 0xf0d040, 0xf0d040]),
        palette([0xe8b010, 0xffdc40, 0xe05020, 0xf0d040, 0xf0d040]),
        palette([0x6a2a80, 0x9a58b0, 0xd8b0e0, 0xf0d040, 0xf0d040]),
        palette([0xe8e4d4, 0xfffef4, 0xe890a8, 0xf0d040, 0xf0d040]),
        palette([0xe05a88, 0xf8a0b8, 0xffe8f0, 0xf0d040, 0xf0d040]),
    ],
    layers: &[
        Layer::Petals(Petals {
            count: (3, 3),
            spread: fan(UP, 0.09),
            outline: Outline::Spoon,
            length: 1.4,
            half_width: 0.42,
            wobble: 0.25,
            inks: [Ink::Base, Ink::Base],
            ..PETALS
        }),
        Layer::Petals(Petals {
            count: (2, 2),
            spread: fan(UP, 0.1),
            outline: Outline::Spoon,
            length: 1.35,
            half_width: 0.45,
            wobble: 0.2,
            ..PETALS
        }),
        Layer::Petals(Petals {
            count: (1, 1),
            spread: fan(UP, 0.0),
            outline: Outline::Spoon,
            length: 1.25,
            half_width: 0.5,
            wobble: 0.2,
            ..PETALS
        }),
    ],
};

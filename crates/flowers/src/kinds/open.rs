//! Open flowers with a few petals, seen from above or obliquely.

use super::{DOWN, Habit, Kind, Leaves, STAMENS, UP, fan, palette};
use crate::layer::{DISC, Disc, Ink, Layer, Mark, PETALS, Petals};
use crate::outline::Outline;

pub(super) const BUTTERCUP: Kind = Kind {
    name: "buttercup",
    habit: Habit::Face { turns: 0.5 },
    leaves: Leaves::None,
    palettes: &[
        palette([0xe0a800, 0xffdf1f, 0xc08a00, 0xd8d050, 0xf0c000]),
        palette([0xf0e2a0, 0xfffbe6, 0xd8c890, 0xb8c050, 0xf0c000]),
    ],
    layers: &[
        Layer::Petals(Petals { half_width: 0.56, wobble: 0.2, ..PETALS }),
        Layer::Petals(Petals { length: 0.26, start: 0.1, count: (18, 24), ..STAMENS }),
        Layer::Disc(Disc { radius: 0.15, inks: [Ink::Heart, Ink::Heart], ..DISC }),
    ],
};

pub(super) const DAFFODIL: Kind = Kind {
    name: "daffodil",
    habit: Habit::Face { turns: 0.5 },
    leaves: Leaves::Blades,
    palettes: &[
        palette([0xf0cc20, 0xffe85a, 0xd0a020, 0xb86a00, 0xf5a010]),
        palette([0xf0f0d8, 0xffffff, 0xd8d8b0, 0xc89010, 0xffd830]),
        palette([0xf4f0dc, 0xfffdf4, 0xd8d8b0, 0xb04a10, 0xf57a20]),
    ],
    layers: &[
        Layer::Petals(Petals { count: (6, 6), outline: Outline::Pointed, half_width: 0.36, ..PETALS }),
        Layer::Disc(Disc { radius: 0.32, lift: 0.12, inks: [Ink::Rim; 2], grain: 0.1, ..DISC }),
        Layer::Disc(Disc { radius: 0.32, lift: 0.24, inks: [Ink::Rim; 2], grain: 0.1, ..DISC }),
        Layer::Disc(Disc { radius: 0.34, lift: 0.36, inks: [Ink::Rim; 2], grain: 0.1, ..DISC }),
        Layer::Disc(Disc { radius: 0.4, lift: 0.46, inks: [Ink::Heart, Ink::Rim], grain: 0.1, frill: 0.12, ..DISC }),
        Layer::Disc(Disc { radius: 0.27, lift: 0.44, inks: [Ink::Heart, Ink::Heart], grain: 0.1, ..DISC }),
        Layer::Petals(Petals {
            count: (6, 6),
            lift: 0.42,
            start: 0.02,
            length: 0.16,
            half_width: 0.04,
            inks: [Ink::Mark, Ink::Tip],
            ..STAMENS
        }),
    ],
};

pub(super) const LILY: Kind = Kind {
    name: "lily",
    habit: Habit::Face { turns: 0.5 },
    leaves: Leaves::Blades,
    palettes: &[
        palette([0xe87818, 0xf59838, 0x6a2008, 0xd8e0a0, 0x8a3a10]),
        palette([0xe86aa0, 0xfbd0e0, 0x9a1850, 0xd8e8b0, 0x8a3a10]),
        palette([0xe8f0c8, 0xffffff, 0xb86070, 0xd8e8b0, 0xa85010]),
        palette([0xe0b820, 0xffe468, 0x7a3008, 0xd8e0a0, 0x8a3a10]),
    ],
    layers: &[
        Layer::Petals(Petals {
            count: (6, 6),
            outline: Outline::Pointed,
            half_width: 0.24,
            mark: Mark::Spots,
            wobble: 0.35,
            ..PETALS
        }),
        Layer::Petals(Petals {
            count: (6, 6),
            length: 0.62,
            start: 0.0,
            half_width: 0.06,
            lift: 0.25,
            wobble: 0.6,
            ..STAMENS
        }),
    ],
};

pub(super) const PANSY: Kind = Kind {
    name: "pansy",
    habit: Habit::Face { turns: 0.12 },
    leaves: Leaves::Ovals,
    palettes: &[
        palette([0xf0c820, 0xf8d830, 0x3a1440, 0xf8e040, 0x5a2a90]),
        palette([0x9a70d0, 0xb090e0, 0x2a1050, 0xf8d830, 0x5a2a90]),
        palette([0xf4f0f8, 0xffffff, 0x50207a, 0xf8d830, 0x8a60c0]),
        palette([0xe08020, 0xf09a30, 0x401010, 0xf8d830, 0x902818]),
    ],
    layers: &[
        Layer::Petals(Petals {
            count: (2, 2),
            spread: fan(UP, 0.17),
            length: 0.95,
            half_width: 0.54,
            inks: [Ink::Rim, Ink::Rim],
            wobble: 0.15,
            ..PETALS
        }),
        Layer::Petals(Petals {
            count: (2, 2),
            spread: fan(UP, 0.47),
            length: 0.88,
            half_width: 0.5,
            mark: Mark::Blotch(0.5),
            wobble: 0.15,
            ..PETALS
        }),
        Layer::Petals(Petals {
            count: (1, 1),
            spread: fan(DOWN, 0.0),
            outline: Outline::Heart,
            at: (0.0, -0.05),
            length: 0.98,
            half_width: 0.68,
            mark: Mark::Blotch(0.58),
            wobble: 0.15,
            ..PETALS
        }),
        Layer::Disc(Disc { radius: 0.11, at: (0.0, 0.02), inks: [Ink::Heart; 2], grain: 0.2, ..DISC }),
    ],
};

pub(super) const POPPY: Kind = Kind {
    name: "poppy",
    habit: Habit::Face { turns: 0.5 },
    leaves: Leaves::None,
    palettes: &[
        palette([0xc81808, 0xf0382a, 0x1c0a10, 0x282018, 0x403848]),
        palette([0xf08010, 0xffb43c, 0xd8c040, 0xa8b060, 0xe0c020]),
        palette([0xe8dce8, 0xfffcff, 0x70306a, 0x90a060, 0x504858]),
        palette([0xb070b8, 0xd8a8dc, 0x3a1440, 0x90a060, 0x504858]),
    ],
    layers: &[
        Layer::Petals(Petals { spread: fan(UP, 0.5), half_width: 0.98, ..POPPY_PAIR }),
        Layer::Petals(Petals { spread: fan(0.0, 0.5), half_width: 0.9, length: 0.92, ..POPPY_PAIR }),
        Layer::Petals(Petals { count: (26, 34), start: 0.12, length: 0.26, inks: [Ink::Rim, Ink::Rim], ..STAMENS }),
        Layer::Disc(Disc { radius: 0.17, inks: [Ink::Heart, Ink::Rim], lift: 0.12, grain: 0.3, ..DISC }),
    ],
};

pub(super) const WINDFLOWER: Kind = Kind {
    name: "windflower",
    habit: Habit::Face { turns: 0.5 },
    leaves: Leaves::Ovals,
    palettes: &[
        palette([0xf0f0f4, 0xffffff, 0xd0a0c0, 0xb8c860, 0xf5d840]),
        palette([0x4a48c0, 0x8280e8, 0xf0f0ff, 0x20183a, 0x302850]),
        palette([0xc01830, 0xe84058, 0xfff0f0, 0x20141c, 0x302038]),
        palette([0xe8c010, 0xffe840, 0xd0a000, 0xb0b840, 0xf0d030]),
    ],
    layers: &[
        Layer::Petals(Petals {
            count: (8, 10),
            outline: Outline::Round,
            start: 0.05,
            length: 0.95,
            half_width: 0.2,
            wobble: 0.45,
            ..PETALS
        }),
        Layer::Petals(Petals { count: (20, 28), start: 0.12, length: 0.28, ..STAMENS }),
        Layer::Disc(Disc { radius: 0.14, inks: [Ink::Heart, Ink::Heart], lift: 0.1, grain: 0.4, ..DISC }),
    ],
};

/// One of two pairs of a poppy's petals.
const POPPY_PAIR: Petals = Petals { count: (2, 2), mark: Mark::Blotch(0.3), wobble: 0.35, ..PETALS };

//! Heads of many small petals around a disc, seen from above or obliquely.

use super::{Habit, Kind, Leaves, palette};
use crate::layer::{DISC, Disc, Ink, Layer, PETALS, Petals};
use crate::outline::Outline;

pub(super) const COLTSFOOT: Kind = Kind {
    name: "coltsfoot",
    habit: Habit::Face { turns: 0.5 },
    leaves: Leaves::None,
    palettes: &[
        palette([0xe8b400, 0xffe23c, 0xb88a00, 0xe09a10, 0xf2c420]),
        palette([0xd86a10, 0xf59a28, 0x904000, 0xc07010, 0xe0a020]),
    ],
    layers: &[
        Layer::Petals(Petals {
            count: (62, 74),
            outline: Outline::Strap,
            start: 0.15,
            length: 0.82,
            half_width: 0.022,
            wobble: 0.6,
            ..PETALS
        }),
        Layer::Petals(Petals {
            count: (48, 60),
            outline: Outline::Strap,
            start: 0.15,
            length: 0.62,
            half_width: 0.02,
            wobble: 0.7,
            lift: 0.05,
            ..PETALS
        }),
        Layer::Disc(Disc { radius: 0.3, grain: 0.6, ..DISC }),
    ],
};

pub(super) const DAISY: Kind = Kind {
    name: "daisy",
    habit: Habit::Face { turns: 0.5 },
    leaves: Leaves::Ovals,
    palettes: &[
        palette([0xe8e8ea, 0xffffff, 0xe8a0c0, 0xe0a000, 0xf5cc20]),
        palette([0xf0d8e4, 0xf090b8, 0xd05090, 0xe0a000, 0xf5cc20]),
        palette([0xd8d0f0, 0xa890e0, 0x7050b0, 0xe0a000, 0xf5cc20]),
    ],
    layers: &[
        Layer::Petals(Petals {
            count: (20, 28),
            outline: Outline::Strap,
            start: 0.2,
            length: 0.78,
            half_width: 0.085,
            ..PETALS
        }),
        Layer::Disc(Disc { radius: 0.3, grain: 0.5, ..DISC }),
    ],
};

pub(super) const DANDELION: Kind = Kind {
    name: "dandelion",
    habit: Habit::Face { turns: 0.5 },
    leaves: Leaves::Ovals,
    palettes: &[
        palette([0xe0a000, 0xffdc28, 0xb88a00, 0xe8a800, 0xf8c818]),
        palette([0xe8c860, 0xfff3b0, 0xc0a040, 0xe8c030, 0xf0d860]),
        palette([0xc84810, 0xf27a20, 0x903000, 0xe08010, 0xf0a020]),
    ],
    layers: &[
        Layer::Petals(dandelion_ring(1.0, 0.0)),
        Layer::Petals(dandelion_ring(0.78, 0.06)),
        Layer::Petals(dandelion_ring(0.56, 0.12)),
        Layer::Petals(dandelion_ring(0.34, 0.18)),
    ],
};

pub(super) const SUNFLOWER: Kind = Kind {
    name: "sunflower",
    habit: Habit::Face { turns: 0.5 },
    leaves: Leaves::Ovals,
    palettes: &[
        palette([0xe89000, 0xffd020, 0xb86000, 0x3a2010, 0x6a4018]),
        palette([0xe8c850, 0xfff0a0, 0xb86000, 0x2a1a12, 0x503018]),
        palette([0x6a1810, 0xb84018, 0x501008, 0x2a1810, 0x4a2814]),
    ],
    layers: &[
        Layer::Petals(Petals { start: 0.4, length: 0.6, ..SUNFLOWER_RING }),
        Layer::Petals(Petals { start: 0.4, length: 0.5, ..SUNFLOWER_RING }),
        Layer::Disc(Disc { radius: 0.52, grain: 0.35, ..DISC }),
        Layer::Disc(Disc { radius: 0.24, grain: 0.3, inks: [Ink::Rim, Ink::Heart], ..DISC }),
    ],
};

/// One of a dandelion's rings; together they fill it to the middle.
const fn dandelion_ring(length: f32, lift: f32) -> Petals {
    Petals {
        count: (30, 38),
        outline: Outline::Toothed,
        lift,
        length,
        half_width: 0.075 * (0.4 + 0.6 * length),
        wobble: 0.5,
        ..PETALS
    }
}

/// A ring of a sunflower's petals, but for where they start and their length.
const SUNFLOWER_RING: Petals =
    Petals { count: (18, 24), outline: Outline::Pointed, half_width: 0.115, wobble: 0.5, ..PETALS };

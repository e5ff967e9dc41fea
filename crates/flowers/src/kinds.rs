//! The seventeen kinds: what each looks like. Their colours overlap on purpose (twelve kinds have a yellow variety,
//! thirteen a white one, ten a violet or blue one), so that a kind is told by its shapes.

mod heads;
mod open;
mod sides;

use crate::colour::Colour;
use crate::layer::{Ink, Layer, PETALS, Petals, Spread};
use crate::outline::Outline;

/// How a plant bears its blossoms, and from where one sees them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Habit {
    /// One on a stem, seen from above or obliquely, rotated by up to so many turns either way.
    Face { turns: f32 },
    /// One on a stem, seen from the side, open upwards.
    Cup,
    /// One on a stem that hooks over, hanging.
    Nodding,
    /// Several hanging along one side of an arching stem.
    Spray,
    /// Several on short stalks from the end of the stem, to one side.
    Umbel,
}

/// The leaves at the foot of the stem or around the blossom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Leaves {
    /// Long and narrow, as grass.
    Blades,
    /// Broad in the middle.
    Ovals,
    None,
}

/// The colours of one variety.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Palette {
    base: Colour,
    tip: Colour,
    mark: Colour,
    heart: Colour,
    rim: Colour,
    /// Of stem and leaves; each plant has its own.
    pub green: Colour,
}

impl Palette {
    /// The colour that an ink stands for.
    pub fn ink(&self, ink: Ink) -> Colour {
        match ink {
            Ink::Base => self.base,
            Ink::Tip => self.tip,
            Ink::Mark => self.mark,
            Ink::Heart => self.heart,
            Ink::Rim => self.rim,
            Ink::Green => self.green,
        }
    }
}

/// A kind of flower.
pub(crate) struct Kind {
    /// As its folder is called.
    pub name: &'static str,
    pub habit: Habit,
    pub leaves: Leaves,
    /// Its varieties.
    pub palettes: &'static [Palette],
    /// A blossom's layers, the lowest first.
    pub layers: &'static [Layer],
}

/// Base, tip, mark, heart and rim as `0xRRGGBB`.
const fn palette([base, tip, mark, heart, rim]: [u32; 5]) -> Palette {
    Palette {
        base: Colour::hex(base),
        tip: Colour::hex(tip),
        mark: Colour::hex(mark),
        heart: Colour::hex(heart),
        rim: Colour::hex(rim),
        green: Colour::hex(0x6c9446),
    }
}

/// A fan of petals about a direction.
const fn fan(towards: f32, width: f32) -> Spread {
    Spread::Fan { towards, width }
}

/// Directions in the frame, in turns.
const UP: f32 = 0.75;
const DOWN: f32 = 0.25;

/// A ring of stamens: threads with knobs, from the middle out.
const STAMENS: Petals = Petals {
    count: (14, 20),
    outline: Outline::Pin,
    lift: 0.08,
    start: 0.08,
    length: 0.3,
    half_width: 0.035,
    inks: [Ink::Heart, Ink::Rim],
    wobble: 0.8,
    ..PETALS
};

/// All kinds, by name.
pub(crate) static ALL: [Kind; 17] = [
    sides::BLUEBELL,
    open::BUTTERCUP,
    heads::COLTSFOOT,
    sides::COWSLIP,
    sides::CROCUS,
    open::DAFFODIL,
    heads::DAISY,
    heads::DANDELION,
    sides::FRITILLARY,
    sides::IRIS,
    open::LILY,
    open::PANSY,
    open::POPPY,
    sides::SNOWDROP,
    heads::SUNFLOWER,
    sides::TULIP,
    open::WINDFLOWER,
];

//! What lies behind the flowers. It has nothing to do with their kind, in what it shows and in its colours, so that
//! nothing about a kind can be learnt from it.

use regraft_random::{Generator, Rng};

use crate::canvas::{Area, Canvas, Point};
use crate::colour::Colour;
use crate::draws::{around_zero, between, chance, count, pick};
use crate::noise::{ease, rough};
use crate::plant::GREENS;
use crate::stroke::{Profile, Stroke};

/// Colours of ground, walls, water and sky.
const GROUNDS: [Colour; 12] = [
    Colour::hex(0x2c3a20),
    Colour::hex(0x4a6030),
    Colour::hex(0x8a9a50),
    Colour::hex(0x5a4632),
    Colour::hex(0x8a7458),
    Colour::hex(0xb8ab94),
    Colour::hex(0x9ab4d0),
    Colour::hex(0x5f86b8),
    Colour::hex(0xd8dde0),
    Colour::hex(0x303840),
    Colour::hex(0x788088),
    Colour::hex(0x6a4058),
];

/// Colours of flowers far away, whatever their kind.
const FAR_FLOWERS: [Colour; 8] = [
    Colour::hex(0xf0d030),
    Colour::hex(0xf4f4f0),
    Colour::hex(0x8a70d0),
    Colour::hex(0xd03028),
    Colour::hex(0xf08a28),
    Colour::hex(0xe890b8),
    Colour::hex(0x5058c0),
    Colour::hex(0x90b860),
];

/// A background for a canvas of `side` pixels. It is painted with fewer pixels and enlarged: out of focus.
pub(crate) fn paint(side: usize, rng: &mut Generator) -> Canvas {
    let blur = between(rng, 3.0, 9.0);
    let coarse = ((side as f32 / blur) as usize).max(4);
    let mut canvas = Canvas::new(2 * coarse, Colour([0.0; 3]));
    ground(&mut canvas, rng);
    match count(rng, (0, 4)) {
        0 => grass(&mut canvas, rng),
        1 => leaves(&mut canvas, rng),
        2 => lights(&mut canvas, rng),
        3 => {
            grass(&mut canvas, rng);
            far_flowers(&mut canvas, rng);
        }
        _ => {}
    }
    if chance(rng, 0.35) {
        far_flowers(&mut canvas, rng);
    }
    canvas.halved().enlarged(side)
}

/// A thing or two that are as sharp as the flowers: leaves and blades of other plants.
pub(crate) fn neighbours(canvas: &mut Canvas, rng: &mut Generator) {
    for _ in 0..count(rng, (0, 6)) {
        let profile = *pick(rng, &[Profile::Leaf, Profile::Blade]);
        let half_width = if profile == Profile::Leaf { between(rng, 0.03, 0.1) } else { between(rng, 0.008, 0.03) };
        strand(rng, profile, half_width).paint(canvas);
    }
}

/// Two colours from one side to the other, and clods, clouds or stains.
fn ground(canvas: &mut Canvas, rng: &mut Generator) {
    let [near, far] = [0; 2].map(|_| pick(rng, &GROUNDS).lit(between(rng, 0.7, 1.2)));
    let other = pick(rng, &GROUNDS).lit(between(rng, 0.7, 1.2));
    let tilt = between(rng, -0.5, 0.5);
    let horizon = between(rng, 0.2, 0.8);
    let hard = between(rng, 0.6, 3.0);
    let (fine, key, strength) = (between(rng, 2.0, 14.0), rng.next_u32(), between(rng, 0.0, 0.7));
    canvas.paint(Area::FRAME, |(x, y)| {
        let t = ease((y - horizon + tilt * (x - 0.5)) * hard + 0.5);
        let stain = rough(x * fine, y * fine, key);
        let colour = far.mix(near, t).mix(other, strength * ease(2.0 * stain - 0.5));
        Some((colour.lit(0.8 + 0.4 * stain), 1.0))
    });
}

/// Many blades, in greens or in the yellow of dry grass.
fn grass(canvas: &mut Canvas, rng: &mut Generator) {
    let tint = *pick(rng, &GROUNDS);
    for _ in 0..count(rng, (25, 70)) {
        let mut blade = strand(rng, Profile::Blade, 0.02);
        blade.colour = blade.colour.mix(tint, between(rng, 0.0, 0.7)).lit(between(rng, 0.6, 1.3));
        blade.paint(canvas);
    }
}

/// Large leaves, one over the other.
fn leaves(canvas: &mut Canvas, rng: &mut Generator) {
    for _ in 0..count(rng, (8, 22)) {
        let half_width = between(rng, 0.05, 0.16);
        strand(rng, Profile::Leaf, half_width).paint(canvas);
    }
}

/// Discs of light, as a lens makes of what glitters far away.
fn lights(canvas: &mut Canvas, rng: &mut Generator) {
    for _ in 0..count(rng, (6, 24)) {
        let colour = pick(rng, &GROUNDS).mix(*pick(rng, &FAR_FLOWERS), between(rng, 0.0, 0.8));
        let (radius, cover) = (between(rng, 0.04, 0.16), between(rng, 0.25, 0.7));
        canvas.blob(anywhere(rng), radius, colour.lit(1.15), cover, 0.85);
    }
}

/// Flowers too far off to be more than a spot of colour.
fn far_flowers(canvas: &mut Canvas, rng: &mut Generator) {
    let colour = *pick(rng, &FAR_FLOWERS);
    for _ in 0..count(rng, (3, 14)) {
        let (radius, tone) = (between(rng, 0.02, 0.1), between(rng, 0.75, 1.1));
        canvas.blob(anywhere(rng), radius, colour.lit(tone), 0.85, 0.4);
    }
}

/// Things between the camera and the flowers: blades, and blurred spots close to the lens.
pub(crate) fn front(canvas: &mut Canvas, rng: &mut Generator) {
    if chance(rng, 0.4) {
        for _ in 0..count(rng, (1, 3)) {
            let half_width = between(rng, 0.006, 0.022);
            strand(rng, Profile::Blade, half_width).paint(canvas);
        }
    }
    if chance(rng, 0.3) {
        for _ in 0..count(rng, (1, 2)) {
            let colour = pick(rng, &GREENS).mix(*pick(rng, &FAR_FLOWERS), between(rng, 0.0, 0.8));
            let (radius, cover) = (between(rng, 0.08, 0.25), between(rng, 0.4, 0.8));
            canvas.blob(anywhere(rng), radius, colour, cover, 0.1);
        }
    }
}

/// A blade or leaf from a random place, mostly upwards.
fn strand(rng: &mut Generator, profile: Profile, half_width: f32) -> Stroke {
    let (x, y) = (between(rng, -0.1, 1.1), between(rng, 0.5, 1.25));
    let end = (x + around_zero(rng, 0.5), y - between(rng, 0.25, 0.9));
    let bend = (x + around_zero(rng, 0.2), 0.5 * (y + end.1));
    let colour = pick(rng, &GREENS).lit(between(rng, 0.6, 1.15));
    Stroke { curve: [(x, y), bend, end], half_width, profile, colour }
}

fn anywhere(rng: &mut Generator) -> Point {
    (between(rng, 0.0, 1.0), between(rng, 0.0, 1.0))
}

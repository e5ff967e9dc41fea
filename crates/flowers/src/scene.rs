//! The composition of one picture: how many plants of the kind, where, what is behind and before them.

use regraft_random::Generator;

use crate::background;
use crate::canvas::Canvas;
use crate::draws::{around_zero, between, chance, pick};
use crate::kinds::Kind;
use crate::plant::{Place, Plant};

/// Paints a scene on a canvas of `side` pixels.
pub(crate) fn paint(kind: &'static Kind, side: usize, rng: &mut Generator) -> Canvas {
    let mut canvas = background::paint(side, rng);
    background::neighbours(&mut canvas, rng);
    let variety = pick(rng, kind.palettes);
    for place in places(rng) {
        // Varieties mix, but not often.
        let variety = if chance(rng, 0.2) { pick(rng, kind.palettes) } else { variety };
        Plant::grow(kind, *variety, place, rng).paint(&mut canvas);
    }
    background::front(&mut canvas, rng);
    canvas
}

/// Flowers are at least so large: half of their width, as a share of the frame.
const SMALLEST: f32 = 0.175;

/// Where one to four plants stand, the farthest (smallest) first. Half of the pictures have one.
fn places(rng: &mut Generator) -> Vec<Place> {
    let number = *pick(rng, &[1, 1, 1, 1, 2, 2, 3, 4]);
    let largest = [0.55, 0.4, 0.32, 0.27][number - 1];
    let mut places: Vec<Place> = Vec::new();
    for _ in 0..number {
        let radius = between(rng, SMALLEST, largest);
        // Some of it may lie beyond the frame's border, but no more than half.
        let room = 0.5 - 0.5 * radius;
        // A few tries for a place that covers no other flower; where there is none, they overlap.
        let place = (0..12)
            .map(|_| Place { centre: (0.5 + around_zero(rng, room), 0.5 + around_zero(rng, room)), radius })
            .max_by(|a, b| clearance(a, &places).total_cmp(&clearance(b, &places)));
        places.extend(place);
    }
    places.sort_by(|a, b| a.radius.total_cmp(&b.radius));
    places
}

/// How far a place is from overlapping the nearest other; at most 0, so that any that is clear is as good.
fn clearance(place: &Place, others: &[Place]) -> f32 {
    others.iter().fold(0.0, |least, other| {
        let (dx, dy) = (place.centre.0 - other.centre.0, place.centre.1 - other.centre.1);
        ((dx * dx + dy * dy).sqrt() - 0.85 * (place.radius + other.radius)).min(least)
    })
}

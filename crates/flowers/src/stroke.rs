//! Strokes: curved lines of varying width, which stems, leaves and blades of grass are.

use crate::canvas::{Area, Canvas, Point};
use crate::colour::Colour;
use crate::noise::ease;

/// How wide a stroke is along its way, as a share of its full width.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Profile {
    /// The same all the way: a stem.
    Even,
    /// Widest near the root, pointed at the end: a blade of grass.
    Blade,
    /// Pointed at both ends, widest in the middle: a leaf.
    Leaf,
}

/// A quadratic Bézier curve with a width.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stroke {
    /// Start, the point it bends towards, and end.
    pub curve: [Point; 3],
    /// Half of the full width, as a share of the frame.
    pub half_width: f32,
    pub profile: Profile,
    pub colour: Colour,
}

/// Straight pieces a curve is painted in.
const PIECES: usize = 10;

impl Stroke {
    /// Paints it, lighter on one side than on the other as a round or folded thing is.
    pub fn paint(&self, canvas: &mut Canvas) {
        let mut start = self.curve[0];
        for piece in 0..PIECES {
            let end = self.at((piece + 1) as f32 / PIECES as f32);
            self.paint_piece(canvas, start, end, piece as f32 / PIECES as f32);
            start = end;
        }
    }

    /// The place at `t` of the way, 0 to 1.
    pub fn at(&self, t: f32) -> Point {
        let [a, b, c] = self.curve;
        let blend = |a: f32, b: f32, c: f32| (1.0 - t) * ((1.0 - t) * a + 2.0 * t * b) + t * t * c;
        (blend(a.0, b.0, c.0), blend(a.1, b.1, c.1))
    }

    fn paint_piece(&self, canvas: &mut Canvas, a: Point, b: Point, from: f32) {
        let (dx, dy) = (b.0 - a.0, b.1 - a.1);
        let length = (dx * dx + dy * dy).sqrt().max(1e-6);
        let (ux, uy) = (dx / length, dy / length);
        let reach = self.half_width;
        let area = Area {
            left: a.0.min(b.0) - reach,
            top: a.1.min(b.1) - reach,
            right: a.0.max(b.0) + reach,
            bottom: a.1.max(b.1) + reach,
        };
        canvas.paint(area, |(x, y)| {
            let (px, py) = (x - a.0, y - a.1);
            let along = (px * ux + py * uy).clamp(0.0, length);
            let (ox, oy) = (px - along * ux, py - along * uy);
            let t = from + along / length / PIECES as f32;
            let half_width = self.half_width * self.profile.share(t);
            if ox * ox + oy * oy > half_width * half_width {
                return None;
            }
            let side = (px * uy - py * ux) / half_width;
            let ridge = if self.profile == Profile::Leaf && side.abs() < 0.1 { 0.12 } else { 0.0 };
            Some((self.colour.lit(1.0 + 0.2 * side - ridge), 1.0))
        });
    }
}

impl Profile {
    fn share(self, t: f32) -> f32 {
        match self {
            Self::Even => 1.0,
            Self::Blade => (0.3 + 0.7 * ease(4.0 * t)) * (1.0 - t * t),
            Self::Leaf => 4.0 * t * (1.0 - t),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stroke_goes_from_end_to_end_and_is_as_wide_as_it_says() {
        let colour = Colour([0.5; 3]);
        let curve = [(0.2, 0.1), (0.9, 0.5), (0.2, 0.9)];
        let stroke = Stroke { curve, half_width: 0.05, profile: Profile::Even, colour };
        let mut canvas = Canvas::new(200, Colour([0.0; 3]));
        stroke.paint(&mut canvas);
        let covered = |(x, y): Point| canvas.pixels[(y * 200.0) as usize * 200 + (x * 200.0) as usize].0[0] > 0.0;
        assert!((0..=20).all(|i| covered(stroke.at(i as f32 / 20.0))));
        // Its middle is at (0.55, 0.5) and upright there.
        assert!(covered((0.51, 0.5)) && covered((0.59, 0.5)));
        assert!(!covered((0.48, 0.5)) && !covered((0.62, 0.5)));
    }
}

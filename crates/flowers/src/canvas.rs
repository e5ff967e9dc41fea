//! A square of colours that shapes are painted on, the farthest first.

use crate::colour::Colour;

/// A place in the frame: (0, 0) is its upper left corner, (1, 1) the lower right one.
pub(crate) type Point = (f32, f32);

/// An upright rectangle in the frame, which it may exceed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Area {
    pub left: f32,
    pub top: f32,
    pub right: f32,
    pub bottom: f32,
}

impl Area {
    /// The square around a circle.
    pub fn around((x, y): Point, radius: f32) -> Self {
        Self { left: x - radius, top: y - radius, right: x + radius, bottom: y + radius }
    }

    /// The frame itself.
    pub const FRAME: Self = Self { left: 0.0, top: 0.0, right: 1.0, bottom: 1.0 };
}

/// The picture while it is painted.
pub(crate) struct Canvas {
    pub side: usize,
    /// Row by row.
    pub pixels: Vec<Colour>,
}

impl Canvas {
    /// A canvas of `side` by `side` pixels, all of one colour.
    pub fn new(side: usize, colour: Colour) -> Self {
        Self { side, pixels: vec![colour; side * side] }
    }

    /// Asks `shader` at the middle of every pixel of an area for a colour and how much of it covers what was there
    /// (0 to 1); `None` leaves the pixel.
    pub fn paint(&mut self, area: Area, shader: impl Fn(Point) -> Option<(Colour, f32)>) {
        let scale = self.side as f32;
        // Negative numbers become 0 in the cast.
        let within = |low: f32, high: f32| {
            ((low * scale).floor() as usize).min(self.side)..((high * scale).ceil() as usize).min(self.side)
        };
        let columns = within(area.left, area.right);
        for row in within(area.top, area.bottom) {
            let y = (row as f32 + 0.5) / scale;
            for column in columns.clone() {
                if let Some((colour, cover)) = shader(((column as f32 + 0.5) / scale, y)) {
                    let pixel = &mut self.pixels[row * self.side + column];
                    *pixel = pixel.mix(colour, cover);
                }
            }
        }
    }

    /// A disc that is opaque in the middle and fades towards its rim: something out of focus, or a shadow.
    /// `cover` is how much it hides in the middle; `edge` says where fading begins, 0 (at once) to 1 (not at all).
    pub fn blob(&mut self, centre: Point, radius: f32, colour: Colour, cover: f32, edge: f32) {
        self.paint(Area::around(centre, radius), |(x, y)| {
            let (dx, dy) = ((x - centre.0) / radius, (y - centre.1) / radius);
            let distance = (dx * dx + dy * dy).sqrt();
            (distance < 1.0).then(|| (colour, cover * (1.0 - crate::noise::step(edge, 1.0, distance))))
        });
    }

    /// This canvas with another number of pixels, blending neighbours where there are to be more.
    pub fn enlarged(&self, side: usize) -> Self {
        let last = self.side - 1;
        let scale = self.side as f32 / side as f32;
        let places: Vec<(usize, usize, f32)> = (0..side)
            .map(|i| {
                let place = ((i as f32 + 0.5) * scale - 0.5).clamp(0.0, last as f32);
                let low = place as usize;
                (low, (low + 1).min(last), place - low as f32)
            })
            .collect();
        let mut pixels = Vec::with_capacity(side * side);
        for &(above, below, t) in &places {
            let (above, below) = (&self.pixels[above * self.side..], &self.pixels[below * self.side..]);
            for &(left, right, s) in &places {
                pixels.push(above[left].mix(above[right], s).mix(below[left].mix(below[right], s), t));
            }
        }
        Self { side, pixels }
    }

    /// This canvas with half as many pixels a side, each the mean of four.
    pub fn halved(&self) -> Self {
        let side = self.side / 2;
        let mut pixels = Vec::with_capacity(side * side);
        for y in 0..side {
            for x in 0..side {
                let at = 2 * y * self.side + 2 * x;
                let upper = self.pixels[at].mix(self.pixels[at + 1], 0.5);
                let lower = self.pixels[at + self.side].mix(self.pixels[at + self.side + 1], 0.5);
                pixels.push(upper.mix(lower, 0.5));
            }
        }
        Self { side, pixels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLACK: Colour = Colour([0.0; 3]);
    const WHITE: Colour = Colour([1.0; 3]);

    #[test]
    fn an_area_is_painted_up_to_its_edges_and_cut_at_the_frame() {
        let painted = |area| {
            let mut canvas = Canvas::new(4, BLACK);
            canvas.paint(area, |_| Some((WHITE, 1.0)));
            canvas.pixels.iter().map(|&pixel| if pixel == WHITE { '#' } else { '.' }).collect::<String>()
        };
        assert_eq!(painted(Area { left: 0.25, top: 0.0, right: 0.75, bottom: 0.5 }), ".##..##.........");
        assert_eq!(painted(Area { left: 0.75, top: -3.0, right: 9.0, bottom: 0.25 }), "...#............");
        assert_eq!(painted(Area { left: -2.0, top: 0.0, right: -1.0, bottom: 1.0 }), "................");
    }

    #[test]
    fn halving_takes_means_and_enlarging_keeps_even_ramps() {
        let mut canvas = Canvas::new(8, BLACK);
        canvas.paint(Area::FRAME, |(x, _)| Some((WHITE.lit(x), 1.0)));
        let half = canvas.halved();
        let row = |canvas: &Canvas| canvas.pixels[..canvas.side].iter().map(|pixel| pixel.0[0]).collect::<Vec<f32>>();
        assert_eq!(row(&half), [0.125, 0.375, 0.625, 0.875]);
        let whole = half.enlarged(8);
        // Between the middles of the outermost pixels; beyond them there is nothing to blend with.
        assert_eq!(row(&whole)[1..7], row(&canvas)[1..7]);
        assert_eq!((row(&whole)[0], row(&whole)[7]), (0.125, 0.875));
    }
}

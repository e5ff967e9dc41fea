//! Rotation about the centre, as PIL's `Image.rotate(angle, NEAREST, expand=False, fillcolor=0)`.

use crate::Image;

/// The picture turned counter-clockwise by `degrees` about its centre, at the same size: each pixel takes
/// the nearest one of the original, black where there is none.
///
/// Equals PIL's to the bit for pictures of up to 32768 pixels a side, for which PIL uses the same 16.16
/// fixed point.
pub fn rotate(image: &Image, degrees: f64) -> Image {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (center_x, center_y) = (f64::from(image.width()) / 2.0, f64::from(image.height()) / 2.0);
    // PIL takes the angle modulo a full turn first, and rounds to 15 decimals so that right angles are exact.
    let angle = -degrees.rem_euclid(360.0).to_radians();
    let round15 = |x: f64| (x * 1e15).round_ties_even() / 1e15;
    let (cos, sin) = (round15(angle.cos()), round15(angle.sin()));
    let offset_x = cos * -center_x + sin * -center_y + center_x;
    let offset_y = -sin * -center_x + cos * -center_y + center_y;

    let fixed = |x: f64| (x * 65536.0 + 0.5).floor() as i64;
    // How the place in the original moves with each column and with each row of the result.
    let (column_x, column_y) = (fixed(cos), fixed(-sin));
    let (line_x, line_y) = (fixed(sin), fixed(cos));
    // The centre of the first pixel, carried back into the original.
    let mut row_x = fixed(offset_x + cos * 0.5 + sin * 0.5);
    let mut row_y = fixed(offset_y + -sin * 0.5 + cos * 0.5);

    let (source, _) = image.pixels().as_chunks::<3>();
    let mut pixels = Vec::with_capacity(image.pixels().len());
    for _ in 0..height {
        let (mut x, mut y) = (row_x, row_y);
        for _ in 0..width {
            let inside = |position: i64, side: usize| usize::try_from(position >> 16).ok().filter(|&at| at < side);
            let pixel = match (inside(x, width), inside(y, height)) {
                (Some(column), Some(row)) => source[row * width + column],
                _ => [0; 3],
            };
            pixels.extend_from_slice(&pixel);
            x += column_x;
            y += column_y;
        }
        row_x += line_x;
        row_y += line_y;
    }
    Image::new(image.width(), image.height(), pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_angles_move_every_pixel_to_its_place() {
        let image = Image::new(2, 2, vec![1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
        let firsts = |degrees| rotate(&image, degrees).pixels().iter().step_by(3).copied().collect::<Vec<_>>();
        assert_eq!(firsts(0.0), [1, 2, 3, 4]);
        assert_eq!(firsts(90.0), [2, 4, 1, 3]);
        assert_eq!(firsts(-180.0), [4, 3, 2, 1]);
        assert_eq!(firsts(270.0), [3, 1, 4, 2]);
    }
}

//! Affine maps of pictures without interpolation, as PIL's `Image.transform(size, AFFINE, matrix, NEAREST)`.

use crate::Image;

/// Where each pixel of the result lies in the original: `x' = a x + b y + c`, `y' = d x + e y + f`, in pixels from
/// the upper left corner, as PIL's `[a, b, c, d, e, f]`.
type Matrix = [f64; 6];

/// The picture whose every pixel is the nearest one of the original where `matrix` says, black where there is none.
///
/// Equals PIL's to the bit for pictures of up to 32768 pixels a side, for which PIL uses the same 16.16 fixed point.
fn affine(image: &Image, [a, b, c, d, e, f]: Matrix) -> Image {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let fixed = |x: f64| (x * 65536.0 + 0.5).floor() as i64;
    // How the place in the original moves with each column and with each row of the result.
    let (column_x, column_y) = (fixed(a), fixed(d));
    let (line_x, line_y) = (fixed(b), fixed(e));
    // The centre of the first pixel, carried back into the original.
    let mut row_x = fixed(c + a * 0.5 + b * 0.5);
    let mut row_y = fixed(f + d * 0.5 + e * 0.5);

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

/// The picture turned counter-clockwise by `degrees` about its centre, at the same size: PIL's
/// `Image.rotate(degrees, NEAREST, expand=False, fillcolor=0)`.
pub fn rotate(image: &Image, degrees: f64) -> Image {
    let (center_x, center_y) = (f64::from(image.width()) / 2.0, f64::from(image.height()) / 2.0);
    // PIL takes the angle modulo a full turn first, and rounds to 15 decimals so that right angles are exact.
    let angle = -degrees.rem_euclid(360.0).to_radians();
    let round15 = |x: f64| (x * 1e15).round_ties_even() / 1e15;
    let (cos, sin) = (round15(angle.cos()), round15(angle.sin()));
    let offset_x = cos * -center_x + sin * -center_y + center_x;
    let offset_y = -sin * -center_x + cos * -center_y + center_y;
    affine(image, [cos, sin, offset_x, -sin, cos, offset_y])
}

/// Shears along x about the upper left corner, as torchvision's automatic policies do: row `y` moves by `-slope * y`
/// pixels.
pub fn shear_x(image: &Image, slope: f64) -> Image {
    affine(image, [1.0, tangent(slope), 0.0, 0.0, 1.0, 0.0])
}

/// Shears along y about the upper left corner: column `x` moves by `-slope * x` pixels.
pub fn shear_y(image: &Image, slope: f64) -> Image {
    affine(image, [1.0, 0.0, 0.0, tangent(slope), 1.0, 0.0])
}

/// Moves the picture by whole pixels, to the right and down.
pub fn translate(image: &Image, right: i32, down: i32) -> Image {
    affine(image, [1.0, 0.0, -f64::from(right), 0.0, 1.0, -f64::from(down)])
}

/// The slope on torchvision's detour: as an angle in degrees, and back.
fn tangent(slope: f64) -> f64 {
    slope.atan().to_degrees().to_radians().tan()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firsts(image: &Image) -> Vec<u8> {
        image.pixels().iter().step_by(3).copied().collect()
    }

    #[test]
    fn right_angles_move_every_pixel_to_its_place() {
        let image = Image::new(2, 2, vec![1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
        assert_eq!(firsts(&rotate(&image, 0.0)), [1, 2, 3, 4]);
        assert_eq!(firsts(&rotate(&image, 90.0)), [2, 4, 1, 3]);
        assert_eq!(firsts(&rotate(&image, -180.0)), [4, 3, 2, 1]);
        assert_eq!(firsts(&rotate(&image, 270.0)), [3, 1, 4, 2]);
    }

    #[test]
    fn moves_are_to_the_right_and_down_and_leave_black() {
        let image = Image::new(3, 1, vec![1, 1, 1, 2, 2, 2, 3, 3, 3]);
        assert_eq!(firsts(&translate(&image, 1, 0)), [0, 1, 2]);
        assert_eq!(firsts(&translate(&image, -2, 0)), [3, 0, 0]);
        assert_eq!(firsts(&translate(&image, 0, 1)), [0, 0, 0]);
        let column = Image::new(1, 3, image.pixels().to_vec());
        assert_eq!(firsts(&translate(&column, 0, 1)), [0, 1, 2]);
    }

    #[test]
    fn a_shear_leaves_the_corner_and_moves_what_is_far_from_it() {
        let image = Image::new(4, 4, (1..=16).flat_map(|level| [level; 3]).collect());
        // Row y reads from column x + y; the first row moves by half a pixel's slope, which the nearest swallows.
        assert_eq!(firsts(&shear_x(&image, 0.99)), [1, 2, 3, 4, 6, 7, 8, 0, 11, 12, 0, 0, 16, 0, 0, 0]);
        let turned = Image::new(4, 4, (0..16).flat_map(|i| [1 + i / 4 + i % 4 * 4; 3]).collect());
        let sheared = firsts(&shear_y(&turned, 0.99));
        let transposed: Vec<u8> = (0..16).map(|i| firsts(&shear_x(&image, 0.99))[i / 4 + i % 4 * 4]).collect();
        assert_eq!(sheared, transposed);
    }
}

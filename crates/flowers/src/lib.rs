//! A picture collection for people who want to see transfer learning work and have no photos at hand: seventeen kinds
//! of flowers (as many as in the Oxford 17-flower set), drawn.
//!
//! A kind is a description of its shapes: rings of petals, discs, how the blossoms sit on the stem (`kinds`). A picture
//! is a scene with one to four plants of a kind in random poses, before and behind other things, in random light
//! (`scene`, `plant`, `blossom`, `background`), photographed by a camera with its faults (`camera`). Colours are shared
//! between kinds, and backgrounds don't depend on the kind: shapes tell the kinds apart, as in real photos.
//!
//! A picture is a function of kind, number, seed and size. It is computed by sums, products, quotients and square
//! roots alone, whose results are the same on every machine, and so are the pictures, to the bit.

mod background;
mod blossom;
mod camera;
mod canvas;
mod collection;
mod colour;
mod draws;
mod kinds;
mod layer;
mod noise;
mod outline;
mod plant;
mod scene;
mod stroke;
mod trig;

use regraft_random::{Purpose, keyed};

pub use collection::write_collection;

/// The names of the kinds, sorted; also those of their folders.
pub const KINDS: [&str; 17] = {
    let mut names = [""; 17];
    let mut kind = 0;
    while kind < names.len() {
        names[kind] = kinds::ALL[kind].name;
        kind += 1;
    }
    names
};

/// Draws a picture of a kind (its place in [`KINDS`]): red, green and blue of each pixel, row by row, `side * side * 3`
/// bytes. Every `number` gives another picture; the same arguments give the same bytes.
///
/// # Panics
/// If there is no such kind, or `side` is 0 or above 4096.
pub fn draw(kind: usize, number: u64, seed: u64, side: u32) -> Vec<u8> {
    assert!((1..=4096).contains(&side), "a picture has from 1 to 4096 pixels a side, not {side}");
    let mut rng = keyed(seed, Purpose::Drawing, kind as u64, number);
    // Twice the pixels each way, so that edges are smooth once they are halved.
    let canvas = scene::paint(&kinds::ALL[kind], 2 * side as usize, &mut rng);
    camera::expose(&canvas.halved(), &mut rng)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::colour::Colour;

    #[test]
    fn the_kinds_are_sorted_and_no_two_have_one_name() {
        assert!(KINDS.is_sorted_by(|a, b| a < b), "{KINDS:?}");
        // Names that are good for a folder on any system.
        assert!(KINDS.iter().all(|name| name.bytes().all(|letter| letter.is_ascii_lowercase())), "{KINDS:?}");
    }

    #[test]
    fn a_picture_is_a_function_of_its_arguments() {
        let picture = draw(5, 1, 2, 48);
        assert_eq!(picture.len(), 48 * 48 * 3);
        assert_eq!(draw(5, 1, 2, 48), picture);
        for other in [draw(6, 1, 2, 48), draw(5, 2, 2, 48), draw(5, 1, 3, 48)] {
            assert_ne!(other, picture);
        }
        assert_eq!(draw(0, 0, 0, 1).len(), 3);
    }

    #[test]
    fn no_two_pictures_of_a_kind_are_near_each_other() {
        let pictures: Vec<Vec<u8>> = (0..12).map(|number| draw(6, number, 0, 32)).collect();
        for (i, one) in pictures.iter().enumerate() {
            for other in &pictures[..i] {
                let apart: u32 = one.iter().zip(other).map(|(&a, &b)| u32::from(a.abs_diff(b))).sum();
                assert!(apart > 15 * one.len() as u32, "mean difference {}", apart as f64 / one.len() as f64);
            }
        }
    }

    #[test]
    fn everything_painted_is_a_colour() {
        for kind in &kinds::ALL {
            for number in 0..20 {
                let canvas = scene::paint(kind, 40, &mut keyed(1, Purpose::Drawing, 0, number));
                let sound = |Colour(levels): &Colour| levels.iter().all(|level| (0.0..2.0).contains(level));
                assert!(canvas.pixels.iter().all(sound), "{} {number}", kind.name);
            }
        }
    }

    #[test]
    fn the_camera_neither_burns_out_nor_blackens_whole_pictures() {
        for kind in 0..KINDS.len() {
            for number in 0..10 {
                let picture = draw(kind, number, 0, 40);
                let clipped = picture.iter().filter(|level| matches!(level, 0 | 255)).count();
                assert!(clipped * 2 < picture.len(), "{} {number}: {clipped} of {}", KINDS[kind], picture.len());
            }
        }
    }

    #[test]
    fn pictures_are_the_same_on_every_machine() {
        // FNV-1a over a picture of every kind. A change of what is drawn changes it, and is no error; a machine may not.
        let hash = (0..KINDS.len())
            .flat_map(|kind| draw(kind, 3, 4, 40))
            .fold(0xcbf2_9ce4_8422_2325, |h: u64, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        assert_eq!(hash, 0xd7ae_46b9_1a85_44cf, "{hash:#x}");
    }
}

//! Changes of a picture's levels by a table for each channel: torchvision's `posterize`, `solarize`, `autocontrast`
//! and `equalize` of PIL pictures, to the bit.

use crate::Image;

/// For each level, what becomes of it.
type Table = [u8; 256];

/// Keeps the `bits` highest bits of each level, 0 to 8: `posterize`.
pub fn posterize(image: &mut Image, bits: u32) {
    let mask = !(255u16 >> bits.min(8)) as u8;
    look_up(image, &[table(|level| level & mask); 3]);
}

/// Inverts the levels from `threshold` up: `solarize`.
pub fn solarize(image: &mut Image, threshold: f64) {
    look_up(image, &[table(|level| if f64::from(level) < threshold { level } else { 255 - level }); 3]);
}

/// Stretches the levels of each channel to the whole range: `autocontrast`. A channel of one level stays.
pub fn autocontrast(image: &mut Image) {
    let tables = histograms(image).map(|counts| {
        let (low, high) = (counts.iter().position(|&n| n > 0), counts.iter().rposition(|&n| n > 0));
        match (low, high) {
            (Some(low), Some(high)) if low < high => {
                let scale = 255.0 / (high - low) as f64;
                let offset = -(low as f64) * scale;
                // `as` truncates and clips.
                table(|level| (f64::from(level) * scale + offset) as u8)
            }
            _ => table(|level| level),
        }
    });
    look_up(image, &tables);
}

/// Spreads the levels of each channel so that they are about equally frequent: `equalize`.
pub fn equalize(image: &mut Image) {
    let tables = histograms(image).map(|counts| {
        let last = counts.iter().rev().find(|&&n| n > 0).copied().unwrap_or(0);
        let step = (counts.iter().sum::<u64>() - last) / 255;
        // A channel of one level, or a picture of too few pixels, stays.
        if step == 0 {
            return table(|level| level);
        }
        let mut sum = step / 2;
        let mut ranks = counts.iter().map(|n| {
            let rank = sum / step;
            sum += n;
            rank.min(255) as u8
        });
        std::array::from_fn(|_| ranks.next().expect("a rank for every level"))
    });
    look_up(image, &tables);
}

fn table(f: impl Fn(u8) -> u8) -> Table {
    std::array::from_fn(|level| f(level as u8))
}

/// How many pixels have each level, in each channel.
fn histograms(image: &Image) -> [[u64; 256]; 3] {
    let mut counts = [[0; 256]; 3];
    let (pixels, _) = image.pixels().as_chunks::<3>();
    for pixel in pixels {
        counts.iter_mut().zip(pixel).for_each(|(counts, &level)| counts[usize::from(level)] += 1);
    }
    counts
}

fn look_up(image: &mut Image, tables: &[Table; 3]) {
    let (pixels, _) = image.pixels_mut().as_chunks_mut::<3>();
    for pixel in pixels {
        pixel.iter_mut().zip(tables).for_each(|(level, table)| *level = table[usize::from(*level)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(pixels: &[u8], change: impl Fn(&mut Image)) -> Vec<u8> {
        let mut image = Image::new(pixels.len() as u32 / 3, 1, pixels.to_vec());
        change(&mut image);
        image.pixels().to_vec()
    }

    #[test]
    fn the_ends_of_each_scale() {
        let pixels = [0, 100, 255, 7, 128, 200];
        assert_eq!(changed(&pixels, |image| posterize(image, 8)), pixels);
        assert_eq!(changed(&pixels, |image| posterize(image, 1)), [0, 0, 128, 0, 128, 128]);
        assert_eq!(changed(&pixels, |image| posterize(image, 0)), [0; 6]);
        assert_eq!(changed(&pixels, |image| solarize(image, 256.0)), pixels);
        assert_eq!(changed(&pixels, |image| solarize(image, 0.0)), pixels.map(|level| 255 - level));
        assert_eq!(changed(&pixels, |image| solarize(image, 128.0)), [0, 100, 0, 7, 127, 55]);
    }

    #[test]
    fn channels_of_one_level_stay() {
        for change in [autocontrast, equalize] {
            assert_eq!(changed(&[9; 3000], change), [9; 3000]);
        }
    }
}

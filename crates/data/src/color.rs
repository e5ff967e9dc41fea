//! torchvision's colour adjustments of PIL pictures, in PIL's arithmetic, to the bit.

use serde::{Deserialize, Serialize};

use crate::Image;

/// One of the changes of `ColorJitter`, with the factor drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColorChange {
    /// Blend with black: [`adjust_brightness`].
    Brightness(f64),
    /// Blend with the mean grey: [`adjust_contrast`].
    Contrast(f64),
    /// Blend with the grey version: [`adjust_saturation`].
    Saturation(f64),
    /// Turn the hue circle: [`adjust_hue`].
    Hue(f64),
}

/// Makes one change.
pub fn adjust(image: &mut Image, change: ColorChange) {
    match change {
        ColorChange::Brightness(factor) => adjust_brightness(image, factor),
        ColorChange::Contrast(factor) => adjust_contrast(image, factor),
        ColorChange::Saturation(factor) => adjust_saturation(image, factor),
        ColorChange::Hue(turn) => adjust_hue(image, turn),
    }
}

/// Blends with black: `torchvision.transforms.functional.adjust_brightness`. 1 changes nothing, 0 gives black.
pub fn adjust_brightness(image: &mut Image, factor: f64) {
    blend(image.pixels_mut(), factor, |_| [0; 3]);
}

/// Blends with the picture's mean grey: `adjust_contrast`. 1 changes nothing, 0 gives plain grey.
pub fn adjust_contrast(image: &mut Image, factor: f64) {
    let (pixels, _) = image.pixels().as_chunks::<3>();
    let sum: u64 = pixels.iter().map(|pixel| u64::from(grey(pixel))).sum();
    let mean = (sum as f64 / pixels.len() as f64 + 0.5) as u8;
    blend(image.pixels_mut(), factor, |_| [mean; 3]);
}

/// Blends with the picture's grey version: `adjust_saturation`. 1 changes nothing, 0 gives the grey version.
pub fn adjust_saturation(image: &mut Image, factor: f64) {
    blend(image.pixels_mut(), factor, |pixel| [grey(pixel); 3]);
}

/// Blends with the smoothed picture: `adjust_sharpness`. 1 changes nothing, 0 gives the smoothed one.
pub fn adjust_sharpness(image: &mut Image, factor: f64) {
    let smooth = smooth(image);
    let mut smooth = smooth.iter();
    blend(image.pixels_mut(), factor, |_| *smooth.next().expect("a smoothed pixel for every pixel"));
}

/// Turns the hue circle by `turn` of a full turn, -0.5 to 0.5: `adjust_hue`, by way of PIL's 8-bit HSV.
/// Even 0 changes colours slightly, by the rounding to HSV and back.
pub fn adjust_hue(image: &mut Image, turn: f64) {
    // As numpy: truncated to an integer, then to its lowest byte.
    let shift = (turn * 255.0) as i32 as u8;
    let (pixels, _) = image.pixels_mut().as_chunks_mut::<3>();
    for pixel in pixels {
        let [h, s, v] = rgb_to_hsv(*pixel);
        *pixel = hsv_to_rgb([h.wrapping_add(shift), s, v]);
    }
}

/// PIL's `Image.blend`: `other + factor * (pixel - other)` in `f32`, truncated and clipped to 0..255.
fn blend(pixels: &mut [u8], factor: f64, mut other: impl FnMut(&[u8; 3]) -> [u8; 3]) {
    let factor = factor as f32;
    let (pixels, _) = pixels.as_chunks_mut::<3>();
    for pixel in pixels {
        let other = other(pixel);
        for (level, other) in pixel.iter_mut().zip(other) {
            let difference = i32::from(*level) - i32::from(other);
            // `as` truncates and clips.
            *level = (f32::from(other) + factor * difference as f32) as u8;
        }
    }
}

/// PIL's `ImageFilter.SMOOTH`: each pixel five times and its eight neighbours once, over 13; the border stays.
fn smooth(image: &Image) -> Vec<[u8; 3]> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let (pixels, _) = image.pixels().as_chunks::<3>();
    let mut result = pixels.to_vec();
    for y in 1..height.saturating_sub(1) {
        for x in 1..width.saturating_sub(1) {
            let at = y * width + x;
            result[at] = std::array::from_fn(|channel| {
                let row = |y: usize| (x - 1..=x + 1).map(move |x| u32::from(pixels[y * width + x][channel]));
                let sum: u32 = (y - 1..=y + 1).flat_map(row).sum::<u32>() + 4 * u32::from(pixels[at][channel]);
                // To the nearest; 13 is odd, so there are no halves.
                ((2 * sum + 13) / 26) as u8
            });
        }
    }
    result
}

/// PIL's luma (ITU-R 601-2) in 16-bit fixed point.
fn grey([r, g, b]: &[u8; 3]) -> u8 {
    ((u32::from(*r) * 19595 + u32::from(*g) * 38470 + u32::from(*b) * 7471 + 0x8000) >> 16) as u8
}

/// PIL's conversion to HSV; single and double precision alternate as in its C code.
fn rgb_to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (max, min) = (r.max(g).max(b), r.min(g).min(b));
    if max == min {
        return [0, 0, max];
    }
    let range = f32::from(max - min);
    let saturation = range / f32::from(max);
    let away = |channel: u8| f32::from(max - channel) / range;
    let (rc, gc, bc) = (away(r), away(g), away(b));
    let sixth = if r == max {
        bc - gc
    } else if g == max {
        (2.0 + f64::from(rc) - f64::from(bc)) as f32
    } else {
        (4.0 + f64::from(gc) - f64::from(rc)) as f32
    };
    let hue = ((f64::from(sixth) / 6.0 + 1.0) % 1.0) as f32;
    [(f64::from(hue) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, max]
}

/// PIL's conversion from HSV.
fn hsv_to_rgb([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let position = f64::from(h) * 6.0 / 255.0;
    let sector = position.floor();
    let rest = f64::from((position - sector) as f32);
    let saturation = f64::from((f64::from(s) / 255.0) as f32);
    let level = |weight: f64| (f64::from(v) * weight).round() as u8;
    let p = level(1.0 - saturation);
    let q = level(1.0 - saturation * rest);
    let t = level(1.0 - saturation * (1.0 - rest));
    match sector as u8 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_each_scale() {
        let original = Image::new(2, 1, vec![200, 100, 0, 10, 20, 30]);
        let changed = |change: fn(&mut Image, f64), factor| {
            let mut image = original.clone();
            change(&mut image, factor);
            image.pixels().to_vec()
        };
        for change in [adjust_brightness, adjust_contrast, adjust_saturation, adjust_sharpness] {
            assert_eq!(changed(change, 1.0), original.pixels());
        }
        assert_eq!(changed(adjust_brightness, 0.0), [0; 6]);
        assert_eq!(changed(adjust_brightness, 100.0), [255, 255, 0, 255, 255, 255]);
        assert_eq!(changed(adjust_contrast, 0.0), [68; 6]); // the mean of the greys 118 and 18
        assert_eq!(changed(adjust_saturation, 0.0), [118, 118, 118, 18, 18, 18]);
        // Half a turn of orange is azure.
        assert_eq!(changed(adjust_hue, 0.5)[..3], [0, 104, 200]);
    }
}

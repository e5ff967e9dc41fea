//! What happens to every picture before the network sees it, in training's evaluation as in serving.

use serde::{Deserialize, Serialize};

use crate::resize::{Scratch, Window};
use crate::{DecodeOptions, Error, Image, Result};

/// How pixels are resampled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// Bilinear with antialias: PIL's `BILINEAR`, torchvision's default.
    #[default]
    Bilinear,
    /// Bicubic with antialias: PIL's `BICUBIC`, with which torchvision's EfficientNets, among others, were evaluated.
    Bicubic,
}

/// torchvision's evaluation transforms: `Resize`, `CenterCrop`, `ToTensor`, `Normalize`.
///
/// Stored in the model file, so that every later use prepares pictures as training did. The default is
/// the tutorial's: 256, 224, ImageNet's mean and standard deviation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Length of the shorter side after `Resize`, in pixels, 1 to [`Preprocessing::MAX_SIDE`].
    pub resize: u32,
    /// Side of the square that `CenterCrop` keeps, in pixels, 1 to [`Preprocessing::MAX_SIDE`]; the side of
    /// the network's input. Where it exceeds the resized picture, black fills the rest.
    pub crop: u32,
    /// How `Resize` and `RandomResizedCrop` resample.
    #[serde(default)]
    pub interpolation: Interpolation,
    /// Mean of each channel (R, G, B), on the scale 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel (R, G, B), on the scale 0..1.
    pub std: [f32; 3],
    /// Whether pictures are turned upright by their EXIF orientation. torchvision does not.
    pub exif_orientation: bool,
}

impl Default for Preprocessing {
    fn default() -> Self {
        Self {
            resize: 256,
            crop: 224,
            interpolation: Interpolation::Bilinear,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            exif_orientation: true,
        }
    }
}

impl Preprocessing {
    /// The largest side that can be asked for, in pixels.
    pub const MAX_SIDE: u32 = 4096;

    /// Checks the values, which may come from a file.
    ///
    /// # Errors
    /// [`Error::Setting`] for a side out of range, a mean or standard deviation that is not finite, or a
    /// standard deviation that is not positive.
    pub fn validate(&self) -> Result<()> {
        for (what, side) in [("resize", self.resize), ("crop", self.crop)] {
            if !(1..=Self::MAX_SIDE).contains(&side) {
                return Err(Error::Setting { what, value: side.to_string(), expected: "1 to 4096 pixels" });
            }
        }
        if !self.mean.iter().all(|mean| mean.is_finite()) {
            return Err(Error::Setting { what: "mean", value: format!("{:?}", self.mean), expected: "finite" });
        }
        if !self.std.iter().all(|&std| std.is_normal() && std > 0.0) {
            return Err(Error::Setting { what: "std", value: format!("{:?}", self.std), expected: "positive" });
        }
        Ok(())
    }

    /// How photos are to be decoded for these transforms.
    pub fn decode_options(&self) -> DecodeOptions {
        DecodeOptions {
            exif_orientation: self.exif_orientation,
            min_side: Some(self.resize),
            ..DecodeOptions::default()
        }
    }

    /// How many values one picture becomes: `crop * crop * 3`.
    pub fn values(&self) -> usize {
        self.crop as usize * self.crop as usize * 3
    }

    /// The network's input for one picture: `[crop, crop, 3]`.
    ///
    /// Equals torchvision's on the same decoded picture within 1/255 before normalisation.
    pub fn apply(&self, image: &Image) -> Vec<f32> {
        let mut values = vec![0.0; self.values()];
        self.normalize_into(&self.resize_and_crop(image, &mut Scratch::default()), &mut values);
        values
    }

    /// The shorter side after resizing for another side of the square, in the proportion of this preprocessing, rounded
    /// down.
    pub fn resize_for(&self, crop: u32) -> u32 {
        (crop.saturating_mul(self.resize) / self.crop.max(1)).min(Self::MAX_SIDE)
    }

    /// `Resize` and `CenterCrop`: a square of `crop` pixels. Only what the crop keeps is computed, so a
    /// very long picture costs no more than a square one.
    pub fn resize_and_crop(&self, image: &Image, scratch: &mut Scratch) -> Image {
        let full = resized_size(image.width(), image.height(), self.resize);
        let (left, width, left_pad) = centered(full.0, self.crop);
        let (top, height, top_pad) = centered(full.1, self.crop);
        let window = Window { full, corner: (left, top), size: (width, height) };
        let part = scratch.resize_window(image, &window, self.interpolation);
        if width == self.crop && height == self.crop {
            return part;
        }
        let mut padded = Image::filled(self.crop, self.crop, [0; 3]);
        let stride = self.crop as usize * 3;
        let row_bytes = width as usize * 3;
        let rows = padded.pixels_mut().chunks_exact_mut(stride).skip(top_pad as usize);
        for (target, source) in rows.zip(part.pixels().chunks_exact(row_bytes)) {
            target[left_pad as usize * 3..][..row_bytes].copy_from_slice(source);
        }
        padded
    }

    /// `ToTensor` and `Normalize`: `(level / 255 - mean) / std` in `f32`, bit for bit torch's.
    ///
    /// # Panics
    /// If `values` has not the picture's `height * width * 3` elements.
    pub fn normalize_into(&self, image: &Image, values: &mut [f32]) {
        assert_eq!(values.len(), image.pixels().len(), "one value for every byte");
        let tables: [[f32; 256]; 3] = std::array::from_fn(|channel| {
            std::array::from_fn(|level| (level as f32 / 255.0 - self.mean[channel]) / self.std[channel])
        });
        let (targets, _) = values.as_chunks_mut::<3>();
        let (pixels, _) = image.pixels().as_chunks::<3>();
        for (target, pixel) in targets.iter_mut().zip(pixels) {
            *target = std::array::from_fn(|channel| tables[channel][usize::from(pixel[channel])]);
        }
    }
}

/// torchvision's `Resize(shorter)`: the shorter side becomes `shorter`, the longer one
/// `int(shorter * long / short)`.
fn resized_size(width: u32, height: u32, shorter: u32) -> (u32, u32) {
    let scaled = |long: u32, short: u32| {
        u32::try_from(u64::from(shorter) * u64::from(long) / u64::from(short)).unwrap_or(u32::MAX)
    };
    if width <= height { (shorter, scaled(height, width)) } else { (scaled(width, height), shorter) }
}

/// torchvision's `CenterCrop` along one side: where the crop starts in the picture, how much of the picture
/// it holds, and how much padding comes before.
fn centered(side: u32, crop: u32) -> (u32, u32, u32) {
    if side >= crop {
        // int(round((side - crop) / 2.0)), where Python rounds halves to even.
        let start = (f64::from(side - crop) / 2.0).round_ties_even() as u32;
        (start, crop, 0)
    } else {
        (0, side, (crop - side) / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_torchvisions() {
        // torchvision.transforms.functional._compute_resized_image_output_size
        assert_eq!(resized_size(500, 375, 256), (341, 256));
        assert_eq!(resized_size(375, 500, 256), (256, 341));
        assert_eq!(resized_size(92, 112, 256), (256, 311));
        assert_eq!(resized_size(256, 256, 256), (256, 256));
        assert_eq!(resized_size(1, 100_000_000, 4096), (4096, u32::MAX));
    }

    #[test]
    fn crops_round_halves_to_even_and_pad_at_the_end() {
        assert_eq!(centered(341, 224), (58, 224, 0)); // 58.5
        assert_eq!(centered(227, 224), (2, 224, 0)); // 1.5
        assert_eq!(centered(224, 224), (0, 224, 0));
        assert_eq!(centered(221, 224), (0, 221, 1));
    }

    #[test]
    fn a_small_crop_of_a_very_long_picture_stays_cheap() {
        let image = Image::filled(1, 60_000, [10, 20, 30]);
        let cropped = Preprocessing::default().resize_and_crop(&image, &mut Scratch::default());
        assert_eq!(cropped, Image::filled(224, 224, [10, 20, 30]));
    }

    #[test]
    fn values_from_a_file_are_checked() {
        assert!(Preprocessing::default().validate().is_ok());
        for (change, what) in [
            (Preprocessing { resize: 0, ..Default::default() }, "resize"),
            (Preprocessing { crop: 4097, ..Default::default() }, "crop"),
            (Preprocessing { mean: [f32::NAN, 0.0, 0.0], ..Default::default() }, "mean"),
            (Preprocessing { std: [1.0, 0.0, 1.0], ..Default::default() }, "std"),
        ] {
            assert!(matches!(change.validate(), Err(Error::Setting { what: w, .. }) if w == what));
        }
    }

    #[test]
    fn it_survives_being_stored() {
        let json = serde_json::to_string(&Preprocessing::default()).unwrap();
        assert!(json.contains(r#""interpolation":"bilinear""#), "{json}");
        assert_eq!(serde_json::from_str::<Preprocessing>(&json).unwrap(), Preprocessing::default());
        let bicubic = Preprocessing { interpolation: Interpolation::Bicubic, ..Default::default() };
        let other = json.replace("bilinear", "bicubic");
        assert_eq!(serde_json::from_str::<Preprocessing>(&other).unwrap(), bicubic);
        let older = json.replace(r#""interpolation":"bilinear","#, "");
        assert_eq!(serde_json::from_str::<Preprocessing>(&older).unwrap(), Preprocessing::default());
        let unknown = json.replace("bilinear", "sinc");
        assert!(serde_json::from_str::<Preprocessing>(&unknown).is_err(), "an unknown filter is refused");
    }
}

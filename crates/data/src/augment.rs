//! Random variations of training pictures: what is drawn ([`Augmentation::draw`]) is kept apart from what
//! is done with it ([`Augmentation::apply`]), so the one can be tested against the other.

use std::fmt::Debug;

use regraft_random::{Generator, Purpose, below, keyed, shuffle, unit_f64};
use serde::{Deserialize, Serialize};

use crate::color::{self, ColorChange};
use crate::resize::Scratch;
use crate::{AutoAugment, Erased, Error, Image, Mix, Operation, Preprocessing, RandomErasing, Result, rotate};

/// torchvision's training transforms, in this order: `RandomResizedCrop`, `RandomHorizontalFlip`,
/// `RandomRotation`, `ColorJitter`, an automatic policy and, after normalisation, `RandomErasing` and a mixing of
/// batches. The default is the tutorial's: the first two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Range of the crop's area as a fraction of the picture's.
    pub scale: (f64, f64),
    /// Range of the crop's aspect ratio, width to height.
    pub ratio: (f64, f64),
    /// Probability of mirroring left to right.
    pub hflip: f64,
    /// Rotation by an angle from `-degrees..degrees`, without interpolation, black in the corners; 0 for none.
    pub degrees: f64,
    /// Random brightness, contrast, saturation and hue; `None` for none.
    pub color_jitter: Option<ColorJitter>,
    /// RandAugment or TrivialAugmentWide; `None` for neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_augment: Option<AutoAugment>,
    /// Random erasing of a rectangle; `None` for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random_erasing: Option<RandomErasing>,
    /// MixUp or CutMix, which whoever forms the steps of training carries out; `None` for neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mix: Option<Mix>,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self {
            scale: (0.08, 1.0),
            ratio: (3.0 / 4.0, 4.0 / 3.0),
            hflip: 0.5,
            degrees: 0.0,
            color_jitter: None,
            auto_augment: None,
            random_erasing: None,
            mix: None,
        }
    }
}

/// torchvision's `ColorJitter`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColorJitter {
    /// The factor comes from `max(0, 1 - brightness)..1 + brightness`.
    pub brightness: f64,
    /// The factor comes from `max(0, 1 - contrast)..1 + contrast`.
    pub contrast: f64,
    /// The factor comes from `max(0, 1 - saturation)..1 + saturation`.
    pub saturation: f64,
    /// The turn of the hue circle comes from `-hue..hue`, at most 0.5.
    pub hue: f64,
}

/// A rectangle inside a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CropBox {
    /// Columns left of it.
    pub left: u32,
    /// Rows above it.
    pub top: u32,
    /// Its width, at least 1.
    pub width: u32,
    /// Its height, at least 1.
    pub height: u32,
}

/// What was drawn for one picture in one epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// The part of the picture to keep.
    pub crop: CropBox,
    /// Whether to mirror it.
    pub flip: bool,
    /// Degrees to turn it by, counter-clockwise.
    pub angle: f64,
    /// How to change its colours, in this order.
    pub jitter: Vec<ColorChange>,
    /// What the automatic policy does then, in this order.
    pub operations: Vec<Operation>,
    /// What is erased after normalisation.
    pub erased: Option<Erased>,
}

impl Drawn {
    /// A crop and nothing else.
    pub fn crop(crop: CropBox) -> Self {
        Self { crop, flip: false, angle: 0.0, jitter: Vec::new(), operations: Vec::new(), erased: None }
    }
}

impl Augmentation {
    /// Checks the values, which may come from a person or a file.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the value out of range.
    pub fn validate(&self) -> Result<()> {
        let (low, high) = self.scale;
        check(0.0 < low && low <= high && high <= 1.0, "scale", &self.scale, "two rising fractions above 0, up to 1")?;
        let (low, high) = self.ratio;
        check(0.01 <= low && low <= high && high <= 100.0, "ratio", &self.ratio, "two rising ratios from 0.01 to 100")?;
        check((0.0..=1.0).contains(&self.hflip), "hflip", &self.hflip, "a probability from 0 to 1")?;
        check((0.0..=180.0).contains(&self.degrees), "degrees", &self.degrees, "0 to 180")?;
        self.auto_augment.as_ref().map_or(Ok(()), AutoAugment::validate)?;
        self.random_erasing.as_ref().map_or(Ok(()), RandomErasing::validate)?;
        self.mix.as_ref().map_or(Ok(()), Mix::validate)?;
        let Some(jitter) = self.color_jitter else { return Ok(()) };
        for (what, value) in
            [("brightness", jitter.brightness), ("contrast", jitter.contrast), ("saturation", jitter.saturation)]
        {
            check((0.0..=100.0).contains(&value), what, &value, "0 to 100")?;
        }
        check((0.0..=0.5).contains(&jitter.hue), "hue", &jitter.hue, "0 to 0.5")
    }

    /// Draws for a picture of `width` by `height` pixels that becomes a square of `side`, keyed by the run's seed, the
    /// epoch and the sample: the same arguments always give the same result.
    pub fn draw(&self, (width, height): (u32, u32), side: u32, seed: u64, epoch: u64, sample: u64) -> Drawn {
        let mut rng = keyed(seed, Purpose::Augment, epoch, sample);
        Drawn {
            crop: self.draw_crop(width, height, &mut rng),
            flip: unit_f64(&mut rng) < self.hflip,
            angle: uniform(&mut rng, -self.degrees, self.degrees),
            jitter: self.color_jitter.map(|jitter| jitter.draw(&mut rng)).unwrap_or_default(),
            operations: self.auto_augment.map(|policy| policy.draw(side, &mut rng)).unwrap_or_default(),
            erased: self.random_erasing.as_ref().and_then(|erasing| erasing.draw(side, &mut rng)),
        }
    }

    /// torchvision's `RandomResizedCrop.get_params`: ten tries, then the largest central crop whose ratio is
    /// within the range.
    fn draw_crop(&self, width: u32, height: u32, rng: &mut Generator) -> CropBox {
        let (w, h) = (f64::from(width), f64::from(height));
        for _ in 0..10 {
            let area = w * h * uniform(rng, self.scale.0, self.scale.1);
            let ratio = uniform(rng, self.ratio.0.ln(), self.ratio.1.ln()).exp();
            let crop_w = (area * ratio).sqrt().round_ties_even();
            let crop_h = (area / ratio).sqrt().round_ties_even();
            if 0.0 < crop_w && crop_w <= w && 0.0 < crop_h && crop_h <= h {
                let (crop_w, crop_h) = (crop_w as u32, crop_h as u32);
                let top = below(rng, u64::from(height - crop_h) + 1) as u32;
                let left = below(rng, u64::from(width - crop_w) + 1) as u32;
                return CropBox { left, top, width: crop_w, height: crop_h };
            }
        }
        let (crop_w, crop_h) = if w / h < self.ratio.0 {
            (width, (w / self.ratio.0).round_ties_even() as u32)
        } else if w / h > self.ratio.1 {
            ((h * self.ratio.1).round_ties_even() as u32, height)
        } else {
            (width, height)
        };
        // A picture one pixel wide may round to nothing.
        let (crop_w, crop_h) = (crop_w.clamp(1, width), crop_h.clamp(1, height));
        CropBox { left: (width - crop_w) / 2, top: (height - crop_h) / 2, width: crop_w, height: crop_h }
    }

    /// The square of `preprocessing.crop` pixels that results from what was drawn, up to what is erased after
    /// normalisation ([`Erased::apply`]). To the bit what torchvision makes of a PIL picture.
    ///
    /// # Panics
    /// If the drawn crop does not lie inside the picture.
    pub fn apply(image: &Image, drawn: &Drawn, preprocessing: &Preprocessing, scratch: &mut Scratch) -> Image {
        let mut result = scratch.resized_crop(image, &drawn.crop, preprocessing.crop, preprocessing.interpolation);
        if drawn.flip {
            result.flip_horizontal();
        }
        if drawn.angle != 0.0 {
            result = rotate(&result, drawn.angle);
        }
        for &change in &drawn.jitter {
            color::adjust(&mut result, change);
        }
        for operation in &drawn.operations {
            operation.apply(&mut result);
        }
        result
    }
}

impl ColorJitter {
    /// Draws the factors of the changes that are asked for, and their order.
    fn draw(&self, rng: &mut Generator) -> Vec<ColorChange> {
        let mut factor = |spread: f64| uniform(rng, (1.0 - spread).max(0.0), 1.0 + spread);
        let mut changes = Vec::with_capacity(4);
        if self.brightness > 0.0 {
            changes.push(ColorChange::Brightness(factor(self.brightness)));
        }
        if self.contrast > 0.0 {
            changes.push(ColorChange::Contrast(factor(self.contrast)));
        }
        if self.saturation > 0.0 {
            changes.push(ColorChange::Saturation(factor(self.saturation)));
        }
        if self.hue > 0.0 {
            changes.push(ColorChange::Hue(uniform(rng, -self.hue, self.hue)));
        }
        shuffle(&mut changes, rng);
        changes
    }
}

/// Says what is wrong with a value that is not `ok`.
pub(crate) fn check(ok: bool, what: &'static str, value: &dyn Debug, expected: &'static str) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::Setting { what, value: format!("{value:?}"), expected }) }
}

/// A uniform draw from `low..high`, `low` if they are equal.
pub(crate) fn uniform(rng: &mut Generator, low: f64, high: f64) -> f64 {
    low + (high - low) * unit_f64(rng)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_their_key_alone() {
        let augmentation = Augmentation { degrees: 10.0, ..Default::default() };
        let draw = |seed, epoch, sample| augmentation.draw((500, 375), 224, seed, epoch, sample);
        assert_eq!(draw(1, 2, 3), draw(1, 2, 3));
        for other in [draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4)] {
            assert_ne!(draw(1, 2, 3), other);
        }
    }

    #[test]
    fn crops_lie_inside_and_keep_area_and_ratio() {
        let augmentation = Augmentation::default();
        let mut area_sum = 0.0;
        for sample in 0..2000 {
            let CropBox { left, top, width, height } = augmentation.draw((500, 375), 224, 0, 0, sample).crop;
            assert!(left + width <= 500 && top + height <= 375);
            let (w, h) = (f64::from(width), f64::from(height));
            // Rounding moves either side by half a pixel at most.
            assert!((w + 0.5) / (h - 0.5) >= 0.75 && (w - 0.5) / (h + 0.5) <= 4.0 / 3.0, "{width}x{height}");
            let area = w * h / (500.0 * 375.0);
            assert!((0.075..=1.0).contains(&area), "{area}");
            area_sum += area;
        }
        // torchvision's mean over 20000 draws is 0.435 (below 0.54, the mean of `scale`, because large crops of
        // an awkward shape are drawn again); the standard error of 2000 draws is 0.005.
        assert!((0.415..0.455).contains(&(area_sum / 2000.0)), "mean area {}", area_sum / 2000.0);
    }

    #[test]
    fn a_picture_no_crop_fits_keeps_its_middle() {
        let augmentation = Augmentation { scale: (1.0, 1.0), ..Default::default() };
        let crop = |w, h| augmentation.draw((w, h), 224, 0, 0, 0).crop;
        assert_eq!(crop(1000, 100), CropBox { left: 433, top: 0, width: 133, height: 100 });
        assert_eq!(crop(100, 1000), CropBox { left: 0, top: 433, width: 100, height: 133 });
        assert_eq!(crop(1, 1), CropBox { left: 0, top: 0, width: 1, height: 1 });
    }

    #[test]
    fn half_the_pictures_are_mirrored() {
        let flips = (0..2000).filter(|&sample| Augmentation::default().draw((9, 9), 8, 5, 1, sample).flip).count();
        assert!((900..1100).contains(&flips), "{flips}");
    }

    #[test]
    fn jitter_draws_what_is_asked_for_in_any_order() {
        let jitter = ColorJitter { brightness: 0.4, contrast: 2.0, saturation: 0.0, hue: 0.1 };
        let augmentation = Augmentation { color_jitter: Some(jitter), ..Default::default() };
        let mut first = [0; 3];
        for sample in 0..600 {
            let changes = augmentation.draw((9, 9), 8, 0, 0, sample).jitter;
            assert_eq!(changes.len(), 3);
            for (place, change) in changes.into_iter().enumerate() {
                let (index, factor, range) = match change {
                    ColorChange::Brightness(f) => (0, f, 0.6..1.4),
                    ColorChange::Contrast(f) => (1, f, 0.0..3.0),
                    ColorChange::Hue(f) => (2, f, -0.1..0.1),
                    ColorChange::Saturation(_) => panic!("not asked for"),
                };
                assert!(range.contains(&factor));
                first[index] += usize::from(place == 0);
            }
        }
        assert!(first.iter().all(|n| (150..250).contains(n)), "{first:?}");
    }

    #[test]
    fn what_comes_last_leaves_the_draws_before_it_as_they_are() {
        let plain = Augmentation { degrees: 10.0, ..Default::default() };
        let more = Augmentation {
            auto_augment: Some(AutoAugment::TaWide),
            random_erasing: Some(RandomErasing { p: 1.0, ..Default::default() }),
            ..plain.clone()
        };
        let draw = |augmentation: &Augmentation| augmentation.draw((500, 375), 224, 0, 0, 0);
        let (plain, more) = (draw(&plain), draw(&more));
        assert!(more.operations.len() == 1 && more.erased.is_some());
        assert_eq!(Drawn { operations: Vec::new(), erased: None, ..more }, plain);
    }

    #[test]
    fn older_settings_are_read() {
        let older = r#"{"scale": [0.08, 1.0], "ratio": [0.75, 1.3333333333333333], "hflip": 0.5, "degrees": 0.0}"#;
        assert_eq!(serde_json::from_str::<Augmentation>(older).unwrap(), Augmentation::default());
    }

    #[test]
    fn settings_are_checked() {
        assert!(Augmentation::default().validate().is_ok());
        let jitter = |hue| Some(ColorJitter { hue, ..Default::default() });
        let ra = |magnitude| Some(AutoAugment::Ra { num_ops: 2, magnitude });
        let erasing = |p| Some(RandomErasing { p, ..Default::default() });
        let mix = |cutmix_alpha| Some(Mix { mixup_alpha: 0.0, cutmix_alpha });
        for (change, what) in [
            (Augmentation { scale: (0.0, 1.0), ..Default::default() }, "scale"),
            (Augmentation { scale: (0.9, 0.1), ..Default::default() }, "scale"),
            (Augmentation { ratio: (f64::NAN, 1.0), ..Default::default() }, "ratio"),
            (Augmentation { hflip: 1.5, ..Default::default() }, "hflip"),
            (Augmentation { degrees: -1.0, ..Default::default() }, "degrees"),
            (Augmentation { color_jitter: jitter(0.6), ..Default::default() }, "hue"),
            (Augmentation { auto_augment: ra(31), ..Default::default() }, "magnitude"),
            (Augmentation { random_erasing: erasing(1.5), ..Default::default() }, "random_erase"),
            (Augmentation { mix: mix(-1.0), ..Default::default() }, "cutmix_alpha"),
            (Augmentation { mix: mix(0.0), ..Default::default() }, "mixup_alpha"),
        ] {
            assert!(matches!(change.validate(), Err(Error::Setting { what: w, .. }) if w == what), "{change:?}");
        }
    }
}

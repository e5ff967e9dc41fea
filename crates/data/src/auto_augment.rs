//! RandAugment and TrivialAugmentWide as in torchvision: random operations of random strength.

use regraft_random::{Generator, below};
use serde::{Deserialize, Serialize};

use crate::affine::{rotate, shear_x, shear_y, translate};
use crate::color::{adjust_brightness, adjust_contrast, adjust_saturation, adjust_sharpness};
use crate::levels::{autocontrast, equalize, posterize, solarize};
use crate::{Error, Image, Result};

/// How many strengths each operation has.
const BINS: usize = 31;

/// Which operations are drawn, and how strong they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "snake_case", deny_unknown_fields)]
pub enum AutoAugment {
    /// Some operations of one strength (Cubuk et al. 2020): torchvision's `RandAugment`.
    Ra {
        /// How many, one after the other; torchvision's default is 2.
        num_ops: usize,
        /// The strength, 0 to 30; torchvision's default is 9.
        magnitude: usize,
    },
    /// One operation of any strength (Müller and Hutter 2021): torchvision's `TrivialAugmentWide`.
    TaWide,
}

/// An operation and its strength.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Operation {
    /// Leaves the picture as it is.
    Identity,
    /// Shears along x by this slope.
    ShearX(f64),
    /// Shears along y by this slope.
    ShearY(f64),
    /// Moves to the right by so many pixels, of which the fraction is dropped.
    TranslateX(f64),
    /// Moves down by so many pixels, of which the fraction is dropped.
    TranslateY(f64),
    /// Turns counter-clockwise by so many degrees.
    Rotate(f64),
    /// Blends with black; 0 changes nothing.
    Brightness(f64),
    /// Blends with the grey version; 0 changes nothing.
    Color(f64),
    /// Blends with the mean grey; 0 changes nothing.
    Contrast(f64),
    /// Blends with the smoothed version; 0 changes nothing.
    Sharpness(f64),
    /// Keeps so many bits of each level.
    Posterize(u32),
    /// Inverts the levels from this one up.
    Solarize(f64),
    /// Stretches the levels to the whole range.
    AutoContrast,
    /// Makes the levels about equally frequent.
    Equalize,
}

/// How many operations there are.
const OPERATIONS: u64 = 14;

impl AutoAugment {
    /// Checks the values, which may come from a person or a file.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the value out of range.
    pub(crate) fn validate(&self) -> Result<()> {
        let AutoAugment::Ra { num_ops, magnitude } = *self else { return Ok(()) };
        for (what, value, most, expected) in
            [("num_ops", num_ops, 100, "0 to 100"), ("magnitude", magnitude, BINS - 1, "0 to 30")]
        {
            if value > most {
                return Err(Error::Setting { what, value: value.to_string(), expected });
            }
        }
        Ok(())
    }

    /// Draws operations for a square of `side` pixels.
    pub(crate) fn draw(&self, side: u32, rng: &mut Generator) -> Vec<Operation> {
        match *self {
            AutoAugment::Ra { num_ops, magnitude } => {
                (0..num_ops).map(|_| self.draw_one(side, rng, |_| magnitude)).collect()
            }
            AutoAugment::TaWide => vec![self.draw_one(side, rng, |rng| below(rng, BINS as u64) as usize)],
        }
    }

    /// Draws one operation, its strength as `bin` says, and whether it goes the other way.
    fn draw_one(&self, side: u32, rng: &mut Generator, bin: impl Fn(&mut Generator) -> usize) -> Operation {
        let kind = below(rng, OPERATIONS);
        let bin = bin(rng);
        self.operation(kind, bin, below(rng, 2) == 1, side)
    }

    /// Operation number `kind` of torchvision's list, of the strength of a bin; those with a direction may go the
    /// other way.
    pub fn operation(&self, kind: u64, bin: usize, negative: bool, side: u32) -> Operation {
        let wide = *self == AutoAugment::TaWide;
        let signed = |most: f64| {
            let strength = linspace(0.0, most as f32, bin);
            if negative { -strength } else { strength }
        };
        let enhance = if wide { 0.99 } else { 0.9 };
        let shear = if wide { 0.99 } else { 0.3 };
        let shift = if wide { 32.0 } else { 150.0 / 331.0 * f64::from(side) };
        match kind {
            0 => Operation::Identity,
            1 => Operation::ShearX(signed(shear)),
            2 => Operation::ShearY(signed(shear)),
            3 => Operation::TranslateX(signed(shift)),
            4 => Operation::TranslateY(signed(shift)),
            5 => Operation::Rotate(signed(if wide { 135.0 } else { 30.0 })),
            6 => Operation::Brightness(signed(enhance)),
            7 => Operation::Color(signed(enhance)),
            8 => Operation::Contrast(signed(enhance)),
            9 => Operation::Sharpness(signed(enhance)),
            10 => {
                let bins_per_bit = (BINS - 1) as f32 / if wide { 6.0 } else { 4.0 };
                Operation::Posterize(8 - (bin as f32 / bins_per_bit).round_ties_even() as u32)
            }
            11 => Operation::Solarize(linspace(255.0, 0.0, bin)),
            12 => Operation::AutoContrast,
            _ => Operation::Equalize,
        }
    }
}

/// `torch.linspace(start, end, 31)[bin]`, in `f32` from the nearer end, rounded once as torch does with AVX2 or AVX-512.
fn linspace(start: f32, end: f32, bin: usize) -> f64 {
    let step = (end - start) / (BINS - 1) as f32;
    let (at, from) = if bin < BINS / 2 { (bin as f32, start) } else { (-((BINS - 1 - bin) as f32), end) };
    f64::from(step.mul_add(at, from))
}

impl Operation {
    /// Carries the operation out, as torchvision's `_apply_op` on a PIL picture without interpolation, to the bit.
    pub fn apply(self, image: &mut Image) {
        match self {
            Operation::Identity => {}
            Operation::ShearX(slope) => *image = shear_x(image, slope),
            Operation::ShearY(slope) => *image = shear_y(image, slope),
            Operation::TranslateX(pixels) => *image = translate(image, pixels as i32, 0),
            Operation::TranslateY(pixels) => *image = translate(image, 0, pixels as i32),
            Operation::Rotate(degrees) => *image = rotate(image, degrees),
            Operation::Brightness(change) => adjust_brightness(image, 1.0 + change),
            Operation::Color(change) => adjust_saturation(image, 1.0 + change),
            Operation::Contrast(change) => adjust_contrast(image, 1.0 + change),
            Operation::Sharpness(change) => adjust_sharpness(image, 1.0 + change),
            Operation::Posterize(bits) => posterize(image, bits),
            Operation::Solarize(threshold) => solarize(image, threshold),
            Operation::AutoContrast => autocontrast(image),
            Operation::Equalize => equalize(image),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regraft_random::{Purpose, keyed};
    use std::collections::BTreeMap;

    /// Everything that 28,000 samples draw.
    fn drawn(policy: AutoAugment) -> Vec<Operation> {
        (0..28_000).flat_map(|sample| policy.draw(224, &mut keyed(0, Purpose::Augment, 0, sample))).collect()
    }

    /// The name of an operation, and its strength.
    fn parts(operation: Operation) -> (String, f64) {
        let text = format!("{operation:?}");
        match text.split_once('(') {
            Some((name, strength)) => (name.into(), strength.trim_end_matches(')').parse().unwrap()),
            None => (text, 0.0),
        }
    }

    #[test]
    fn every_operation_is_as_likely_as_any_other() {
        for (policy, each) in [(AutoAugment::Ra { num_ops: 2, magnitude: 9 }, 2), (AutoAugment::TaWide, 1)] {
            let mut counts = BTreeMap::new();
            for operation in drawn(policy) {
                *counts.entry(parts(operation).0).or_insert(0) += 1;
            }
            assert_eq!(counts.len(), 14, "{counts:?}");
            assert_eq!(counts.values().sum::<i32>(), 28_000 * each);
            // Four standard deviations of 2000 of 28,000 are 172.
            assert!(counts.values().all(|n| (2000 * each - n).abs() < 200 * each), "{counts:?}");
        }
    }

    #[test]
    fn rand_augment_has_one_strength_and_both_directions() {
        let mut strengths: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for operation in drawn(AutoAugment::Ra { num_ops: 2, magnitude: 9 }) {
            let (name, strength) = parts(operation);
            strengths.entry(name).or_default().push(strength);
        }
        for (name, all) in strengths {
            let (low, high) = all.iter().fold((f64::MAX, f64::MIN), |(low, high), &x| (low.min(x), high.max(x)));
            assert!(all.iter().all(|&x| x == low || x == high), "{name}");
            let expected = match name.as_str() {
                "ShearX" | "ShearY" => Some(0.09),
                "TranslateX" | "TranslateY" => Some(150.0 / 331.0 * 224.0 * 0.3),
                "Rotate" => Some(9.0),
                "Brightness" | "Color" | "Contrast" | "Sharpness" => Some(0.27),
                _ => None,
            };
            match expected {
                Some(strength) => {
                    assert!((high - strength).abs() < 1e-5 * strength && low == -high, "{name}: {low} to {high}");
                    let up = all.iter().filter(|&&x| x == high).count() as f64 / all.len() as f64;
                    assert!((0.45..0.55).contains(&up), "{name}: {up}");
                }
                None => {
                    let only = if name == "Posterize" {
                        7.0
                    } else if name == "Solarize" {
                        178.5
                    } else {
                        0.0
                    };
                    assert_eq!((low, high), (only, only), "{name}");
                }
            }
        }
    }

    #[test]
    fn trivial_augment_draws_every_strength() {
        let mut strengths: BTreeMap<String, BTreeMap<i64, u32>> = BTreeMap::new();
        for operation in drawn(AutoAugment::TaWide) {
            let (name, strength) = parts(operation);
            *strengths.entry(name).or_default().entry((strength * 1e4).round() as i64).or_insert(0) += 1;
        }
        for (name, counts) in strengths {
            let distinct = match name.as_str() {
                "Identity" | "AutoContrast" | "Equalize" => 1,
                "Posterize" => 7, // 2 to 8 bits
                "Solarize" => 31,
                _ => 61, // 0 has no direction
            };
            assert_eq!(counts.len(), distinct, "{name}");
            if distinct == 61 {
                // Each of 2000 draws is one of 62, and two of them are 0.
                assert!(counts.iter().all(|(&x, n)| (10..90).contains(&if x == 0 { n / 2 } else { *n })), "{name}");
            }
        }
    }
}

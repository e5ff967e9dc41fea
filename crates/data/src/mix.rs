//! MixUp and CutMix as in `torchvision.transforms.v2`: each picture of a batch is mixed with the one before it.

use regraft_random::{Purpose, below, beta_f64, keyed};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::augment::check;

/// How the pictures of a batch are mixed, and with them their classes. With both, each batch gets one of them, as
/// torchvision's `RandomChoice`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// MixUp (Zhang et al. 2018) with weights from `Beta(alpha, alpha)`; 0 for none.
    pub mixup_alpha: f64,
    /// CutMix (Yun et al. 2019) with areas from `Beta(alpha, alpha)`; 0 for none.
    pub cutmix_alpha: f64,
}

/// What was drawn for one batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mixed {
    /// Every picture is `lambda` of itself and `1 - lambda` of the one before it, the first of the last one.
    MixUp {
        /// From 0 to 1.
        lambda: f64,
    },
    /// A rectangle of every picture is that of the one before it. Columns `x.0..x.1` and rows `y.0..y.1`.
    CutMix {
        /// The first column, and the one after the last.
        x: (u32, u32),
        /// The first row, and the one after the last.
        y: (u32, u32),
        /// The share of the picture that stays.
        lambda: f64,
    },
}

impl Mix {
    /// Checks the values, which may come from a person or a file.
    ///
    /// # Errors
    /// [`crate::Error::Setting`] naming the value out of range.
    pub(crate) fn validate(&self) -> Result<()> {
        for (what, alpha) in [("mixup_alpha", self.mixup_alpha), ("cutmix_alpha", self.cutmix_alpha)] {
            check((0.0..=1000.0).contains(&alpha), what, &alpha, "0 to 1000")?;
        }
        check(self.mixup_alpha + self.cutmix_alpha > 0.0, "mixup_alpha", &0.0, "above 0, or else cutmix_alpha")
    }

    /// Draws for a batch of squares of `side` pixels, keyed by the run's seed, the epoch and the step: the same
    /// arguments always give the same result.
    pub fn draw(&self, side: u32, seed: u64, epoch: u64, step: u64) -> Mixed {
        let mut rng = keyed(seed, Purpose::Mix, epoch, step);
        let cut = self.mixup_alpha == 0.0 || (self.cutmix_alpha > 0.0 && below(&mut rng, 2) == 1);
        if !cut {
            return Mixed::MixUp { lambda: beta_f64(&mut rng, self.mixup_alpha) };
        }
        let lambda = beta_f64(&mut rng, self.cutmix_alpha);
        let center_x = below(&mut rng, side.into()) as u32;
        let center_y = below(&mut rng, side.into()) as u32;
        Mixed::cut(side, (center_x, center_y), lambda)
    }
}

impl Mixed {
    /// CutMix's rectangle about a centre: of `1 - lambda` of the area, less what lies outside.
    pub fn cut(side: u32, center: (u32, u32), lambda: f64) -> Self {
        let half = (0.5 * (1.0 - lambda).sqrt() * f64::from(side)) as u32;
        let span = |center: u32| (center.saturating_sub(half), (center + half).min(side));
        let (x, y) = (span(center.0), span(center.1));
        let area = f64::from(x.1 - x.0) * f64::from(y.1 - y.0);
        Mixed::CutMix { x, y, lambda: 1.0 - area / (f64::from(side) * f64::from(side)) }
    }

    /// Each picture's share in what it has become.
    pub fn lambda(&self) -> f64 {
        match *self {
            Mixed::MixUp { lambda } | Mixed::CutMix { lambda, .. } => lambda,
        }
    }

    /// Mixes the normalised pictures of a batch: `[n, side, side, 3]`. In torch's arithmetic, to the bit.
    ///
    /// # Panics
    /// If the values are not a whole number of pictures.
    pub fn apply(&self, images: &mut [f32], side: u32) {
        let (row, picture) = (side as usize * 3, side as usize * side as usize * 3);
        assert_eq!(images.len() % picture, 0, "whole pictures");
        let Some(first) = images.len().checked_sub(picture) else { return };
        // From the end, so that each picture still finds the one before it as it was; the first finds the last's copy.
        let last = images[first..].to_vec();
        for start in (0..=first).rev().step_by(picture) {
            let (before, from) = images.split_at_mut(start);
            let (before, image) = (before.rchunks_exact(picture).next().unwrap_or(&last), &mut from[..picture]);
            match *self {
                Mixed::MixUp { lambda } => {
                    let (own, other) = (lambda as f32, (1.0 - lambda) as f32);
                    image.iter_mut().zip(before).for_each(|(value, before)| *value = before * other + *value * own);
                }
                Mixed::CutMix { x, y, .. } => {
                    for line in y.0..y.1 {
                        let part = line as usize * row + x.0 as usize * 3..line as usize * row + x.1 as usize * 3;
                        image[part.clone()].copy_from_slice(&before[part]);
                    }
                }
            }
        }
    }

    /// Mixes the pictures' targets in the same shares: `[n, width]`, such as the share of every class.
    ///
    /// # Panics
    /// If the values are not a whole number of targets.
    pub fn mix_targets(&self, targets: &mut [f32], width: usize) {
        assert_eq!(targets.len() % width, 0, "whole targets");
        let (own, other) = (self.lambda() as f32, (1.0 - self.lambda()) as f32);
        let Some(last) = targets.rchunks_exact(width).next().map(<[f32]>::to_vec) else { return };
        let mut before = last;
        for target in targets.chunks_exact_mut(width) {
            let own_target = target.to_vec();
            target.iter_mut().zip(&before).for_each(|(value, before)| *value = before * other + *value * own);
            before = own_target;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_their_key_alone() {
        let mix = Mix { mixup_alpha: 0.2, cutmix_alpha: 1.0 };
        let draw = |seed, epoch, step| mix.draw(224, seed, epoch, step);
        assert_eq!(draw(1, 2, 3), draw(1, 2, 3));
        for other in [draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4)] {
            assert_ne!(draw(1, 2, 3), other);
        }
    }

    #[test]
    fn with_both_each_is_drawn_half_the_time_and_with_one_always() {
        let count = |mixup_alpha, cutmix_alpha| {
            let mix = Mix { mixup_alpha, cutmix_alpha };
            let cut = |&step: &u64| matches!(mix.draw(224, 0, 0, step), Mixed::CutMix { .. });
            (0..2000).filter(cut).count()
        };
        assert_eq!((count(0.2, 0.0), count(0.0, 1.0)), (0, 2000));
        assert!((900..1100).contains(&count(0.2, 1.0)));
    }

    #[test]
    fn shares_follow_the_beta_distribution() {
        let mix = Mix { mixup_alpha: 0.4, cutmix_alpha: 0.0 };
        let shares: Vec<f64> = (0..20_000).map(|step| mix.draw(224, 0, 0, step).lambda()).collect();
        let mean = shares.iter().sum::<f64>() / 20_000.0;
        let variance = shares.iter().map(|share| (share - 0.5).powi(2)).sum::<f64>() / 20_000.0;
        // Beta(a, a) has the variance 1 / (4 (2a + 1)).
        assert!((mean - 0.5).abs() < 0.01 && (variance - 1.0 / 7.2).abs() < 0.003, "{mean}, {variance}");
    }

    #[test]
    fn rectangles_are_cut_off_at_the_border_and_their_share_is_what_is_left() {
        assert_eq!(Mixed::cut(8, (4, 4), 0.75), Mixed::CutMix { x: (2, 6), y: (2, 6), lambda: 0.75 });
        assert_eq!(Mixed::cut(8, (0, 7), 0.75), Mixed::CutMix { x: (0, 2), y: (5, 8), lambda: 1.0 - 6.0 / 64.0 });
        assert_eq!(Mixed::cut(8, (3, 3), 1.0), Mixed::CutMix { x: (3, 3), y: (3, 3), lambda: 1.0 });
        assert_eq!(Mixed::cut(8, (4, 4), 0.0).lambda(), 0.0);
    }

    #[test]
    fn a_picture_alone_stays_as_it_is() {
        let mut images: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let before = images.clone();
        Mixed::MixUp { lambda: 0.25 }.apply(&mut images, 2);
        Mixed::cut(2, (1, 1), 0.0).apply(&mut images, 2);
        assert_eq!(images, before);
        let mut target = [0.0, 1.0, 0.0];
        Mixed::MixUp { lambda: 0.25 }.mix_targets(&mut target, 3);
        assert_eq!(target, [0.0, 1.0, 0.0]);
        Mixed::MixUp { lambda: 0.25 }.apply(&mut [], 2);
        Mixed::MixUp { lambda: 0.25 }.mix_targets(&mut [], 3);
    }
}

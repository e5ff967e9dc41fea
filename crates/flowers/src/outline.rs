//! Outlines of petals: how wide one is at each place between base and tip, and where it ends.

use crate::noise::ease;

/// The outline of a petal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outline {
    /// Narrow at the base, a half circle at the end.
    Round,
    /// Narrow at the base, widest before the middle, pointed.
    Pointed,
    /// As wide almost all the way, rounded off.
    Strap,
    /// A strap that ends in small teeth.
    Toothed,
    /// Round with a notch in the middle of the end.
    Heart,
    /// Broad from the base on, slightly pointed: a tulip's.
    Spoon,
    /// Several petals grown together: narrow shoulders, a flaring mouth of three lobes.
    Bell,
    /// A thread with a knob at the end: a stamen.
    Pin,
}

impl Outline {
    /// Half of the width at `t` of the way from base (0) to tip (1), as a share of the largest.
    pub fn half_width(self, t: f32) -> f32 {
        match self {
            Self::Round | Self::Heart => swell(t, 0.25, 0.6) * arc(t, 0.6),
            Self::Pointed => swell(t, 0.3, 0.42) * lens(t, 0.42),
            Self::Strap | Self::Toothed => swell(t, 0.5, 0.4) * arc(t, if self == Self::Strap { 0.85 } else { 0.95 }),
            Self::Spoon => swell(t, 0.5, 0.4) * (0.5 * lens(t, 0.4) + 0.5 * arc(t, 0.4)),
            Self::Bell => {
                let shoulder = swell(t, 0.25, 0.4) * 0.72;
                shoulder + 0.28 * ease((t - 0.6) / 0.4)
            }
            Self::Pin => {
                if t < 0.8 {
                    0.35
                } else {
                    let u = (t - 0.9) / 0.1;
                    (1.0 - u * u).max(0.12).sqrt()
                }
            }
        }
    }

    /// Where the petal ends, as a share of its length, at `s` of its half width from the middle line (-1 to 1).
    pub fn end(self, s: f32) -> f32 {
        match self {
            Self::Heart => 1.0 - 0.3 * ease(1.0 - 2.2 * s.abs()),
            Self::Toothed => 1.0 - 0.12 * zigzag(2.5 * s + 0.5),
            Self::Bell => {
                // Three lobes: ends of half circles side by side.
                let within = (1.5 * s + 0.5) - (1.5 * s + 0.5).floor() - 0.5;
                1.0 - 0.8 * within * within
            }
            _ => 1.0,
        }
    }
}

/// Rises from `base` to 1 at `widest`, and stays there.
fn swell(t: f32, base: f32, widest: f32) -> f32 {
    base + (1.0 - base) * ease(t / widest)
}

/// 1 up to `from`, then a quarter of an ellipse down to 0 at 1.
fn arc(t: f32, from: f32) -> f32 {
    let u = ((t - from) / (1.0 - from)).max(0.0);
    (1.0 - u * u).max(0.0).sqrt()
}

/// 1 up to `from`, then a parabola down to a point at 1.
fn lens(t: f32, from: f32) -> f32 {
    let u = ((t - from) / (1.0 - from)).max(0.0);
    1.0 - u * u
}

/// A wave of straight lines of period 1 between 0 and 1; 0 at whole numbers.
pub(crate) fn zigzag(x: f32) -> f32 {
    2.0 * (x - x.round()).abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Outline; 8] = [
        Outline::Round,
        Outline::Pointed,
        Outline::Strap,
        Outline::Toothed,
        Outline::Heart,
        Outline::Spoon,
        Outline::Bell,
        Outline::Pin,
    ];

    #[test]
    fn outlines_keep_their_bounds_and_reach_them() {
        for outline in ALL {
            let widths: Vec<f32> = (0..=200).map(|i| outline.half_width(i as f32 / 200.0)).collect();
            assert!(widths.iter().all(|w| (0.0..=1.0).contains(w)), "{outline:?}");
            assert!(widths.iter().any(|&w| w > 0.98), "{outline:?} never reaches its width");
            let ends: Vec<f32> = (-100..=100).map(|i| outline.end(i as f32 / 100.0)).collect();
            assert!(ends.iter().all(|e| (0.5..=1.0).contains(e)), "{outline:?}");
            assert!(ends.iter().any(|&e| e > 0.98), "{outline:?} never reaches its length");
        }
    }
}

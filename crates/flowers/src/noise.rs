//! Noise that is a function of the place: the same at the same place, whoever asks and in which order.

/// 32 well-mixed bits for a cell of a lattice (the finaliser of MurmurHash3 over its coordinates).
pub(crate) fn bits(x: i32, y: i32, key: u32) -> u32 {
    let mut h = key ^ (x as u32).wrapping_mul(0x9e37_79b1) ^ (y as u32).wrapping_mul(0x85eb_ca77).rotate_left(15);
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

/// A number from `[0, 1)` for a cell of a lattice.
pub(crate) fn cell(x: i32, y: i32, key: u32) -> f32 {
    (bits(x, y, key) >> 8) as f32 * (1.0 / (1u32 << 24) as f32)
}

/// Smooth noise from `[0, 1)` whose hills are about one unit wide: values of a lattice's corners, blended.
pub(crate) fn smooth(x: f32, y: f32, key: u32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let (s, t) = (ease(x - left), ease(y - top));
    let (left, top) = (left as i32, top as i32);
    let row = |y: i32| {
        let (a, b) = (cell(left, y, key), cell(left + 1, y, key));
        a + (b - a) * s
    };
    let (above, below) = (row(top), row(top + 1));
    above + (below - above) * t
}

/// Noise from `[0, 1)` of three sizes: hills one unit wide with smaller ones on them.
pub(crate) fn rough(x: f32, y: f32, key: u32) -> f32 {
    (4.0 * smooth(x, y, key) + 2.0 * smooth(2.0 * x, 2.0 * y, key ^ 1) + smooth(4.0 * x, 4.0 * y, key ^ 2))
        * (1.0 / 7.0)
}

/// From 0 to 1 with level ends (Hermite's cubic); clamped outside of them.
pub(crate) fn ease(t: f32) -> f32 {
    let t = t.clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// 0 up to `from`, 1 beyond `to`, easing between them.
pub(crate) fn step(from: f32, to: f32, x: f32) -> f32 {
    ease((x - from) / (to - from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_fills_its_range_and_does_not_jump() {
        let values: Vec<f32> = (0..4000).map(|i| rough(i as f32 * 0.37, i as f32 * 0.011, 5)).collect();
        assert!(values.iter().all(|v| (0.0..1.0).contains(v)));
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        assert!((0.45..0.55).contains(&mean), "mean {mean}");
        for i in 0..1000 {
            let x = i as f32 * 0.01 - 5.0;
            assert!((smooth(x, 0.5, 9) - smooth(x + 0.001, 0.5, 9)).abs() < 0.003, "jump at {x}");
        }
    }
}

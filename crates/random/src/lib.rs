//! Counter-based randomness for Regraft.
//!
//! Every random decision (a crop, a shuffle, a dropout mask, an initial weight) draws from its own generator. The
//! generator's key identifies the decision: the run's seed, a purpose, and two numbers (such as epoch and sample). No
//! draw depends on which thread came first, so a run gives the same bits with any number of threads and after any
//! interruption.
//!
//! The generator is ChaCha8 (D. J. Bernstein, "ChaCha, a variant of Salsa20", 2008), whose output for a key never changes.

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

pub use rand_chacha::rand_core::Rng;

/// The type of generator that [`keyed`] returns.
pub type Generator = ChaCha8Rng;

/// What a random decision is for. Different purposes have different streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Initial values of a parameter; key: hash of its name, 0. Also a model's golden inputs; key: hash of "golden", index
    /// of the input.
    Init = 1,
    /// Order of the training samples; key: epoch, 0.
    Shuffle = 2,
    /// Random transforms of one image; key: epoch, sample.
    Augment = 3,
    /// Dropout masks; key: the sample's key, layer.
    Dropout = 4,
    /// Which samples go to the validation part; key: hash of the name of the class, of the group, or of "distill", 0. The
    /// order in which a group's listed images are divided; key: the same hash, 1.
    Split = 5,
    /// Cross-validation folds; key: 0, 0.
    Folds = 6,
    /// MixUp and CutMix of a step's samples; key: epoch, step.
    Mix = 7,
    /// Bootstrap resamples; key: resample, 0.
    Bootstrap = 8,
    /// Random signs of a paired test; key: draw, 0.
    SignFlip = 9,
    /// Content of a drawn image; key: kind, number.
    Drawing = 10,
}

/// Returns the generator of one decision, identified by the run's seed, a purpose and two numbers.
pub fn keyed(seed: u64, purpose: Purpose, a: u64, b: u64) -> Generator {
    let mut key = [0u8; 32];
    key[0..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(purpose as u64).to_le_bytes());
    key[16..24].copy_from_slice(&a.to_le_bytes());
    key[24..32].copy_from_slice(&b.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// Hashes a name to 64 bits (FNV-1a), for a decision that is identified by a name. The hash never changes.
pub fn hash_name(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// Draws uniformly from `[0, 1)`, with the 24 random bits that an `f32` holds exactly.
pub fn unit_f32(rng: &mut impl Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 * (1.0 / (1u32 << 24) as f32)
}

/// Draws uniformly from `[0, 1)`, with the 53 random bits that an `f64` holds exactly.
pub fn unit_f64(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// Draws from the standard normal distribution (Box and Muller, 1958).
pub fn normal_f64(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - unit_f64(rng)).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit_f64(rng)).cos()
}

/// Draws from the Beta distribution with both parameters equal to `alpha`, which must be above 0.
///
/// Method: `x / (x + y)` for two draws from Gamma(`alpha`), in logarithms, because for a small `alpha` the draws
/// underflow `f64`.
pub fn beta_f64(rng: &mut impl Rng, alpha: f64) -> f64 {
    let (one, other) = (log_gamma_f64(rng, alpha), log_gamma_f64(rng, alpha));
    1.0 / (1.0 + (other - one).exp())
}

/// Draws the logarithm of a Gamma variable of shape `alpha` and scale 1 (Marsaglia and Tsang, 2000).
fn log_gamma_f64(rng: &mut impl Rng, alpha: f64) -> f64 {
    if alpha < 1.0 {
        // Gamma(alpha) is Gamma(alpha + 1) times U^(1 / alpha).
        return log_gamma_f64(rng, alpha + 1.0) + (1.0 - unit_f64(rng)).ln() / alpha;
    }
    let d = alpha - 1.0 / 3.0;
    loop {
        let x = normal_f64(rng);
        let v = (1.0 + x / (9.0 * d).sqrt()).powi(3);
        if v > 0.0 && (1.0 - unit_f64(rng)).ln() < 0.5 * x * x + d * (1.0 - v + v.ln()) {
            return (d * v).ln();
        }
    }
}

/// Draws uniformly from `0..bound`, without bias (Lemire, "Fast random integer generation", 2019).
///
/// # Panics
/// If `bound` is 0.
pub fn below(rng: &mut impl Rng, bound: u64) -> u64 {
    assert!(bound > 0, "cannot draw from an empty range");
    let threshold = bound.wrapping_neg() % bound;
    loop {
        let wide = u128::from(rng.next_u64()) * u128::from(bound);
        if wide as u64 >= threshold {
            return (wide >> 64) as u64;
        }
    }
}

/// Shuffles `items` in place (Fisher and Yates).
pub fn shuffle<T>(items: &mut [T], rng: &mut impl Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, below(rng, i as u64 + 1) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_depends_on_whole_key() {
        let draw = |a, b| keyed(7, Purpose::Augment, a, b).next_u64();
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(2, 1));
        assert_ne!(draw(1, 2), keyed(7, Purpose::Dropout, 1, 2).next_u64());
        assert_ne!(draw(1, 2), keyed(8, Purpose::Augment, 1, 2).next_u64());
    }

    #[test]
    fn stream_is_the_same_in_all_versions() {
        // With another stream, resumed runs of an older version would silently continue differently.
        let mut rng = keyed(0, Purpose::Init, 0, 0);
        assert_eq!([rng.next_u64(), rng.next_u64()], [4606029925845525861, 5881008411243030533]);
    }

    #[test]
    fn uniform_and_normal_draws_have_expected_moments() {
        let mut rng = keyed(3, Purpose::Init, 0, 0);
        let n = 40_000;
        let uniform: f64 = (0..n).map(|_| unit_f64(&mut rng)).sum::<f64>() / n as f64;
        // Standard errors: 0.0014 of the uniform mean, 0.005 of the normal mean, 0.007 of the variance.
        assert!((uniform - 0.5).abs() < 0.01, "mean {uniform}");
        let normals: Vec<f64> = (0..n).map(|_| normal_f64(&mut rng)).collect();
        let mean = normals.iter().sum::<f64>() / n as f64;
        let variance = normals.iter().map(|x| x * x).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "mean {mean}, variance {variance}");
    }

    #[test]
    fn beta_draws_have_expected_moments_and_tails() {
        for alpha in [0.001, 0.1, 0.5, 1.0, 3.0, 200.0] {
            let mut rng = keyed(4, Purpose::Mix, 0, 0);
            let n = 20_000;
            let draws: Vec<f64> = (0..n).map(|_| beta_f64(&mut rng, alpha)).collect();
            assert!(draws.iter().all(|x| (0.0..=1.0).contains(x)), "{alpha}");
            let mean = draws.iter().sum::<f64>() / n as f64;
            let variance = draws.iter().map(|x| (x - 0.5).powi(2)).sum::<f64>() / n as f64;
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            // Five standard errors of the mean, and six of the variance: its relative error is at most that of normal
            // draws, sqrt(2 / n) = 0.01.
            assert!((mean - 0.5).abs() < 5.0 * (expected / n as f64).sqrt(), "{alpha}: mean {mean}");
            assert!((variance / expected - 1.0).abs() < 0.06, "{alpha}: variance {variance}, expected {expected}");
        }
        // Beta(1, 1) is uniform: 2000 are expected; the standard deviation is 42.
        let mut rng = keyed(5, Purpose::Mix, 0, 0);
        let below = (0..20_000).filter(|_| beta_f64(&mut rng, 1.0) < 0.1).count();
        assert!((1800..2200).contains(&below), "{below}");
    }

    #[test]
    fn shuffle_reaches_every_place_equally() {
        let mut counts = [[0u32; 5]; 5];
        for seed in 0..5000 {
            let mut items = [0, 1, 2, 3, 4];
            shuffle(&mut items, &mut keyed(seed, Purpose::Shuffle, 0, 0));
            for (place, &item) in items.iter().enumerate() {
                counts[item][place] += 1;
            }
        }
        // 1000 are expected; the standard deviation is 28.
        assert!(counts.iter().flatten().all(|&c| (850..1150).contains(&c)), "{counts:?}");
    }
}

//! Choice of the CPU's vector instruction set, made in this module alone.

use std::sync::OnceLock;

/// A vector instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// No vector instructions; available on every CPU.
    Scalar,
    /// 128-bit vectors of 64-bit ARM (NEON).
    Neon,
    /// 256-bit vectors and fused multiply-add (AVX2, FMA).
    Avx2,
    /// 512-bit vectors (AVX-512 F, BW, CD, DQ and VL).
    Avx512,
}

/// Environment variable that forces a level, for tests and timings.
pub const VARIABLE: &str = "REGRAFT_CPU";

impl Level {
    const ALL: [Level; 4] = [Level::Avx512, Level::Avx2, Level::Neon, Level::Scalar];

    /// The level's name as in [`VARIABLE`]: `avx512`, `avx2`, `neon` or `scalar`.
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Neon => "neon",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }

    /// Whether this CPU has the level.
    fn is_available(self) -> bool {
        match self {
            Level::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => pulp::x86::V4::is_available(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => pulp::x86::V3::is_available(),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => pulp::aarch64::Neon::is_available(),
            #[allow(unreachable_patterns)] // which levels are left depends on the architecture
            _ => false,
        }
    }

    /// The levels of this CPU, widest first.
    pub fn available() -> impl Iterator<Item = Level> {
        Self::ALL.into_iter().filter(|level| level.is_available())
    }

    /// The level to use: the one named by [`VARIABLE`], else the widest.
    ///
    /// # Errors
    /// A message for the user if the variable names no level of this CPU.
    pub fn choose() -> Result<Level, String> {
        let best = || Self::available().next().unwrap_or(Level::Scalar);
        match std::env::var(VARIABLE) {
            Err(_) => Ok(best()),
            Ok(name) if name.is_empty() => Ok(best()),
            Ok(name) => Self::available().find(|level| level.name() == name).ok_or_else(|| {
                let names: Vec<_> = Self::available().map(Level::name).collect();
                format!("{VARIABLE}={name}: this CPU has {}", names.join(", "))
            }),
        }
    }

    /// The result of [`choose`](Self::choose), computed once; the widest level if that is an error.
    pub fn current() -> Level {
        static CURRENT: OnceLock<Level> = OnceLock::new();
        *CURRENT.get_or_init(|| Self::choose().unwrap_or_else(|_| Self::available().next().unwrap_or(Level::Scalar)))
    }

    /// `f32` lanes of a vector.
    pub const fn lanes(self) -> usize {
        match self {
            Level::Scalar => 1,
            Level::Neon => 4,
            Level::Avx2 => 8,
            Level::Avx512 => 16,
        }
    }

    /// Runs `work`, compiled for this level.
    #[inline(always)]
    pub(crate) fn run<W: pulp::WithSimd>(self, work: W) -> W::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                if let Some(simd) = pulp::x86::V4::try_new() {
                    return pulp::Simd::vectorize(simd, work);
                }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                if let Some(simd) = pulp::x86::V3::try_new() {
                    return pulp::Simd::vectorize(simd, work);
                }
            }
            #[cfg(target_arch = "aarch64")]
            Level::Neon => {
                if let Some(simd) = pulp::aarch64::Neon::try_new() {
                    return pulp::Simd::vectorize(simd, work);
                }
            }
            _ => {}
        }
        pulp::Simd::vectorize(pulp::Scalar::new(), work)
    }
}

/// Runs `work`, compiled for the [current](Level::current) level.
///
/// The compiler vectorises plain loops in `work` for that level if `work` is a closure marked `#[inline(always)]`.
/// Otherwise the closure may be compiled once, for the baseline CPU.
#[inline(always)]
pub fn dispatch<R>(work: impl FnOnce() -> R) -> R {
    struct Work<F>(F);
    impl<R, F: FnOnce() -> R> pulp::WithSimd for Work<F> {
        type Output = R;
        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, _: S) -> R {
            (self.0)()
        }
    }
    Level::current().run(Work(work))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_levels_are_widest_first_and_end_with_scalar() {
        let levels: Vec<_> = Level::available().collect();
        assert_eq!(levels.last(), Some(&Level::Scalar));
        assert!(levels.windows(2).all(|pair| pair[0].lanes() > pair[1].lanes()));
    }

    #[test]
    fn run_uses_vectors_of_the_level() {
        struct Lanes;
        impl pulp::WithSimd for Lanes {
            type Output = usize;
            fn with_simd<S: pulp::Simd>(self, _: S) -> usize {
                S::F32_LANES
            }
        }
        for level in Level::available() {
            assert_eq!(level.run(Lanes), level.lanes(), "{level:?}");
        }
    }
}

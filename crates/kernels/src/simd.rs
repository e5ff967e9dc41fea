//! The one place where the CPU's vector instructions are chosen.

/// Runs `work` compiled for the widest vector instructions of this CPU, found at run time.
///
/// Plain loops inside `work` are vectorised by the compiler for that instruction set.
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
    pulp::Arch::new().dispatch(Work(work))
}

/// The name of the instruction set that [`dispatch`] uses: `avx512`, `avx2`, `neon` or `scalar`.
pub fn level() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if pulp::x86::V4::is_available() {
            return "avx512";
        }
        if pulp::x86::V3::is_available() {
            return "avx2";
        }
    }
    #[cfg(target_arch = "aarch64")]
    if pulp::aarch64::Neon::is_available() {
        return "neon";
    }
    "scalar"
}

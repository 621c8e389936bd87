//! Instruction sets, chosen when the program runs, behind one trait of vector operations.
//!
//! A kernel is a struct with its arguments and an `inline(always)` generic [`Kernel::call`]; [`Isa::dispatch`] calls it inside a function
//! that has the instruction set enabled, so that everything inlined into it is compiled for that set.

use std::sync::atomic::{AtomicUsize, Ordering};

/// An instruction set that kernels are compiled for, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Whatever the target always has; vectorised by the compiler (SSE2 on x86-64, NEON on aarch64).
    Portable,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512F.
    Avx512,
}

/// What `FEWSTEP_ISA` may name (`int8/set.rs` says what each means).
pub(super) const NAMES: [&str; 8] = ["portable", "avx2", "avx_vnni", "avx512", "avx512_vnni", "amx", "neon_dot", "neon_i8mm"];

/// Which of them it names, read once for floats and bytes alike; `None` where it names none.
pub(super) fn wanted() -> Option<&'static str> {
    // An index, once known, that of nothing behind the last. Nobody waits here for another thread, which a fork might have left behind.
    static WANTED: AtomicUsize = AtomicUsize::new(usize::MAX);
    let mut known = WANTED.load(Ordering::Relaxed);
    if known == usize::MAX {
        let value = std::env::var("FEWSTEP_ISA").ok();
        known = NAMES.iter().position(|name| value.as_deref() == Some(*name)).unwrap_or(NAMES.len());
        WANTED.store(known, Ordering::Relaxed);
    }
    NAMES.get(known).copied()
}

/// A value of `FEWSTEP_ISA` that names no set, and so changes nothing.
pub fn unknown() -> Option<String> {
    let value = std::env::var_os("FEWSTEP_ISA").filter(|value| !value.is_empty())?.to_string_lossy().into_owned();
    (!NAMES.contains(&&*value)).then_some(value)
}

impl Isa {
    /// The best set this machine has; the environment variable `FEWSTEP_ISA` can lower it (`int8/set.rs` has the table of its values).
    pub fn detect() -> Self {
        const SETS: [Isa; 3] = [Isa::Portable, Isa::Avx2, Isa::Avx512];
        // An index, once known. Nobody waits here for another thread, which a fork might have left behind.
        static BEST: AtomicUsize = AtomicUsize::new(usize::MAX);
        if let Some(known) = SETS.get(BEST.load(Ordering::Relaxed)) {
            return *known;
        }
        let wanted = Self::limit(wanted());
        let best = SETS.iter().rposition(|&isa| isa <= wanted && isa.available()).unwrap_or(0);
        BEST.store(best, Ordering::Relaxed);
        SETS[best]
    }

    /// The highest set that a value of `FEWSTEP_ISA` allows: the one that goes with the set for bytes that it names.
    pub(crate) fn limit(value: Option<&str>) -> Self {
        match value {
            Some("portable" | "neon_dot" | "neon_i8mm") => Self::Portable,
            Some("avx2" | "avx_vnni") => Self::Avx2,
            _ => Self::Avx512,
        }
    }

    /// Whether this machine can run it.
    pub fn available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Self::Avx2.available() && is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// All sets this machine can run, the lowest first. For tests.
    pub fn all() -> impl Iterator<Item = Self> {
        [Self::Portable, Self::Avx2, Self::Avx512].into_iter().filter(|isa| isa.available())
    }

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
        }
    }

    /// Floats in one vector.
    pub const fn width(self) -> usize {
        match self {
            Self::Portable => 4,
            Self::Avx2 => 8,
            Self::Avx512 => 16,
        }
    }

    /// Most rows of a matrix tile that is two vectors wide; with its accumulators it fills the registers.
    pub const fn tile_rows(self) -> usize {
        match self {
            Self::Portable | Self::Avx2 => 6, // 12 accumulators, 2 of B and 1 of A in 16 registers
            Self::Avx512 => 14,               // 28 + 2 + 1 in 32
        }
    }

    /// Runs a kernel compiled for this set, or for the best one there is when the machine lacks it.
    #[inline]
    pub fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: guarded by the same run-time check that the functions' features need (cached by std: one load).
            Self::Avx512 if self.available() => unsafe { x86::avx512(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx2 | Self::Avx512 if Self::Avx2.available() => unsafe { x86::avx2(kernel) },
            _ => portable(kernel),
        }
    }
}

/// In a function of its own as the other sets are, or its arrays would lie on the stack below theirs.
#[inline(never)]
fn portable<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the portable set needs nothing.
    unsafe { kernel.call::<Portable>() }
}

/// A computation that can be compiled for every instruction set.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// Does it. Must be `#[inline(always)]`.
    ///
    /// # Safety
    /// The machine must support `S`.
    unsafe fn call<S: Simd>(self) -> Self::Output;
}

/// Vectors of `W` floats.
///
/// # Safety
/// Every function needs a machine that supports the set; the memory ones need `W` (or `n <= W`) valid floats at any alignment.
#[allow(missing_docs, clippy::missing_safety_doc)] // one contract for all, above; the names say the rest
pub trait Simd: Copy + Send + Sync + 'static {
    /// The vector.
    type V: Copy;
    /// Floats in a vector.
    const W: usize;
    /// Which set this is.
    const ISA: Isa;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// Loads `n <= W` floats, the others are 0.
    unsafe fn load_n(p: *const f32, n: usize) -> Self::V;
    /// Stores the first `n <= W` floats.
    unsafe fn store_n(p: *mut f32, v: Self::V, n: usize);
    /// `a * b + c`, rounded once where the machine can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a > b ? a : b`: the second operand when either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`: the second operand when either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// Nearest integer, ties to even; for magnitudes below 2^22.
    unsafe fn round(v: Self::V) -> Self::V;
    /// `v * 2^n` for integer-valued `n` in -252..=252.
    unsafe fn scale2(v: Self::V, n: Self::V) -> Self::V;
    /// `a * b - hi` rounded once: what the product `hi` lost.
    unsafe fn abs(v: Self::V) -> Self::V;
    /// `a < b ? x : y`.
    unsafe fn select_lt(a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// Sum of the lanes in a fixed order.
    unsafe fn sum(v: Self::V) -> f32;
    /// `a[i] - b[i]` of `W` whole numbers each, as floats; the difference fits an i32.
    unsafe fn differences(a: *const i32, b: *const i32) -> Self::V;
    /// Whether `a < b` in every lane; NaN is less than nothing.
    unsafe fn all_lt(a: Self::V, b: Self::V) -> bool;
    /// Stores the first `n <= W` lanes, whole numbers in 0..=255, as bytes.
    unsafe fn store_bytes(p: *mut u8, v: Self::V, n: usize);
    /// Stores the first `n <= W` lanes as bf16, rounded to nearest, ties to even, at any alignment; NaN stays NaN.
    unsafe fn store_bf16(p: *mut u8, v: Self::V, n: usize);
    /// Eight floats to choose from.
    type Table: Copy;
    unsafe fn table(values: &[f32; 8]) -> Self::Table;
    /// The table's entry of the index that `at`, in 0..8, has before its point.
    unsafe fn look_up(table: Self::Table, at: Self::V) -> Self::V;
    /// What numbers in 0..2^31 have before their points.
    unsafe fn whole(v: Self::V) -> Self::V;
}

/// The portable set: four lanes, so that baseline SSE2 and NEON hold one in a register.
#[derive(Clone, Copy)]
pub struct Portable;

/// Four floats that the compiler keeps in one register.
#[derive(Clone, Copy)]
#[repr(align(16))]
pub struct F4([f32; 4]);

macro_rules! lanes {
    ($i:ident => $e:expr) => {
        F4([
            {
                let $i = 0;
                $e
            },
            {
                let $i = 1;
                $e
            },
            {
                let $i = 2;
                $e
            },
            {
                let $i = 3;
                $e
            },
        ])
    };
}

#[rustfmt::skip]
impl Simd for Portable {
    type V = F4;
    const W: usize = 4;
    const ISA: Isa = Isa::Portable;
    #[inline(always)]
    unsafe fn splat(x: f32) -> F4 { F4([x; 4]) }
    #[inline(always)]
    // SAFETY: four valid floats by the trait's contract; read unaligned.
    unsafe fn load(p: *const f32) -> F4 { F4(unsafe { p.cast::<[f32; 4]>().read_unaligned() }) }
    #[inline(always)]
    // SAFETY: as `load`.
    unsafe fn store(p: *mut f32, v: F4) { unsafe { p.cast::<[f32; 4]>().write_unaligned(v.0) } }
    #[inline(always)]
    // SAFETY: reads only the first `n` floats, valid by the trait's contract.
    unsafe fn load_n(p: *const f32, n: usize) -> F4 { lanes!(i => if i < n { unsafe { *p.add(i) } } else { 0.0 }) }
    #[inline(always)]
    unsafe fn store_n(p: *mut f32, v: F4, n: usize) {
        for (i, x) in v.0.into_iter().enumerate().take(n) {
            // SAFETY: writes only the first `n` floats, valid by the trait's contract.
            unsafe { *p.add(i) = x }
        }
    }
    #[inline(always)]
    unsafe fn fma(a: F4, b: F4, c: F4) -> F4 {
        // `mul_add` is an instruction on aarch64 but a library call on baseline x86-64.
        if cfg!(target_arch = "aarch64") { lanes!(i => a.0[i].mul_add(b.0[i], c.0[i])) } else { lanes!(i => a.0[i] * b.0[i] + c.0[i]) }
    }
    #[inline(always)]
    unsafe fn add(a: F4, b: F4) -> F4 { lanes!(i => a.0[i] + b.0[i]) }
    #[inline(always)]
    unsafe fn sub(a: F4, b: F4) -> F4 { lanes!(i => a.0[i] - b.0[i]) }
    #[inline(always)]
    unsafe fn mul(a: F4, b: F4) -> F4 { lanes!(i => a.0[i] * b.0[i]) }
    #[inline(always)]
    unsafe fn div(a: F4, b: F4) -> F4 { lanes!(i => a.0[i] / b.0[i]) }
    #[inline(always)]
    unsafe fn max(a: F4, b: F4) -> F4 { lanes!(i => if a.0[i] > b.0[i] { a.0[i] } else { b.0[i] }) }
    #[inline(always)]
    unsafe fn min(a: F4, b: F4) -> F4 { lanes!(i => if a.0[i] < b.0[i] { a.0[i] } else { b.0[i] }) }
    #[inline(always)]
    unsafe fn round(v: F4) -> F4 {
        const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves no fraction bits
        lanes!(i => (v.0[i] + MAGIC) - MAGIC)
    }
    #[inline(always)]
    unsafe fn scale2(v: F4, n: F4) -> F4 {
        // Two steps, so that neither factor leaves the normal range.
        let pow2 = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
        lanes!(i => { let n = n.0[i] as i32; let half = n >> 1; v.0[i] * pow2(half) * pow2(n - half) })
    }
    #[inline(always)]
    unsafe fn abs(v: F4) -> F4 { lanes!(i => v.0[i].abs()) }
    #[inline(always)]
    unsafe fn select_lt(a: F4, b: F4, x: F4, y: F4) -> F4 { lanes!(i => if a.0[i] < b.0[i] { x.0[i] } else { y.0[i] }) }
    #[inline(always)]
    unsafe fn sum(v: F4) -> f32 { (v.0[0] + v.0[2]) + (v.0[1] + v.0[3]) }
    #[inline(always)]
    // SAFETY: four whole numbers each, valid by the trait's contract.
    unsafe fn differences(a: *const i32, b: *const i32) -> F4 { lanes!(i => unsafe { (*a.add(i) - *b.add(i)) as f32 }) }
    #[inline(always)]
    unsafe fn all_lt(a: F4, b: F4) -> bool { (0..4).all(|i| a.0[i] < b.0[i]) }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: F4, n: usize) {
        for (i, x) in v.0.into_iter().enumerate().take(n) {
            // SAFETY: writes only the first `n` bytes, valid by the trait's contract.
            unsafe { *p.add(i) = x as u8 }
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u8, v: F4, n: usize) {
        for (i, x) in v.0.into_iter().enumerate().take(n) {
            // SAFETY: writes only the first `n` pairs of bytes, valid by the trait's contract.
            unsafe { p.cast::<u16>().add(i).write_unaligned(half::bf16::from_f32(x).to_bits()) }
        }
    }
    type Table = [f32; 8];
    #[inline(always)]
    unsafe fn table(values: &[f32; 8]) -> [f32; 8] { *values }
    #[inline(always)]
    unsafe fn look_up(table: [f32; 8], at: F4) -> F4 { lanes!(i => table[at.0[i] as usize & 7]) }
    #[inline(always)]
    unsafe fn whole(v: F4) -> F4 { lanes!(i => v.0[i] as i32 as f32) }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Isa, Kernel, Simd};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx2,fma")]
    pub unsafe fn avx512<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller checked the features.
        unsafe { kernel.call::<Avx512>() }
    }

    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller checked the features.
        unsafe { kernel.call::<Avx2>() }
    }

    /// Sixteen lanes.
    #[derive(Clone, Copy)]
    pub struct Avx512;
    /// Eight lanes.
    #[derive(Clone, Copy)]
    pub struct Avx2;

    macro_rules! ops { ($($name:ident($($a:ident: $t:ty),*) $(-> $r:ty)? { $body:expr })*) => { $(
        #[inline(always)]
        unsafe fn $name($($a: $t),*) $(-> $r)? {
            // SAFETY: the trait's contract: the machine has the set and the pointers are valid for what is touched.
            unsafe { $body }
        }
    )* } }

    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

    #[inline(always)]
    fn mask16(n: usize) -> __mmask16 {
        ((1u32 << n.min(16)) - 1) as u16
    }

    impl Simd for Avx512 {
        type V = __m512;
        const W: usize = 16;
        const ISA: Isa = Isa::Avx512;
        ops! {
            splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
            load(p: *const f32) -> __m512 { _mm512_loadu_ps(p) }
            store(p: *mut f32, v: __m512) { _mm512_storeu_ps(p, v) }
            load_n(p: *const f32, n: usize) -> __m512 { _mm512_maskz_loadu_ps(mask16(n), p) }
            store_n(p: *mut f32, v: __m512, n: usize) { _mm512_mask_storeu_ps(p, mask16(n), v) }
            fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
            add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
            sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
            mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
            div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
            max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
            min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
            round(v: __m512) -> __m512 { _mm512_roundscale_ps::<NEAREST>(v) }
            scale2(v: __m512, n: __m512) -> __m512 { _mm512_scalef_ps(v, n) }
            abs(v: __m512) -> __m512 { _mm512_abs_ps(v) }
            select_lt(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x) }
            sum(v: __m512) -> f32 { _mm512_reduce_add_ps(v) }
            differences(a: *const i32, b: *const i32) -> __m512 {
                _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(a.cast()), _mm512_loadu_si512(b.cast())))
            }
            all_lt(a: __m512, b: __m512) -> bool { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) == !0 }
            store_bytes(p: *mut u8, v: __m512, n: usize) {{
                let bytes = _mm512_cvttps_epi32(v);
                if n == 16 { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(bytes)) } else { _mm512_mask_cvtepi32_storeu_epi8(p.cast(), mask16(n), bytes) }
            }}
            store_bf16(p: *mut u8, v: __m512, n: usize) {{
                let bits = _mm512_castps_si512(v);
                let upper = _mm512_srli_epi32::<16>(bits);
                let odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
                let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))));
                let quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
                let words = _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v), quiet));
                if n == 16 { _mm256_storeu_si256(p.cast(), words) } else { std::ptr::copy_nonoverlapping((&raw const words).cast(), p, 2 * n) }
            }}
            table(values: &[f32; 8]) -> __m512 { _mm512_castps256_ps512(_mm256_loadu_ps(values.as_ptr())) } // no index reaches the upper half
            look_up(table: __m512, at: __m512) -> __m512 { _mm512_permutexvar_ps(_mm512_cvttps_epi32(at), table) }
            whole(v: __m512) -> __m512 { _mm512_cvtepi32_ps(_mm512_cvttps_epi32(v)) }
        }
        type Table = __m512;
    }

    /// A window into this at `8 - n` is a mask of the first `n` lanes.
    static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

    #[inline(always)]
    unsafe fn mask8(n: usize) -> __m256i {
        // SAFETY: eight integers from an offset of at most 8 into 16; AVX2 by the trait's contract.
        unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(8 - n.min(8)).cast()) }
    }

    impl Simd for Avx2 {
        type V = __m256;
        const W: usize = 8;
        const ISA: Isa = Isa::Avx2;
        ops! {
            splat(x: f32) -> __m256 { _mm256_set1_ps(x) }
            load(p: *const f32) -> __m256 { _mm256_loadu_ps(p) }
            store(p: *mut f32, v: __m256) { _mm256_storeu_ps(p, v) }
            load_n(p: *const f32, n: usize) -> __m256 { _mm256_maskload_ps(p, mask8(n)) }
            store_n(p: *mut f32, v: __m256, n: usize) { _mm256_maskstore_ps(p, mask8(n), v) }
            fma(a: __m256, b: __m256, c: __m256) -> __m256 { _mm256_fmadd_ps(a, b, c) }
            add(a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
            sub(a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
            mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
            div(a: __m256, b: __m256) -> __m256 { _mm256_div_ps(a, b) }
            max(a: __m256, b: __m256) -> __m256 { _mm256_max_ps(a, b) }
            min(a: __m256, b: __m256) -> __m256 { _mm256_min_ps(a, b) }
            round(v: __m256) -> __m256 { _mm256_round_ps::<NEAREST>(v) }
            scale2(v: __m256, n: __m256) -> __m256 {{
                // Two steps, so that neither factor leaves the normal range.
                let n = _mm256_cvtps_epi32(n);
                let half = _mm256_srai_epi32::<1>(n);
                let pow2 = |n| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))));
                _mm256_mul_ps(_mm256_mul_ps(v, pow2(half)), pow2(_mm256_sub_epi32(n, half)))
            }}
            abs(v: __m256) -> __m256 { _mm256_andnot_ps(_mm256_set1_ps(-0.0), v) }
            select_lt(a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 { _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
            sum(v: __m256) -> f32 {{
                let s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let s = _mm_add_ps(s, _mm_movehl_ps(s, s));
                _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps::<1>(s, s)))
            }}
            differences(a: *const i32, b: *const i32) -> __m256 {
                _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_loadu_si256(a.cast()), _mm256_loadu_si256(b.cast())))
            }
            all_lt(a: __m256, b: __m256) -> bool { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) == 255 }
            store_bytes(p: *mut u8, v: __m256, n: usize) {{
                let wide = _mm256_cvttps_epi32(v);
                let words = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256::<1>(wide));
                let bytes = _mm_packus_epi16(words, words);
                if n == 8 { _mm_storel_epi64(p.cast(), bytes) } else { std::ptr::copy_nonoverlapping((&raw const bytes).cast(), p, n) }
            }}
            store_bf16(p: *mut u8, v: __m256, n: usize) {{
                let bits = _mm256_castps_si256(v);
                let upper = _mm256_srli_epi32::<16>(bits);
                let odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
                let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))));
                let quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
                let none = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
                let wide = _mm256_blendv_epi8(rounded, quiet, none);
                let words = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256::<1>(wide));
                if n == 8 { _mm_storeu_si128(p.cast(), words) } else { std::ptr::copy_nonoverlapping((&raw const words).cast(), p, 2 * n) }
            }}
            table(values: &[f32; 8]) -> __m256 { _mm256_loadu_ps(values.as_ptr()) }
            look_up(table: __m256, at: __m256) -> __m256 { _mm256_permutevar8x32_ps(table, _mm256_cvttps_epi32(at)) }
            whole(v: __m256) -> __m256 { _mm256_cvtepi32_ps(_mm256_cvttps_epi32(v)) }
        }
        type Table = __m256;
    }
}

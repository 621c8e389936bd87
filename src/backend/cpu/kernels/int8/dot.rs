//! Kernels of instructions that add the products of four bytes to a sum: a tile of pixels by channels in registers, four bytes of one pixel broadcast.
//! Weights are packed as `[panel][kernel row][step of 4 bytes of a run][channel][4]`, the last panel of fewer vectors.

use super::super::pool::split;
use super::super::simd::{self, Simd};
use super::task::{Sums, Task};

/// An instruction set's dot product.
///
/// # Safety
/// Every function needs a machine that supports the set, and pointers that are valid for what it reads or writes, at any alignment.
#[allow(clippy::missing_safety_doc)] // one contract for all, above
pub(super) trait Dot {
    /// Sums, one a channel.
    type Sum: Copy;
    /// Four bytes of a pixel, for every channel.
    type Four: Copy;
    /// Four weights of every channel.
    type Weights: Copy;
    /// Floats of the same machine.
    type Floats: Simd;
    /// Channels of a vector.
    const LANES: usize;
    /// Vectors of a tile.
    const VECTORS: usize;
    /// Pixels of a tile.
    const ROWS: usize;
    /// Whether bytes are signed, so that panels begin with what that takes from each channel's sum.
    const SIGNED: bool = false;
    unsafe fn zero() -> Self::Sum;
    /// Sums from memory.
    unsafe fn sums(p: *const i32) -> Self::Sum;
    unsafe fn weights(p: *const i8) -> Self::Weights;
    unsafe fn four(p: *const u8) -> Self::Four;
    unsafe fn dot(sum: Self::Sum, a: Self::Four, b: Self::Weights) -> Self::Sum;
    unsafe fn store(p: *mut i32, sum: Self::Sum);
}

/// `sums[MR][NV * LANES] = sum over kernel rows and steps`; everything stays in registers until the end.
#[inline(always)]
unsafe fn multiply<D: Dot, const MR: usize, const NV: usize>(task: &Task, first: usize, mut b: *const i8, sums: &mut Sums) {
    let s = &task.product.staging;
    let [taps, width] = s.taps();
    let steps = (width * s.pitch).div_ceil(4);
    let bases = task.bases::<MR>(first);
    // SAFETY: bases and taps stand in `staged`, whose images end beyond what a run's last step reads; the panel has as many steps; the tile fits `sums`.
    unsafe {
        let mut sum = [[D::zero(); NV]; MR];
        if D::SIGNED {
            for j in 0..NV {
                let first = D::sums(b.add(4 * j * D::LANES).cast());
                for i in 0..MR {
                    sum[i][j] = first;
                }
            }
            b = b.add(4 * NV * D::LANES);
        }
        for r in 0..taps {
            let row = s.tap(r, 0);
            let mut a = bases;
            for i in 0..MR {
                a[i] = bases[i].add(row);
            }
            for step in 0..steps {
                let mut w = [D::weights(b); NV];
                for j in 1..NV {
                    w[j] = D::weights(b.add(4 * j * D::LANES));
                }
                for i in 0..MR {
                    let four = D::four(a[i].add(4 * step));
                    for j in 0..NV {
                        sum[i][j] = D::dot(sum[i][j], four, w[j]);
                    }
                }
                b = b.add(4 * NV * D::LANES);
            }
        }
        // To memory at once: a loop over the sums that is not unrolled would keep all of them there, in the loop above too.
        for i in 0..MR {
            for j in 0..NV {
                D::store(sums.0.as_mut_ptr().add((i * NV + j) * D::LANES), sum[i][j]);
            }
        }
    }
}

/// Runs a task.
///
/// # Safety
/// The machine supports the set; the task's sizes were checked.
#[inline(always)]
unsafe fn run<D: Dot>(task: &Task) {
    let mut sums = Sums::new();
    let width = D::LANES * D::VECTORS;
    let tiles = task.rows.len().div_ceil(D::ROWS);
    for panel in task.panels.clone() {
        let vectors = task.columns(panel, width).div_ceil(D::LANES);
        let (b, finish) = (task.panel(panel), task.finish(panel, width));
        for tile in 0..tiles {
            let part = split(task.rows.len(), tiles, tile);
            let first = task.rows.start + part.start;
            macro_rules! sizes { ($($m:literal)*) => {
                match (part.len(), vectors) {
                    // The constant conditions drop the sizes that this set does not use.
                    $(
                    // SAFETY: the caller's contract; the rows and the panel are the task's.
                    ($m, 1) if $m <= D::ROWS => unsafe { multiply::<D, $m, 1>(task, first, b, &mut sums) },
                    // SAFETY: as above.
                    ($m, 2) if $m <= D::ROWS && 2 <= D::VECTORS => unsafe { multiply::<D, $m, 2>(task, first, b, &mut sums) },
                    // SAFETY: as above.
                    ($m, 3) if $m <= D::ROWS && 3 <= D::VECTORS => unsafe { multiply::<D, $m, 3>(task, first, b, &mut sums) },
                    // SAFETY: as above.
                    ($m, 4) if $m <= D::ROWS && 4 <= D::VECTORS => unsafe { multiply::<D, $m, 4>(task, first, b, &mut sums) },
                    )*
                    _ => {}
                }
            } }
            sizes!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
            // SAFETY: the caller's contract.
            unsafe { finish.rows::<D::Floats>(sums.0.as_ptr(), vectors * D::LANES, first, part.len()) };
        }
    }
}

/// What the target always has: four channels a vector.
struct Portable;

/// Plain arithmetic, which compilers do not make vectors of on x86-64: SSE2, which that always has, is below.
#[cfg(not(target_arch = "x86_64"))]
impl Dot for Portable {
    type Sum = [i32; 4];
    type Four = [u8; 4];
    type Weights = [[i8; 4]; 4];
    type Floats = simd::Portable;
    const LANES: usize = 4;
    const VECTORS: usize = 2;
    const ROWS: usize = 2;
    #[inline(always)]
    unsafe fn zero() -> [i32; 4] {
        [0; 4]
    }
    #[inline(always)]
    unsafe fn sums(p: *const i32) -> [i32; 4] {
        // SAFETY: the trait's contract.
        unsafe { p.cast::<[i32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn weights(p: *const i8) -> [[i8; 4]; 4] {
        // SAFETY: the trait's contract.
        unsafe { p.cast::<[[i8; 4]; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn four(p: *const u8) -> [u8; 4] {
        // SAFETY: the trait's contract.
        unsafe { p.cast::<[u8; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn dot(mut sum: [i32; 4], a: [u8; 4], b: [[i8; 4]; 4]) -> [i32; 4] {
        for lane in 0..4 {
            for i in 0..4 {
                sum[lane] += i32::from(a[i]) * i32::from(b[lane][i]);
            }
        }
        sum
    }
    #[inline(always)]
    unsafe fn store(p: *mut i32, sum: [i32; 4]) {
        // SAFETY: the trait's contract.
        unsafe { p.cast::<[i32; 4]>().write_unaligned(sum) }
    }
}

/// The portable kernel.
///
/// # Safety
/// The task's sizes were checked.
pub(super) unsafe fn portable(task: &Task) {
    // SAFETY: the caller's contract; the set needs nothing.
    unsafe { run::<Portable>(task) }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{avx_vnni, avx512_vnni};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Dot, Portable, Task, run, simd};
    use std::arch::x86_64::*;

    /// pmaddwd of bytes that are widened first. A sum is two, of the products of a step's first two bytes and its last two, until it is stored.
    impl Dot for Portable {
        type Sum = [__m128i; 2];
        type Four = __m128i;
        type Weights = [__m128i; 2];
        type Floats = simd::Portable;
        const LANES: usize = 4;
        const VECTORS: usize = 2;
        const ROWS: usize = 2;
        #[inline(always)]
        unsafe fn zero() -> [__m128i; 2] {
            // SAFETY: every x86-64 processor has SSE2.
            unsafe { [_mm_setzero_si128(); 2] }
        }
        #[inline(always)]
        unsafe fn sums(p: *const i32) -> [__m128i; 2] {
            // SAFETY: the trait's contract, and SSE2.
            unsafe {
                let (four, zero) = (_mm_loadu_si128(p.cast()), _mm_setzero_si128());
                [_mm_unpacklo_epi32(four, zero), _mm_unpackhi_epi32(four, zero)]
            }
        }
        #[inline(always)]
        unsafe fn weights(p: *const i8) -> [__m128i; 2] {
            // SAFETY: the trait's contract, and SSE2.
            unsafe {
                let bytes = _mm_loadu_si128(p.cast());
                [_mm_srai_epi16::<8>(_mm_unpacklo_epi8(bytes, bytes)), _mm_srai_epi16::<8>(_mm_unpackhi_epi8(bytes, bytes))]
            }
        }
        #[inline(always)]
        unsafe fn four(p: *const u8) -> __m128i {
            // SAFETY: the trait's contract, and SSE2.
            unsafe { _mm_unpacklo_epi8(_mm_set1_epi32(p.cast::<i32>().read_unaligned()), _mm_setzero_si128()) }
        }
        #[inline(always)]
        unsafe fn dot(sum: [__m128i; 2], a: __m128i, b: [__m128i; 2]) -> [__m128i; 2] {
            // SAFETY: SSE2.
            unsafe { [_mm_add_epi32(sum[0], _mm_madd_epi16(a, b[0])), _mm_add_epi32(sum[1], _mm_madd_epi16(a, b[1]))] }
        }
        #[inline(always)]
        unsafe fn store(p: *mut i32, sum: [__m128i; 2]) {
            // SAFETY: the trait's contract, and SSE2.
            unsafe {
                let (low, high) = (_mm_castsi128_ps(sum[0]), _mm_castsi128_ps(sum[1]));
                let first = _mm_castps_si128(_mm_shuffle_ps::<0b10_00_10_00>(low, high));
                let last = _mm_castps_si128(_mm_shuffle_ps::<0b11_01_11_01>(low, high));
                _mm_storeu_si128(p.cast(), _mm_add_epi32(first, last));
            }
        }
    }

    macro_rules! vpdpbusd {
        ($set:ident, $vector:ty, $floats:ty, $lanes:literal, $rows:literal, $zero:ident, $load:ident, $splat:ident, $dot:ident, $store:ident) => {
            struct $set;

            impl Dot for $set {
                type Sum = $vector;
                type Four = $vector;
                type Weights = $vector;
                type Floats = $floats;
                const LANES: usize = $lanes;
                const VECTORS: usize = 2;
                const ROWS: usize = $rows;
                #[inline(always)]
                unsafe fn zero() -> $vector {
                    // SAFETY: the trait's contract.
                    unsafe { $zero() }
                }
                #[inline(always)]
                unsafe fn sums(p: *const i32) -> $vector {
                    // SAFETY: the trait's contract.
                    unsafe { $load(p.cast()) }
                }
                #[inline(always)]
                unsafe fn weights(p: *const i8) -> $vector {
                    // SAFETY: the trait's contract.
                    unsafe { $load(p.cast()) }
                }
                #[inline(always)]
                unsafe fn four(p: *const u8) -> $vector {
                    // SAFETY: the trait's contract.
                    unsafe { $splat(p.cast::<i32>().read_unaligned()) }
                }
                #[inline(always)]
                unsafe fn dot(sum: $vector, a: $vector, b: $vector) -> $vector {
                    // SAFETY: the trait's contract.
                    unsafe { $dot(sum, a, b) }
                }
                #[inline(always)]
                unsafe fn store(p: *mut i32, sum: $vector) {
                    // SAFETY: the trait's contract.
                    unsafe { $store(p.cast(), sum) }
                }
            }
        };
    }
    // 28 sums, 2 of weights and 1 of activations in 32 registers; 12, 2 and 1 in 16.
    vpdpbusd!(Wide, __m512i, simd::Avx512, 16, 14, _mm512_setzero_si512, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_dpbusd_epi32, _mm512_storeu_si512);
    vpdpbusd!(Narrow, __m256i, simd::Avx2, 8, 6, _mm256_setzero_si256, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_dpbusd_avx_epi32, _mm256_storeu_si256);

    /// vpdpbusd on 64 bytes.
    ///
    /// # Safety
    /// The machine has AVX-512 VNNI; the task's sizes were checked.
    #[target_feature(enable = "avx512f,avx512vnni,avx2,fma")]
    pub unsafe fn avx512_vnni(task: &Task) {
        // SAFETY: the caller's contract.
        unsafe { run::<Wide>(task) }
    }

    /// vpdpbusd on 32 bytes.
    ///
    /// # Safety
    /// The machine has AVX-VNNI; the task's sizes were checked.
    #[target_feature(enable = "avxvnni,avx2,fma")]
    pub unsafe fn avx_vnni(task: &Task) {
        // SAFETY: the caller's contract.
        unsafe { run::<Narrow>(task) }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) use arm::neon;

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::{Dot, Task, run, simd};
    use std::arch::{aarch64::*, asm};

    /// sdot on 16 bytes, by `asm!` since its intrinsic is unstable. 24 sums, 4 of weights and 1 of activations in 32 registers.
    struct Neon;

    impl Dot for Neon {
        type Sum = int32x4_t;
        type Four = int8x16_t;
        type Weights = int8x16_t;
        type Floats = simd::Portable;
        const LANES: usize = 4;
        const VECTORS: usize = 4;
        const ROWS: usize = 6;
        const SIGNED: bool = true;
        #[inline(always)]
        unsafe fn zero() -> int32x4_t {
            // SAFETY: the trait's contract.
            unsafe { vdupq_n_s32(0) }
        }
        #[inline(always)]
        unsafe fn sums(p: *const i32) -> int32x4_t {
            // SAFETY: the trait's contract.
            unsafe { vld1q_s32(p) }
        }
        #[inline(always)]
        unsafe fn weights(p: *const i8) -> int8x16_t {
            // SAFETY: the trait's contract.
            unsafe { vld1q_s8(p) }
        }
        #[inline(always)]
        unsafe fn four(p: *const u8) -> int8x16_t {
            // SAFETY: the trait's contract.
            unsafe { vreinterpretq_s8_s32(vdupq_n_s32(p.cast::<i32>().read_unaligned())) }
        }
        #[inline(always)]
        unsafe fn dot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
            // SAFETY: the trait's contract; registers only.
            unsafe {
                asm!(".arch_extension dotprod", "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sum, in(vreg) b, in(vreg) a, options(pure, nomem, nostack, preserves_flags))
            };
            sum
        }
        #[inline(always)]
        unsafe fn store(p: *mut i32, sum: int32x4_t) {
            // SAFETY: the trait's contract.
            unsafe { vst1q_s32(p, sum) }
        }
    }

    /// sdot on 16 bytes.
    ///
    /// # Safety
    /// The machine has dotprod; the task's sizes were checked.
    #[target_feature(enable = "neon")]
    pub unsafe fn neon(task: &Task) {
        // SAFETY: the caller's contract.
        unsafe { run::<Neon>(task) }
    }
}

//! Exact without VNNI. vpmaddubsw saturates pairs of products at 16 bits, so weights are examined when they are packed (`pack.rs`): a step, or two steps whose
//! 16-bit lanes are added first, in which no number up to `most` can overflow any lane is taken as it is; any other is taken twice, once with every second
//! weight 0, which cannot overflow (255 * 127 < 2^15). Whole numbers may be added in any order, so steps are sorted by kind.

use super::super::pool::split;
use super::super::simd::Avx2;
use super::pack::Examined;
use super::task::{Sums, Task};
use std::arch::x86_64::*;

/// Channels of a vector.
pub(super) const LANES: usize = 8;
/// Pixels of a tile: 8 sums, 4 vectors of weights, 2 of activations and one of ones in 16 registers.
pub(super) const ROWS: usize = 4;

#[inline(always)]
unsafe fn four(p: *const u8) -> __m256i {
    // SAFETY: the caller's: four bytes of a pixel, on a machine with AVX2.
    unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
}

#[inline(always)]
unsafe fn multiply<const MR: usize, const NV: usize>(task: &Task, first: usize, panel: &Examined, sums: &mut Sums) {
    let bases = task.bases::<MR>(first);
    let offsets = task.product.offsets.as_ptr();
    // SAFETY: the panel has as many steps as its head says, each an index into the offsets, which stand in `staged`; the tile fits `sums`; AVX2 by the caller's
    // contract.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut sum = [[_mm256_setzero_si256(); NV]; MR];
        let (mut step, mut b) = (panel.steps, panel.weights.cast::<__m256i>());
        let offset = |step: *const u32| *offsets.add(step.read_unaligned() as usize) as usize;
        let paired = step.add(2 * panel.pairs);
        while step < paired {
            let (o0, o1) = (offset(step), offset(step.add(1)));
            let mut w = [[ones; NV]; 2];
            for (half, w) in w.iter_mut().enumerate() {
                for (j, w) in w.iter_mut().enumerate() {
                    *w = _mm256_loadu_si256(b.add(half * NV + j));
                }
            }
            for i in 0..MR {
                let (a0, a1) = (four(bases[i].add(o0)), four(bases[i].add(o1)));
                for j in 0..NV {
                    let two = _mm256_add_epi16(_mm256_maddubs_epi16(a0, w[0][j]), _mm256_maddubs_epi16(a1, w[1][j]));
                    sum[i][j] = _mm256_add_epi32(sum[i][j], _mm256_madd_epi16(two, ones));
                }
            }
            (step, b) = (step.add(2), b.add(2 * NV));
        }
        let end = panel.steps.add(panel.count);
        while step < end {
            let o = offset(step);
            let mut w = [ones; NV];
            for (j, w) in w.iter_mut().enumerate() {
                *w = _mm256_loadu_si256(b.add(j));
            }
            for i in 0..MR {
                let a = four(bases[i].add(o));
                for j in 0..NV {
                    sum[i][j] = _mm256_add_epi32(sum[i][j], _mm256_madd_epi16(_mm256_maddubs_epi16(a, w[j]), ones));
                }
            }
            (step, b) = (step.add(1), b.add(NV));
        }
        for i in 0..MR {
            for j in 0..NV {
                _mm256_storeu_si256(sums.0.as_mut_ptr().add((i * NV + j) * LANES).cast(), sum[i][j]);
            }
        }
    }
}

/// Runs a task.
///
/// # Safety
/// The machine has AVX2 and FMA; the task's sizes were checked.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2(task: &Task) {
    let mut sums = Sums::new();
    let width = 2 * LANES;
    let tiles = task.rows.len().div_ceil(ROWS);
    for panel in task.panels.clone() {
        let vectors = task.columns(panel, width).div_ceil(LANES);
        // SAFETY: `packed` has the panel, made by `pack.rs` for this product.
        let examined = unsafe { Examined::read(task.panel(panel), task.product.offsets.len()) };
        let finish = task.finish(panel, width);
        for tile in 0..tiles {
            let part = split(task.rows.len(), tiles, tile);
            let first = task.rows.start + part.start;
            macro_rules! sizes { ($($m:literal)*) => {
                match (part.len(), vectors) {
                    $(
                    // SAFETY: the caller's contract; the rows and the panel are the task's.
                    ($m, 1) => unsafe { multiply::<$m, 1>(task, first, &examined, &mut sums) },
                    // SAFETY: as above.
                    ($m, _) => unsafe { multiply::<$m, 2>(task, first, &examined, &mut sums) },
                    )*
                    _ => {}
                }
            } }
            sizes!(1 2 3 4);
            // SAFETY: the caller's contract.
            unsafe { finish.rows::<Avx2>(sums.0.as_ptr(), vectors * LANES, first, part.len()) };
        }
    }
}

//! NEON's matrix product of bytes, by `asm!` since its intrinsics are unstable: usmmla adds to 2 x 2 sums the products of two pixels' eight bytes with two
//! channels' eight weights. A tile of 8 pixels by 8 channels is 16 of them.

use super::super::pool::split;
use super::super::simd::Portable;
use super::task::{Sums, Task};
use std::arch::{aarch64::*, asm};

/// Pixels and channels of a tile.
const SIDE: usize = 8;
/// Pairs of either.
const PAIRS: usize = SIDE / 2;

/// `sum + a b` for a of u8 `[2][8]`, b of s8 `[2][8]` transposed, sums `[2][2]`.
#[inline(always)]
unsafe fn usmmla(mut sum: int32x4_t, a: uint8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's: a machine with i8mm; registers only.
    unsafe {
        asm!(".arch_extension i8mm", "usmmla {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sum, in(vreg) a, in(vreg) b, options(pure, nomem, nostack, preserves_flags))
    };
    sum
}

/// `sums[8][8] = sum over kernel rows and steps of eight bytes`.
#[inline(always)]
unsafe fn multiply(task: &Task, bases: &[*const u8; SIDE], mut b: *const i8, sums: &mut Sums) {
    let s = &task.product.staging;
    let [taps, width] = s.taps();
    let steps = (width * s.pitch).div_ceil(SIDE);
    // SAFETY: bases and taps stand in `staged`, whose images end beyond what a run's last step reads; the panel has 64 bytes for each step.
    unsafe {
        let mut sum = [[vdupq_n_s32(0); PAIRS]; PAIRS];
        for r in 0..taps {
            let row = s.tap(r, 0);
            for step in 0..steps {
                let at = row + SIDE * step;
                let mut w = [vdupq_n_s8(0); PAIRS];
                for (j, w) in w.iter_mut().enumerate() {
                    *w = vld1q_s8(b.add(2 * SIDE * j));
                }
                for i in 0..PAIRS {
                    let a = vcombine_u8(vld1_u8(bases[2 * i].add(at)), vld1_u8(bases[2 * i + 1].add(at)));
                    for j in 0..PAIRS {
                        sum[i][j] = usmmla(sum[i][j], a, w[j]);
                    }
                }
                b = b.add(SIDE * SIDE);
            }
        }
        for i in 0..PAIRS {
            for j in 0..PAIRS {
                let to = sums.0.as_mut_ptr().add(2 * i * SIDE + 2 * j);
                vst1_s32(to, vget_low_s32(sum[i][j]));
                vst1_s32(to.add(SIDE), vget_high_s32(sum[i][j]));
            }
        }
    }
}

/// Runs a task.
///
/// # Safety
/// The machine has i8mm; the task's sizes were checked.
#[target_feature(enable = "neon")]
pub(super) unsafe fn i8mm(task: &Task) {
    let mut sums = Sums::new();
    let tiles = task.rows.len().div_ceil(SIDE);
    for panel in task.panels.clone() {
        let (b, finish) = (task.panel(panel), task.finish(panel, SIDE));
        for tile in 0..tiles {
            let part = split(task.rows.len(), tiles, tile);
            let first = task.rows.start + part.start;
            // A tile of fewer pixels takes its last ones several times.
            let bases = std::array::from_fn(|i| task.bases::<1>(first + i.min(part.len() - 1))[0]);
            // SAFETY: the caller's contract; the rows and the panel are the task's.
            unsafe {
                multiply(task, &bases, b, &mut sums);
                finish.rows::<Portable>(sums.0.as_ptr(), SIDE, first, part.len());
            }
        }
    }
}

//! The processor's tiles: see `int8/amx.rs` for how they are had.

use super::super::int8::amx::Bf16;
use super::super::int8::task::{Sums, Task};
use super::super::int8::tiles;
use super::weight_grad::{self, Outer};
use std::arch::asm;

impl Outer for Bf16 {
    #[inline(always)]
    unsafe fn multiply(a: [*const u8; 2], b: [*const u8; 2], steps: &[[u32; 2]], sums: &mut Sums) {
        let range = steps.as_ptr_range();
        // SAFETY: the caller's: the tiles are configured, every offset is that of 16 rows of 64 bytes behind both pointers; `sums` has 4 KiB.
        unsafe {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "2:",
                "mov {t:e}, dword ptr [{step} + 4]",
                "add {t}, {b0}",
                "tileloadd tmm6, [{t} + {line}*1]",
                "mov {t:e}, dword ptr [{step}]",
                "add {t}, {a0}",
                "tileloadd tmm4, [{t} + {line}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "mov {t:e}, dword ptr [{step} + 4]",
                "add {t}, {b1}",
                "tileloadd tmm7, [{t} + {line}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "mov {t:e}, dword ptr [{step}]",
                "add {t}, {a1}",
                "tileloadd tmm5, [{t} + {line}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {step}, 8",
                "cmp {step}, {end}",
                "jne 2b",
                "shl {line}, 1", // rows of 32 sums
                "tilestored [{sums} + {line}*1], tmm0",
                "tilestored [{sums} + {line}*1 + 64], tmm1",
                "tilestored [{sums} + {line}*1 + 2048], tmm2",
                "tilestored [{sums} + {line}*1 + 2112], tmm3",
                a0 = in(reg) a[0], a1 = in(reg) a[1], b0 = in(reg) b[0], b1 = in(reg) b[1], sums = in(reg) sums.0.as_mut_ptr(),
                step = inout(reg) range.start => _, end = in(reg) range.end, line = inout(reg) 64usize => _, t = out(reg) _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            )
        }
    }
}

/// Runs a convolution's task.
///
/// # Safety
/// The machine has AMX bf16 and AVX-512, and the system lets the process use the tiles; the task's sizes were checked.
#[target_feature(enable = "avx512f,avx2,fma")]
pub(super) unsafe fn convolution(task: &Task) {
    // SAFETY: the caller's contract.
    unsafe { tiles::run::<Bf16>(task) }
}

/// Runs a weight gradient's task.
///
/// # Safety
/// As for [`convolution`].
#[target_feature(enable = "avx512f,avx2,fma")]
pub(super) unsafe fn weight_gradient(task: &weight_grad::Task) {
    // SAFETY: the caller's contract.
    unsafe { weight_grad::run::<Bf16>(task) }
}

//! AMX int8 by `asm!`, whose intrinsics the stable compiler lacks. One block holds a whole tile's work: nobody keeps what is in tile registers between two.
//!
//! The tiles' 8 KiB of state must be asked for (arch_prctl, Linux 5.16). Once granted it is the process's for good, its threads' and its children's too, until
//! it executes another program. It makes the frames of signals larger: the request is refused while any thread has an alternate signal stack that is too small
//! for them (11,952 bytes on Sapphire Rapids; many programs still have 8,192), and afterwards nobody can install such a one. So it is made when the first plan
//! that computes with bytes is compiled and never at load, and as yet only where `FEWSTEP_ISA=amx` asks for it; refused, AVX-512 VNNI computes the same bits.

use super::super::simd::Avx512;
use super::task::{Sums, Task};
use super::tiles::{self, Tiles};
use std::arch::asm;
use std::sync::atomic::{AtomicU8, Ordering};

/// Whether the processor has the tiles and the system lets this process use them, which it is asked once.
pub(super) fn permitted() -> bool {
    const UNKNOWN: u8 = 0;
    const GRANTED: u8 = 1;
    const REFUSED: u8 = 2;
    static ANSWER: AtomicU8 = AtomicU8::new(UNKNOWN);
    let known = ANSWER.load(Ordering::Relaxed);
    if known != UNKNOWN {
        return known == GRANTED;
    }
    let answer = if has_tiles() && request() == 0 { GRANTED } else { REFUSED };
    // Threads that ask at once all hear what the first of them was told. Nobody waits.
    match ANSWER.compare_exchange(UNKNOWN, answer, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => answer == GRANTED,
        Err(first) => first == GRANTED,
    }
}

/// AMX-TILE and AMX-INT8 (Intel's manual, volume 2A, CPUID leaf 7, bits 24 and 25 of EDX).
fn has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    #[allow(unused_unsafe)] // safe in later versions of the compiler
    // SAFETY: every x86-64 processor has the instruction; leaf 7 is asked for where there is one.
    unsafe {
        __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx >> 24 & 3 == 3
    }
}

/// arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA): 0, or the error's number, negative.
fn request() -> isize {
    let mut answer: isize = 158; // arch_prctl
    // SAFETY: a system call that touches no memory of ours; the kernel overwrites rcx and r11.
    unsafe { asm!("syscall", inlateout("rax") answer, in("rdi") 0x1023, in("rsi") 18, lateout("rcx") _, lateout("r11") _, options(nostack)) };
    answer
}

/// Palette 1, all eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config([u8; 64]);

static CONFIG: Config = {
    let mut c = [0; 64];
    c[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        c[16 + 2 * tile] = 64;
        c[48 + tile] = 16;
        tile += 1;
    }
    Config(c)
};

/// The processor's tiles.
struct Registers;

impl Tiles for Registers {
    type Floats = Avx512;

    #[inline(always)]
    unsafe fn begin() {
        // SAFETY: 64 bytes of a valid configuration; the process may use the tiles.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, readonly)) }
    }

    #[inline(always)]
    unsafe fn multiply(a: [*const u8; 2], stride: usize, offsets: &[u32], b: *const i8, sums: &mut Sums) {
        let range = offsets.as_ptr_range();
        // SAFETY: the caller's: the tiles are configured, every offset is that of 16 rows of 64 bytes in `staged`, the panel has 2 KiB for each; `sums` has 4 KiB.
        unsafe {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "2:",
                "mov {t:e}, dword ptr [{step}]",
                "tileloadd tmm6, [{b} + {line}*1]",
                "add {t}, {a0}",
                "tileloadd tmm4, [{t} + {stride}*1]",
                "tdpbusd tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {line}*1 + 1024]",
                "tdpbusd tmm1, tmm4, tmm7",
                "mov {t:e}, dword ptr [{step}]",
                "add {t}, {a1}",
                "tileloadd tmm5, [{t} + {stride}*1]",
                "tdpbusd tmm2, tmm5, tmm6",
                "tdpbusd tmm3, tmm5, tmm7",
                "add {step}, 4",
                "add {b}, 2048",
                "cmp {step}, {end}",
                "jne 2b",
                "shl {line}, 1", // rows of 32 sums
                "tilestored [{sums} + {line}*1], tmm0",
                "tilestored [{sums} + {line}*1 + 64], tmm1",
                "tilestored [{sums} + {line}*1 + 2048], tmm2",
                "tilestored [{sums} + {line}*1 + 2112], tmm3",
                a0 = in(reg) a[0], a1 = in(reg) a[1], stride = in(reg) stride, sums = in(reg) sums.0.as_mut_ptr(),
                step = inout(reg) range.start => _, end = in(reg) range.end, b = inout(reg) b => _, line = inout(reg) 64usize => _, t = out(reg) _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack)
            )
        }
    }

    #[inline(always)]
    unsafe fn end() {
        // SAFETY: tiles that are in use are saved at every context switch; these are done with.
        unsafe { asm!("tilerelease", options(nomem, nostack)) }
    }
}

/// Runs a task.
///
/// # Safety
/// The machine has AMX int8 and AVX-512, and [`permitted`] was true; the task's sizes were checked.
#[target_feature(enable = "avx512f,avx2,fma")]
pub(super) unsafe fn amx(task: &Task) {
    // SAFETY: the caller's contract.
    unsafe { tiles::run::<Registers>(task) }
}

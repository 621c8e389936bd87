//! AMX by `asm!`, whose intrinsics the stable compiler lacks. One block holds a whole tile's work: nobody keeps what is in tile registers between two.
//!
//! The tiles' 8 KiB of state must be asked for (arch_prctl, Linux 5.16). Once granted it is the process's for good, its threads' and its children's too, until
//! it executes another program. It makes the frames of signals larger: the request is refused while any thread has an alternate signal stack that is too small
//! for them (11,952 bytes on Sapphire Rapids; many programs still have 8,192), and afterwards nobody can install such a one. So it is never made at load: for
//! bytes when a plan is compiled one of whose layers fills tiles (refused, or forbidden by `FEWSTEP_ISA`, a lower set computes the same bits); for bf16 when
//! somebody wants a plan of it, which nothing but tiles can compute.

use super::super::simd::{Avx512, Isa};
use super::task::{Sums, Task};
use super::tiles::{self, Tiles};
use std::arch::asm;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What tiles can multiply, by the bit of EDX that says so (Intel's manual, volume 2A, CPUID leaf 7).
#[derive(Clone, Copy, Debug)]
pub(in super::super) enum Products {
    /// tdpbusd.
    Bytes = 25,
    /// tdpbf16ps.
    Bf16 = 22,
}

/// Whether the processor has such tiles and the system can give them, and there are the vectors for what comes before and after. It asks for nothing.
pub(in super::super) fn has(products: Products) -> bool {
    const TILES: u32 = 24;
    let edx = features();
    Isa::Avx512.available() && edx >> TILES & edx >> products as u32 & 1 == 1 && knows_tiles()
}

const UNKNOWN: u8 = 0;
const GRANTED: u8 = 1;
const REFUSED: u8 = 2;
/// What the system has answered.
static ANSWER: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Whether the system was asked for tiles and gave none.
pub(in super::super) fn refused() -> bool {
    ANSWER.load(Ordering::Relaxed) == REFUSED
}

/// Whether the system lets this process use tiles, which it is asked once, on a processor that has them.
pub(in super::super) fn permitted() -> bool {
    let known = ANSWER.load(Ordering::Relaxed);
    if known != UNKNOWN {
        return known == GRANTED;
    }
    let answer = if request() == 0 { GRANTED } else { REFUSED };
    // Threads that ask at once all hear what the first of them was told. Nobody waits.
    match ANSWER.compare_exchange(UNKNOWN, answer, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => answer == GRANTED,
        Err(first) => first == GRANTED,
    }
}

/// EDX of CPUID leaf 7; 0 where there is none. Read once: a virtual machine is left for it, and plans ask for each of their kernels.
fn features() -> u32 {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const UNKNOWN: u64 = u64::MAX;
    static EDX: AtomicU64 = AtomicU64::new(UNKNOWN);
    let known = EDX.load(Ordering::Relaxed);
    if known != UNKNOWN {
        return known as u32;
    }
    #[allow(unused_unsafe)] // safe in later versions of the compiler
    // SAFETY: every x86-64 processor has the instruction; leaf 7 is asked for where there is one.
    let edx = unsafe { if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).edx } else { 0 } };
    EDX.store(edx.into(), Ordering::Relaxed);
    edx
}

/// The state of the tiles themselves, as the system numbers it (XFEATURE_XTILEDATA); that of their configuration is the number below.
const TILE_DATA: usize = 18;

/// Whether the system has states of tiles to give: one that is older than Linux 5.16, or a sandbox that knows no such call, has none.
fn knows_tiles() -> bool {
    let mut states = 0u64;
    arch_prctl(0x1021, &raw mut states as usize) == 0 && states >> (TILE_DATA - 1) & 3 == 3
}

/// Asks for the tiles: 0, or the error's number, negative.
fn request() -> isize {
    arch_prctl(0x1023, TILE_DATA)
}

/// The system call: ARCH_GET_XCOMP_SUPP (0x1021), to which the address of 8 bytes is given, or ARCH_REQ_XCOMP_PERM (0x1023), which gets a number.
fn arch_prctl(code: usize, argument: usize) -> isize {
    let mut answer: isize = 158; // its number
    // SAFETY: it writes no memory but 8 bytes of the caller's; the kernel overwrites rcx and r11.
    unsafe { asm!("syscall", inlateout("rax") answer, in("rdi") code, in("rsi") argument, lateout("rcx") _, lateout("r11") _, options(nostack)) };
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

/// Configures all tiles.
///
/// # Safety
/// The process may use them.
#[inline(always)]
pub(in super::super) unsafe fn begin() {
    // SAFETY: 64 bytes of a valid configuration; the caller's contract.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &CONFIG, options(nostack, readonly)) }
}

/// Gives them back: tiles that are in use are saved at every context switch.
///
/// # Safety
/// As for [`begin`].
#[inline(always)]
pub(in super::super) unsafe fn end() {
    // SAFETY: these are done with.
    unsafe { asm!("tilerelease", options(nomem, nostack)) }
}

/// The processor's tiles, with an instruction for their products.
macro_rules! registers { ($name:ident, $dot:literal, $floats:literal) => {
pub(in super::super) struct $name;

impl Tiles for $name {
    type Floats = Avx512;
    const FLOATS: bool = $floats;

    #[inline(always)]
    unsafe fn begin() {
        // SAFETY: the caller's contract.
        unsafe { begin() }
    }

    #[inline(always)]
    unsafe fn multiply(a: [*const u8; 2], stride: usize, offsets: &[u32], b: *const i8, sums: &mut Sums) {
        let range = offsets.as_ptr_range();
        // SAFETY: the caller's: the tiles are configured, every offset is that of 16 rows of 64 bytes in `staged`, the panel has 2 KiB for each; `sums` has 4
        // KiB.
        unsafe {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "2:",
                "mov {t:e}, dword ptr [{step}]",
                "tileloadd tmm6, [{b} + {line}*1]",
                "add {t}, {a0}",
                "tileloadd tmm4, [{t} + {stride}*1]",
                concat!($dot, " tmm0, tmm4, tmm6"),
                "tileloadd tmm7, [{b} + {line}*1 + 1024]",
                concat!($dot, " tmm1, tmm4, tmm7"),
                "mov {t:e}, dword ptr [{step}]",
                "add {t}, {a1}",
                "tileloadd tmm5, [{t} + {stride}*1]",
                concat!($dot, " tmm2, tmm5, tmm6"),
                concat!($dot, " tmm3, tmm5, tmm7"),
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
        // SAFETY: the caller's contract.
        unsafe { end() }
    }
}
} }
registers!(Bytes, "tdpbusd", false);
registers!(Bf16, "tdpbf16ps", true);

/// Runs a task.
///
/// # Safety
/// The machine has AMX int8 and AVX-512, and [`permitted`] was true; the task's sizes were checked.
#[target_feature(enable = "avx512f,avx2,fma")]
pub(super) unsafe fn amx(task: &Task) {
    // SAFETY: the caller's contract.
    unsafe { tiles::run::<Bytes>(task) }
}

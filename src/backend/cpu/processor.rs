//! What the processor is, for people who choose a device.

use super::kernels::int8::Set;
use super::kernels::pool::MAX_THREADS;
use super::kernels::{bf16, simd::Isa};

/// Threads that run at once: what the process may use, not what the machine has, and no more than a pool takes.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
}

/// The instruction sets of floats, bytes and bf16, as far as they differ; what has tiles counts as having them.
pub fn instructions() -> String {
    let (floats, bytes) = (Isa::detect().name(), Set::possible().name());
    let bf16 = bf16::Kernel::is_possible().then_some("AMX bf16");
    [Some(floats), Some(bytes).filter(|bytes| *bytes != floats), bf16].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The name that the processor gives itself; the architecture where it gives none.
pub fn name() -> String {
    brand().unwrap_or_else(|| format!("{} processor", std::env::consts::ARCH))
}

/// Three leaves of 16 characters (AMD64 Architecture Programmer's Manual, volume 3, CPUID functions 8000_0002h to 8000_0004h; Intel's are the same).
#[cfg(target_arch = "x86_64")]
fn brand() -> Option<String> {
    use std::arch::x86_64::__cpuid;
    #[allow(unused_unsafe)] // safe in later versions of the compiler
    // SAFETY: every x86-64 processor has the instruction; it answers leaves that it lacks with what means nothing, so the largest one is asked for first.
    let leaf = |number| unsafe { __cpuid(number) };
    if leaf(0x8000_0000).eax < 0x8000_0004 {
        return None;
    }
    let registers = (0x8000_0002..=0x8000_0004).map(leaf).flat_map(|answer| [answer.eax, answer.ebx, answer.ecx, answer.edx]);
    let bytes: Vec<u8> = registers.flat_map(u32::to_le_bytes).take_while(|byte| *byte != 0).collect();
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(not(target_arch = "x86_64"))]
fn brand() -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_name_of_one_line() {
        let name = name();
        assert!(!name.is_empty() && name.trim() == name && !name.contains(char::is_control), "{name:?}");
        assert!(threads() >= 1);
        assert!(instructions().starts_with(Isa::detect().name()) && instructions().contains(Set::possible().name()), "{}", instructions());
    }
}

//! The GPU that launches are chosen for.

use super::tuning::Tuning;

/// The first compute capability whose tensor cores multiply bf16 (PTX ISA, mma).
pub(super) const BF16_CAPABILITY: u32 = 80;

/// What launches are chosen for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// Compute capability times ten.
    pub capability: u32,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
}

impl Target {
    /// How work is cut for it.
    pub fn tuning(self) -> &'static Tuning {
        Tuning::of(self.capability)
    }
}

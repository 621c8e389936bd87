//! What a plan for this backend is made for.

use super::kernels::int8::Set;
use super::kernels::simd::Isa;

/// What kernels are compiled for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// Instruction set.
    pub isa: Isa,
    /// That of whole numbers; `None` for this machine's best, which is found where a plan first needs it.
    pub set: Option<Set>,
    /// Compute threads: how many chunks can run at once. No result depends on it.
    pub threads: usize,
}

impl Target {
    /// The instruction set of whole numbers.
    pub fn set(self) -> Set {
        self.set.unwrap_or_else(Set::detect)
    }
}

//! What a plan for this backend is made for, and what the passes ask of it.

use super::kernels::simd::Isa;

pub(super) use super::conv2d::packed_len;

/// What kernels are compiled for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// Instruction set.
    pub isa: Isa,
    /// Compute threads: how many chunks can run at once. No result depends on it.
    pub threads: usize,
}

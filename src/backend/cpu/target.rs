//! What a plan for this backend is made for.

use super::kernels::bf16;
use super::kernels::conv::ConvShape;
use super::kernels::int8::{self, Set};
use super::kernels::simd::Isa;
use crate::error::Result;

/// What kernels are compiled for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// Instruction set.
    pub isa: Isa,
    /// That of whole numbers; `None` for this machine's best, which is found where a plan first needs it.
    pub set: Option<Set>,
    /// What multiplies bf16; `None` for this machine's, which is found, and asked for, where a plan first needs it.
    pub tiles: Option<&'static bf16::Kernel>,
    /// Compute threads: how many chunks can run at once. No result depends on it.
    pub threads: usize,
}

impl Target {
    /// What multiplies the whole numbers of a shape.
    pub fn int8(self, shape: &ConvShape) -> &'static int8::Kernel {
        self.set.map_or_else(|| int8::Kernel::detect(shape), |set| int8::Kernel::of(set, shape))
    }

    /// What multiplies bf16, or why nothing does.
    pub fn tiles(self) -> Result<&'static bf16::Kernel> {
        self.tiles.map_or_else(bf16::Kernel::detect, Ok)
    }
}

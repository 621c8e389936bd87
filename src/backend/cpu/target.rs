//! What a plan for this backend is made for, and what it answers to the passes.

use super::conv2d;
use super::group_norm;
use super::kernels::simd::Isa;
use crate::graph::{Op, TensorType};

/// What kernels are compiled for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// Instruction set.
    pub isa: Isa,
    /// Compute threads: how many chunks can run at once. No result depends on it.
    pub threads: usize,
}

impl crate::graph::Target for Target {
    fn accepts(&self, op: &Op, types: &[&TensorType]) -> bool {
        match op {
            Op::FusedConv2d(op) => conv2d::accepts(op, types),
            Op::FusedGroupNorm(op) => group_norm::accepts(op),
            _ => true,
        }
    }

    fn packed(&self, op: &Op, types: &[&TensorType]) -> Option<TensorType> {
        conv2d::packed(op, types, self.isa)
    }
}

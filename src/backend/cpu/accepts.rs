//! What the backend answers to the passes.

use super::target::Target;
use super::{conv2d, group_norm, quantized_conv2d};
use crate::graph::{Op, Packed, TensorType};

impl crate::graph::Target for Target {
    fn accepts(&self, op: &Op, types: &[&TensorType]) -> bool {
        match op {
            Op::FusedConv2d(op) if op.quantized.is_some() => quantized_conv2d::accepts(op, types),
            Op::FusedConv2d(op) => conv2d::accepts(op, types),
            Op::FusedGroupNorm(op) => group_norm::accepts(op),
            _ => true,
        }
    }

    fn packed(&self, op: &Op, types: &[&TensorType]) -> Option<Packed> {
        match op {
            Op::FusedConv2d(op) if op.quantized.is_some() => quantized_conv2d::packed(op, types, *self),
            op => conv2d::packed(op, types, self.isa),
        }
    }
}

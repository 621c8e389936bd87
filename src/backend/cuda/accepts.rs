//! What the backend answers to the passes.

use super::target::Target;
use super::{conv2d, group_norm, quantized_conv2d};
use crate::graph::{Op, Packed, TensorType};

impl crate::graph::Target for Target {
    fn accepts(&self, op: &Op, types: &[&TensorType]) -> bool {
        match op {
            Op::FusedConv2d(op) if op.quantized.is_some() => quantized_conv2d::accepts(op, types, *self),
            Op::FusedConv2d(op) => conv2d::accepts(op, types, *self),
            Op::FusedGroupNorm(op) => group_norm::accepts(op, types, *self),
            _ => true,
        }
    }

    fn packed(&self, op: &Op, types: &[&TensorType]) -> Option<Packed> {
        let packed = match op {
            Op::FusedConv2d(op) if op.quantized.is_some() => quantized_conv2d::packed(op, types),
            op => conv2d::packed(op, types),
        };
        packed.map(Packed::from)
    }
}

//! What the backend answers to the passes.

use super::target::Target;
use super::{conv2d, group_norm, quantized_conv2d};
use crate::error::Result;
use crate::graph::ops::FusedConv2d;
use crate::graph::{Narrowing, Op, Packed, TensorType};
use crate::tensor::DType;

impl crate::graph::Target for Target {
    fn accepts(&self, op: &Op, types: &[&TensorType]) -> bool {
        match op {
            Op::FusedConv2d(FusedConv2d { bf16: true, .. }) => false,
            Op::FusedConv2d(op) if op.quantized.is_some() => quantized_conv2d::accepts(op, types, *self),
            Op::FusedConv2d(op) => conv2d::accepts(op, types, *self),
            Op::FusedGroupNorm(op) => group_norm::accepts(op, types, *self),
            _ => true,
        }
    }

    fn narrowing(&self, _: DType) -> Result<Narrowing> {
        Ok(Narrowing::Activations)
    }

    fn packed(&self, op: &Op, types: &[&TensorType]) -> Option<Packed> {
        let packed = match op {
            Op::FusedConv2d(op) if op.quantized.is_some() => quantized_conv2d::packed(op, types),
            op => conv2d::packed(op, types),
        };
        packed.map(Packed::from)
    }
}

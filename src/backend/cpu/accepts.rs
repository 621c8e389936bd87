//! What the backend answers to the passes.

use super::target::Target;
use super::{bf16_conv2d, conv2d, group_norm, quantized_conv2d};
use crate::error::{Error, Result};
use crate::graph::ops::{Conv2dInputGrad, Conv2dWeightGrad, FusedConv2d};
use crate::graph::{Narrowing, Op, Packed, TensorType};
use crate::tensor::DType;

/// Whether an op rounds what it multiplies.
fn is_bf16(op: &Op) -> bool {
    matches!(
        op,
        Op::FusedConv2d(FusedConv2d { bf16: true, .. })
            | Op::Conv2dInputGrad(Conv2dInputGrad { bf16: true, .. })
            | Op::Conv2dWeightGrad(Conv2dWeightGrad { bf16: true, .. })
    )
}

impl crate::graph::Target for Target {
    fn accepts(&self, op: &Op, types: &[&TensorType]) -> bool {
        match op {
            op if is_bf16(op) => bf16_conv2d::accepts(op, types),
            Op::FusedConv2d(op) if op.quantized.is_some() => quantized_conv2d::accepts(op, types),
            Op::FusedConv2d(op) => conv2d::accepts(op, types),
            Op::FusedGroupNorm(op) => group_norm::accepts(op),
            _ => true,
        }
    }

    fn narrowing(&self, dtype: DType) -> Result<Narrowing> {
        match dtype {
            DType::Bf16 => self.tiles().map(|_| Narrowing::Products),
            other => Err(Error::unsupported(format!("the CPU backend has no products of {other:?}: use f32, bf16 on a CPU with AMX, or a CUDA device"))),
        }
    }

    fn packed(&self, op: &Op, types: &[&TensorType]) -> Option<Packed> {
        match op {
            op if is_bf16(op) => bf16_conv2d::packed(op, types, *self),
            Op::FusedConv2d(op) if op.quantized.is_some() => quantized_conv2d::packed(op, types, *self),
            op => conv2d::packed(op, types, self.isa),
        }
    }
}

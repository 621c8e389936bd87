//! A node as the ops' files see it.

use super::target::Target;
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::tensor::DType;

/// A node with the types of its values.
pub(super) struct Site<'a> {
    /// Types of the operands.
    pub inputs: Vec<&'a TensorType>,
    /// Types of the results.
    pub outputs: Vec<&'a TensorType>,
    /// What the launches are for.
    pub target: Target,
}

/// How kernels are named after the element type that they are for.
pub(super) fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::F16 => Ok("f16"),
        DType::Bf16 => Ok("bf16"),
        other => Err(Error::internal(format!("no kernel is named after {other:?}"))),
    }
}

impl Site<'_> {
    /// The name of the kernel for activations of the type of operand `i`.
    pub fn kernel(&self, base: &str, i: usize) -> Result<String> {
        Ok(format!("fewstep_{base}_{}", suffix(self.inputs[i].dtype)?))
    }
}

//! A node as the ops' files see it.

use super::launch::Launch;
use super::shared::run;
use super::target::Target;
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::tensor::DType;
use std::ops::Range;

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

/// Whether the kernels read a value that comes in these (`Sources` in cuda/parts/sources.cuh).
pub(super) fn takes_sources(types: &[&TensorType]) -> bool {
    let whole = |ty: &&TensorType| ty.shape.last().is_some_and(|c| (c * ty.dtype.size()).is_multiple_of(run::BYTES));
    types.len() == 1 || types.len() == 2 && types.iter().all(whole)
}

impl Site<'_> {
    /// A launch's first arguments for the value that comes in these operands, of whole runs: the first, the second or nothing, and the channels of the first.
    pub fn sources(&self, launch: Launch, at: &Range<usize>) -> Result<Launch> {
        if !takes_sources(&self.inputs[at.clone()]) {
            return Err(Error::unsupported(format!("{} values to be read as one", at.len())));
        }
        self.some_sources(launch, at)
    }

    /// The same for a kernel that takes at most two of any channels.
    pub fn some_sources(&self, launch: Launch, at: &Range<usize>) -> Result<Launch> {
        let channels = self.inputs[at.start].shape.last().copied().unwrap_or(1);
        launch.input(at.start).optional((at.len() > 1).then_some(at.start + 1)).int(channels)
    }

    /// The name of the kernel for activations of the type of operand `i`.
    pub fn kernel(&self, base: &str, i: usize) -> Result<String> {
        Ok(format!("fewstep_{base}_{}", suffix(self.inputs[i].dtype)?))
    }
}

use super::kernels::simd::Isa;
use super::lower::CpuKernel;
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::ops::{GroupNorm, GroupNormGrad};
pub(super) fn forward(_op: &GroupNorm, _x: &TensorType, _isa: Isa) -> Result<Box<dyn CpuKernel>> {
    Err(Error::unsupported("x"))
}
pub(super) fn grad(_op: &GroupNormGrad, _x: &TensorType, _isa: Isa) -> Result<Box<dyn CpuKernel>> {
    Err(Error::unsupported("x"))
}

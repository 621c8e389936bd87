//! Quantised numbers on `cuda/quantize.cu`.

use super::launch::{Launch, Lowered, Param};
use super::shared::elementwise::THREADS;
use super::shared::run;
use super::site::{Site, suffix};
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::ops::{Codes, Dequantize, FakeQuantize, FakeQuantizeGrad, Quantize};
use crate::tensor::DType;

/// Where the elements of x have their scales, as the kernels take it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cut {
    channels: i32,
    inner: i32,
}

// SAFETY: two i32, as `Cut` in cuda/quantize.cu.
unsafe impl Param for Cut {}

/// The numbers there are, as the kernels take them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    low: i32,
    high: i32,
}

// SAFETY: two i32, as `Range` in cuda/parts/rounding.cuh.
unsafe impl Param for Range {}

impl From<Codes> for Range {
    fn from(codes: Codes) -> Self {
        Self { low: codes.low, high: codes.high }
    }
}

/// How kernels are named after the type of the numbers.
fn code(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::I8 => Ok("i8"),
        DType::U8 => Ok("u8"),
        other => Err(Error::internal(format!("quantised numbers of {other:?}"))),
    }
}

/// A launch over all elements of x: x, scale, zero point.
fn launch(kernel: String, x: &TensorType) -> Result<Launch> {
    // A thread has a run of halves, whatever x's type.
    Ok(Launch::over(kernel, x.numel().div_ceil(run::BYTES / DType::F16.size()), THREADS)?.input(0).input(1).input(2))
}

/// The number of elements and where they have their scales, behind the addresses.
fn extent(launch: Launch, x: &TensorType, axis: Option<usize>) -> Result<Launch> {
    let sizes = axis.map_or([1, x.numel()], |axis| [x.shape[axis], x.shape[axis + 1..].iter().product()]);
    let launch = launch.int(x.numel())?;
    // Neither exceeds the number of elements.
    Ok(launch.value(Cut { channels: sizes[0] as i32, inner: sizes[1] as i32 }))
}

pub(super) fn quantize(op: &Quantize, site: &Site) -> Result<Lowered> {
    let x = site.inputs[0];
    let kernel = format!("fewstep_quantize_{}_{}", suffix(x.dtype)?, code(op.codes.dtype)?);
    Ok(extent(launch(kernel, x)?.output(0), x, op.axis)?.value(Range::from(op.codes)).into())
}

pub(super) fn dequantize(op: &Dequantize, site: &Site) -> Result<Lowered> {
    let q = site.inputs[0];
    Ok(extent(launch(format!("fewstep_dequantize_{}", code(q.dtype)?), q)?.output(0), q, op.axis)?.into())
}

pub(super) fn fake_quantize(op: &FakeQuantize, site: &Site) -> Result<Lowered> {
    let x = site.inputs[0];
    let kernel = format!("fewstep_fake_quantize_{}_{}", suffix(x.dtype)?, code(op.codes.dtype)?);
    Ok(extent(launch(kernel, x)?.output(0), x, op.axis)?.value(Range::from(op.codes)).into())
}

pub(super) fn fake_quantize_grad(op: &FakeQuantizeGrad, site: &Site) -> Result<Lowered> {
    let x = site.inputs[0];
    let kernel = format!("fewstep_fake_quantize_grad_{}_{}", suffix(x.dtype)?, code(op.codes.dtype)?);
    Ok(extent(launch(kernel, x)?.input(3).output(0).output(1), x, op.axis)?.value(Range::from(op.codes)).value(op.scale_gradient).into())
}

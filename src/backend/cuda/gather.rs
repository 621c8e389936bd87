//! Row look-ups on `cuda/gather.cu`.

use super::launch::{Launch, Lowered};
use super::shared::gather::THREADS;
use super::site::Site;
use crate::error::{Error, Result};
use crate::graph::ops::{GatherGrad, IntAffine};
use crate::tensor::DType;

pub(super) fn gather(site: &Site) -> Result<Lowered> {
    let (table, n) = (site.inputs[0], site.outputs[0].numel());
    let kernel = match table.dtype {
        DType::F32 | DType::I32 => "fewstep_gather_32",
        DType::F16 => "fewstep_gather_f16_f32",
        other => return Err(Error::unsupported(format!("tables of {other:?}"))),
    };
    let launch = Launch::over(kernel, n, THREADS)?.input(0).input(1).output(0).int(n)?;
    Ok(launch.int(table.numel() / table.shape[0])?.int(table.shape[0])?.into())
}

pub(super) fn gather_grad(op: &GatherGrad, site: &Site) -> Result<Lowered> {
    let (dy, n) = (site.inputs[0], site.outputs[0].numel());
    let launch = Launch::over("fewstep_gather_grad_f32", n, THREADS)?.input(0).input(1).output(0).int(n)?;
    Ok(launch.int(dy.numel() / dy.shape[0])?.int(op.rows)?.int(dy.shape[0])?.into())
}

pub(super) fn int_affine(op: &IntAffine, site: &Site) -> Result<Lowered> {
    let n = site.outputs[0].numel();
    let step = i32::from(site.inputs[0].numel() == n);
    Ok(Launch::over("fewstep_int_affine_i32", n, THREADS)?.input(0).input(1).output(0).int(n)?.value(step).value(op.scale).value(op.shift).into())
}

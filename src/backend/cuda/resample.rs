//! Doubling and halving of images on `cuda/resample.cu`.

use super::launch::{Launch, Lowered};
use super::shape::Unit;
use super::shared::resample::THREADS;
use super::shared::run;
use super::site::Site;
use crate::error::Result;

pub(super) fn upsample(site: &Site) -> Result<Lowered> {
    let x = site.inputs[0];
    let channels = x.shape[3] * x.dtype.size();
    let unit = Unit::of([channels])?;
    let units = unit.count(x.bytes());
    let launch = Launch::over(unit.kernel("upsample2x"), units, THREADS)?.input(0).output(0).int(units)?;
    Ok(launch.int(x.shape[2])?.int(unit.count(channels))?.into())
}

pub(super) fn avg_pool(site: &Site) -> Result<Lowered> {
    let y = site.outputs[0];
    let most = run::BYTES / y.dtype.size();
    let run = if y.shape[3].is_multiple_of(most) { most } else { 1 };
    let launch = Launch::over(site.kernel("avg_pool2x", 0)?, y.numel() / run, THREADS)?.input(0).output(0);
    Ok(launch.int(y.numel())?.int(y.shape[2])?.int(y.shape[3])?.int(run)?.into())
}

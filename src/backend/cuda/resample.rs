//! Doubling and halving of images on `cuda/resample.cu`.

use super::launch::{Launch, Lowered};
use super::lower::Site;
use crate::error::Result;

const THREADS: u32 = 256;

pub(super) fn upsample(site: &Site) -> Result<Lowered> {
    // The kernel takes the operand's height and width.
    resample("upsample2x", site, &site.inputs[0].shape)
}

pub(super) fn avg_pool(site: &Site) -> Result<Lowered> {
    // The kernel takes the result's height and width.
    resample("avg_pool2x", site, &site.outputs[0].shape)
}

fn resample(kernel: &str, site: &Site, small: &[usize]) -> Result<Lowered> {
    let n = site.outputs[0].numel();
    let launch = Launch::over(site.kernel(kernel, 0)?, n, THREADS)?.input(0).output(0);
    Ok(launch.int(n)?.int(small[1])?.int(small[2])?.int(small[3])?.into())
}

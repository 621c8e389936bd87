//! Philox noise and integers on `cuda/random.cu`.

use super::launch::{Launch, Lowered};
use super::shared::random::THREADS;
use super::site::Site;
use crate::error::{Error, Result};
use crate::graph::ops::{RandomInt, RandomNormal};

pub(super) fn normal(op: &RandomNormal, site: &Site) -> Result<Lowered> {
    let [h, w, c] = op.image;
    let samples = site.inputs[2].numel();
    if i32::try_from(h * w * c + 3).is_err() {
        return Err(Error::unsupported(format!("noise of {h}x{w}x{c} numbers an image is too large for the CUDA backend")));
    }
    let blocks = (h * w * c).div_ceil(4);
    let launch = Launch::over("fewstep_random_normal_f32", samples * blocks, THREADS)?.input(0).input(1).input(2).output(0);
    Ok(launch.int(samples * blocks)?.int(blocks)?.int(h * w)?.int(c)?.value(op.purpose as i32).into())
}

pub(super) fn integers(op: &RandomInt) -> Result<Lowered> {
    let launch = Launch::over("fewstep_random_int_i32", op.count, THREADS)?.input(0).input(1).input(2).output(0);
    Ok(launch.int(op.count)?.value(op.bound).int(op.stream)?.value(op.purpose as i32).into())
}

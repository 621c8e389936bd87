//! Linear combinations and dynamic thresholding on `cuda/combine.cu`.

use super::launch::{Arg, Launch, Lowered};
use super::shared::combine::{MOST_VALUES, THREADS};
use super::site::Site;
use crate::error::{Error, Result};
use crate::graph::ops::{Combine, DynamicThreshold};

pub(super) fn combine(op: &Combine, site: &Site) -> Result<Lowered> {
    let (coef, value) = (&site.inputs[0].shape, site.outputs[0]);
    let count = site.inputs.len() - 1;
    if count > MOST_VALUES {
        return Err(Error::unsupported(format!("combines {count} values; at most {MOST_VALUES}")));
    }
    let n = value.numel();
    let values = (1..=MOST_VALUES).map(|j| if j <= count { Arg::Input(j) } else { Arg::Null }).collect();
    let step = if coef[0] == 1 { 0 } else { coef[1] };
    let launch = Launch::over("fewstep_combine_f32", n, THREADS)?.input(0).arg(Arg::Struct(values)).output(0);
    Ok(launch.int(n)?.int(n / value.shape[0])?.int(op.first)?.int(step)?.int(count)?.into())
}

pub(super) fn dynamic_threshold(op: &DynamicThreshold, site: &Site) -> Result<Lowered> {
    let x = site.inputs[0];
    let row = x.numel() / x.shape[0];
    let at = op.ratio * (row - 1) as f64;
    let launch = Launch::new("fewstep_dynamic_threshold_f32", [x.shape[0], 1, 1], THREADS)?.input(0).output(0);
    Ok(launch.int(row)?.int(at.floor() as usize)?.value((at - at.floor()) as f32).value(op.max as f32).into())
}

//! Ops that move data, on `cuda/shape.cu`.

use super::launch::{Arg, Launch, Lowered};
use super::lower::Site;
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::ops::{Pad, Slice};

const THREADS: u32 = 256;
/// Parts that one concatenation kernel takes.
const MOST_PARTS: usize = 8;

fn width(ty: &TensorType) -> usize {
    ty.shape.last().copied().unwrap_or(1)
}

/// The kernel for elements of so many bits.
fn kernel(base: &str, site: &Site) -> String {
    format!("fewstep_{base}_{}", 8 * site.inputs[0].dtype.size())
}

pub(super) fn concat(site: &Site) -> Result<Lowered> {
    let parts = site.inputs.len();
    if parts > MOST_PARTS {
        return Err(Error::unsupported(format!("joins {parts} values; at most {MOST_PARTS}")));
    }
    let n = site.outputs[0].numel();
    let launch = Launch::over(kernel("concat", site), n, THREADS)?;
    let mut fields: Vec<Arg> = (0..MOST_PARTS).map(|i| if i < parts { Arg::Input(i) } else { Arg::Null }).collect();
    let mut widths = [0i32; MOST_PARTS];
    // Fits: each is a part of the result's width, which `int` checks.
    widths.iter_mut().zip(&site.inputs).for_each(|(w, ty)| *w = width(ty) as i32);
    fields.push(Arg::of(widths));
    Ok(launch.arg(Arg::Struct(fields)).output(0).int(n)?.int(width(site.outputs[0]))?.into())
}

pub(super) fn slice(op: &Slice, site: &Site) -> Result<Lowered> {
    window(site, i64::try_from(op.start).unwrap_or(i64::MAX))
}

pub(super) fn pad(op: &Pad, site: &Site) -> Result<Lowered> {
    window(site, -i64::try_from(op.before).unwrap_or(i64::MAX))
}

/// The operand read from column `start` on, zeros outside.
fn window(site: &Site, start: i64) -> Result<Lowered> {
    let n = site.outputs[0].numel();
    let start = i32::try_from(start).map_err(|_| Error::unsupported(format!("column {start} does not fit 32 bits")))?;
    let launch = Launch::over(kernel("window", site), n, THREADS)?.input(0).output(0).int(n)?;
    Ok(launch.int(width(site.inputs[0]))?.int(width(site.outputs[0]))?.value(start).into())
}

/// The last operand's contents into the storage.
pub(super) fn assign(site: &Site) -> Result<Lowered> {
    let n = site.outputs[0].bytes() / 4;
    if !site.outputs[0].bytes().is_multiple_of(4) {
        return Err(Error::unsupported(format!("copies words of four bytes, found {:?} {:?}", site.outputs[0].dtype, site.outputs[0].shape)));
    }
    Ok(Launch::over("fewstep_copy_32", n, THREADS)?.input(1).output(0).int(n)?.into())
}

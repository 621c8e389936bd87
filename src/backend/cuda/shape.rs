//! Ops that move data, on `cuda/shape.cu`: in the widest units that fit.

use super::launch::{Arg, Launch, Lowered};
use super::shared::shape::{MOST_PARTS, THREADS, UNITS};
use super::site::Site;
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::ops::{Pad, Slice};

/// What a kernel that only moves data moves at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Unit {
    bytes: usize,
}

impl Unit {
    /// The widest that divides all these lengths in bytes. Tensors begin at multiples of all.
    pub fn of(lengths: impl IntoIterator<Item = usize> + Clone) -> Result<Self> {
        let fits = |bytes: &usize| lengths.clone().into_iter().all(|length| length.is_multiple_of(*bytes));
        let bytes = [16, 4, 2].into_iter().find(fits);
        bytes.map(|bytes| Self { bytes }).ok_or_else(|| Error::unsupported("elements of one byte are not moved by the CUDA backend"))
    }

    /// The kernel for units of this size.
    pub fn kernel(self, base: &str) -> String {
        format!("fewstep_{base}_{}", 8 * self.bytes)
    }

    /// A length in units.
    pub fn count(self, bytes: usize) -> usize {
        bytes / self.bytes
    }
}

/// Bytes of a row.
fn row(ty: &TensorType) -> usize {
    ty.shape.last().copied().unwrap_or(1) * ty.dtype.size()
}

fn launch(base: &str, unit: Unit, units: usize) -> Result<Launch> {
    Launch::over(unit.kernel(base), units.div_ceil(UNITS), THREADS)
}

pub(super) fn concat(site: &Site) -> Result<Lowered> {
    let parts = site.inputs.len();
    if parts > MOST_PARTS {
        return Err(Error::unsupported(format!("joins {parts} values; at most {MOST_PARTS}")));
    }
    let unit = Unit::of(site.inputs.iter().map(|ty| row(ty)))?;
    let units = unit.count(site.outputs[0].bytes());
    let mut fields: Vec<Arg> = (0..MOST_PARTS).map(|i| if i < parts { Arg::Input(i) } else { Arg::Null }).collect();
    let mut widths = [0i32; MOST_PARTS];
    // Fits: each is a part of the result's width, which `int` checks.
    widths.iter_mut().zip(&site.inputs).for_each(|(w, ty)| *w = unit.count(row(ty)) as i32);
    fields.push(Arg::of(widths));
    Ok(launch("concat", unit, units)?.arg(Arg::Struct(fields)).output(0).int(units)?.int(unit.count(row(site.outputs[0])))?.into())
}

pub(super) fn slice(op: &Slice, site: &Site) -> Result<Lowered> {
    window(site, op.start, 1)
}

pub(super) fn pad(op: &Pad, site: &Site) -> Result<Lowered> {
    window(site, op.before, -1)
}

/// The operand read from `away` columns after (sign 1) or before (-1) its first, zeros outside.
fn window(site: &Site, away: usize, sign: i32) -> Result<Lowered> {
    let (from, to) = (row(site.inputs[0]), row(site.outputs[0]));
    // Within one of the rows, whose length fits.
    let away = away * site.inputs[0].dtype.size();
    let unit = Unit::of([from, to, away])?;
    let units = unit.count(site.outputs[0].bytes());
    let start = i32::try_from(unit.count(away)).map_err(|_| Error::unsupported(format!("a row of {away} bytes is too long")))?;
    let launch = launch("window", unit, units)?.input(0).output(0).int(units)?;
    Ok(launch.int(unit.count(from))?.int(unit.count(to))?.value(sign * start).into())
}

/// The last operand's contents into the storage.
pub(super) fn assign(site: &Site) -> Result<Lowered> {
    let bytes = site.outputs[0].bytes();
    let unit = Unit::of([bytes])?;
    let units = unit.count(bytes);
    Ok(launch("copy", unit, units)?.input(1).output(0).int(units)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_divide_every_row() {
        let kernel = |lengths: &[usize]| Unit::of(lengths.iter().copied()).map(|unit| unit.kernel("concat"));
        assert_eq!(kernel(&[128, 256]).unwrap(), "fewstep_concat_128", "rows of 64 and 128 halves");
        assert_eq!(kernel(&[128, 24]).unwrap(), "fewstep_concat_32");
        assert_eq!(kernel(&[128, 6]).unwrap(), "fewstep_concat_16", "three halves");
        assert!(kernel(&[128, 3]).is_err());
    }
}

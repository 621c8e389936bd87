//! Rows of tables by index, and the arithmetic of indices, which are 64 bits wide in files.

use super::lowering::Lowering;
use super::writer::int;
use crate::error::Result;
use crate::graph::ValueId;
use crate::graph::ops::IntAffine;

pub(super) fn lower(l: &mut Lowering, [table, index]: [ValueId; 2], y: ValueId) -> Result<()> {
    let (table, index) = (l.rows(table)?, l.rows(index)?);
    let name = l.emit("Gather", &[&table, &index], vec![int("axis", 0)], y)?;
    l.set_rows(y, name)
}

/// scale a + b + shift.
pub(super) fn int_affine(l: &mut Lowering, op: &IntAffine, [a, b]: [ValueId; 2], y: ValueId) -> Result<()> {
    let (a, b) = (l.rows(a)?, l.rows(b)?);
    let (scale, shift) = (l.writer.whole(op.scale.into())?, l.writer.whole(op.shift.into())?);
    let product = l.emit("Mul", &[&a, &scale], vec![], y)?;
    let sum = l.emit("Add", &[&product, &b], vec![], y)?;
    let name = l.emit("Add", &[&sum, &shift], vec![], y)?;
    l.set_rows(y, name)
}

//! Ops along the last axis, the channels.

use super::lowering::Lowering;
use super::writer::int;
use crate::error::Result;
use crate::graph::ValueId;
use crate::graph::ops::{Pad, Slice};

/// Where the channels are.
fn axis(first: bool) -> i64 {
    if first { 1 } else { -1 }
}

pub(super) fn concat(l: &mut Lowering, inputs: &[ValueId], y: ValueId) -> Result<()> {
    let (names, first) = l.alike(inputs)?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let name = l.emit("Concat", &names, vec![int("axis", axis(first))], y)?;
    l.set_alike(y, first, name)
}

pub(super) fn slice(l: &mut Lowering, op: &Slice, x: ValueId, y: ValueId) -> Result<()> {
    let (x, first) = l.alike(&[x])?;
    let (start, end, axis) = (l.table_of(&[op.start as i64])?, l.table_of(&[(op.start + op.len) as i64])?, l.table_of(&[axis(first)])?);
    let name = l.emit("Slice", &[&x[0], &start, &end, &axis], vec![], y)?;
    l.set_alike(y, first, name)
}

pub(super) fn pad(l: &mut Lowering, op: &Pad, x: ValueId, y: ValueId) -> Result<()> {
    let (x, first) = l.alike(&[x])?;
    let (pads, zero, axis) = (l.table_of(&[op.before as i64, op.after as i64])?, l.scalar(0.0)?, l.table_of(&[axis(first)])?);
    let name = l.emit("Pad", &[&x[0], &pads, &zero, &axis], vec![], y)?;
    l.set_alike(y, first, name)
}

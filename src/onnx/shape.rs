//! Ops along the last axis, the channels.

use super::form::Form;
use super::lowering::Lowering;
use super::writer::int;
use crate::error::Result;
use crate::graph::ValueId;
use crate::graph::ops::{Pad, Slice};

/// Whether these values are taken with their channels first: where one of them is there so.
fn channels_first(l: &Lowering, values: &[ValueId]) -> bool {
    values.iter().any(|v| l.has_first(*v))
}

fn finish(l: &mut Lowering, first: bool, name: String, y: ValueId) -> Result<()> {
    if first { l.set(y, Form::First, name) } else { l.set_rows(y, name) }
}

pub(super) fn concat(l: &mut Lowering, inputs: &[ValueId], y: ValueId) -> Result<()> {
    let first = channels_first(l, inputs);
    let mut names = vec![];
    for v in inputs {
        names.push(if first { l.first(*v)? } else { l.rows(*v)? });
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let name = l.emit("Concat", &names, vec![int("axis", if first { 1 } else { -1 })], y)?;
    finish(l, first, name, y)
}

pub(super) fn slice(l: &mut Lowering, op: &Slice, x: ValueId, y: ValueId) -> Result<()> {
    let first = channels_first(l, &[x]);
    let x = if first { l.first(x)? } else { l.rows(x)? };
    let (start, end) = (l.table_of(&[op.start as i64])?, l.table_of(&[(op.start + op.len) as i64])?);
    let axis = l.table_of(&[if first { 1 } else { -1 }])?;
    let name = l.emit("Slice", &[&x, &start, &end, &axis], vec![], y)?;
    finish(l, first, name, y)
}

pub(super) fn pad(l: &mut Lowering, op: &Pad, x: ValueId, y: ValueId) -> Result<()> {
    let first = channels_first(l, &[x]);
    let x = if first { l.first(x)? } else { l.rows(x)? };
    let (pads, zero) = (l.table_of(&[op.before as i64, op.after as i64])?, l.scalar(0.0)?);
    let axis = l.table_of(&[if first { 1 } else { -1 }])?;
    let name = l.emit("Pad", &[&x, &pads, &zero, &axis], vec![], y)?;
    finish(l, first, name, y)
}

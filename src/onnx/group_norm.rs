//! Group norms: `GroupNormalization` of opset 21, with the channels first; SiLU behind it as everywhere.

use super::elementwise::silu;
use super::form::Form;
use super::lowering::Lowering;
use super::writer::{float, int};
use crate::error::Result;
use crate::graph::ValueId;
use crate::graph::ops::GroupNorm;

pub(super) fn lower(l: &mut Lowering, op: &GroupNorm, inputs: &[ValueId], y: ValueId) -> Result<()> {
    let rank = l.shape(inputs[0]).len();
    let (x, form) = if rank < 3 { (l.rows(inputs[0])?, Form::Rows(l.dims(y))) } else { (l.first(inputs[0])?, Form::First) };
    let (gamma, beta) = (l.rows(inputs[1])?, l.rows(inputs[2])?);
    let attributes = vec![int("num_groups", op.groups as i64), float("epsilon", op.eps as f32)];
    let normed = l.emit("GroupNormalization", &[&x, &gamma, &beta], attributes, y)?;
    let name = if op.silu { silu(l, &normed, y)? } else { normed };
    l.set(y, form, name)
}

//! Group norms: `GroupNormalization` of opset 21, with the channels first; SiLU behind it as everywhere.

use super::elementwise::silu;
use super::form::Form;
use super::lowering::Lowering;
use super::writer::{WHAT, float, int};
use crate::error::Result;
use crate::graph::ValueId;
use crate::graph::ops::GroupNorm;
use crate::memory;

pub(super) fn lower(l: &mut Lowering, op: &GroupNorm, inputs: &[ValueId], y: ValueId) -> Result<()> {
    let rank = l.shape(inputs[0]).len();
    let (x, form) = if rank < 3 { (l.rows(inputs[0])?, Form::Rows(l.dims(y))) } else { (l.first(inputs[0])?, Form::First) };
    let attributes = vec![int("num_groups", op.groups as i64), float("epsilon", op.eps as f32)];
    let channels = *l.shape(inputs[0]).last().unwrap_or(&1);
    // Compilers want both as constants: those of a step that is known when it runs are applied apart.
    let constant = l.is_constant(inputs[1]) && l.is_constant(inputs[2]);
    let (gamma, beta) = if constant {
        (l.rows(inputs[1])?, l.rows(inputs[2])?)
    } else {
        let same = |x: f32| memory::filled(x, channels, WHAT);
        (l.writer.floats(&[channels as i64], &same(1.0)?)?, l.writer.floats(&[channels as i64], &same(0.0)?)?)
    };
    let mut normed = l.emit("GroupNormalization", &[&x, &gamma, &beta], attributes, y)?;
    if !constant {
        let dims: Vec<i64> = (0..rank as i64).map(|d| if d == 1 { channels as i64 } else { 1 }).collect();
        for (operator, vector) in [("Mul", inputs[1]), ("Add", inputs[2])] {
            let vector = l.rows_as(vector, dims.clone())?;
            normed = l.emit(operator, &[&normed, &vector], vec![], y)?;
        }
    }
    let name = if op.silu { silu(l, &normed, y)? } else { normed };
    l.set(y, form, name)
}

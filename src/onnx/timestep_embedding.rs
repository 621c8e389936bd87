//! Sines and cosines of timesteps.

use super::lowering::Lowering;
use super::writer::int;
use crate::error::Result;
use crate::graph::ValueId;
use crate::graph::ops::TimestepEmbedding;

pub(super) fn lower(l: &mut Lowering, op: &TimestepEmbedding, t: ValueId, y: ValueId) -> Result<()> {
    let frequencies = op.frequencies();
    let t = l.rows_as(t, vec![-1, 1])?;
    let frequencies = l.writer.floats(&[1, frequencies.len() as i64], &frequencies)?;
    let angles = l.emit("Mul", &[&t, &frequencies], vec![], y)?;
    let (sines, cosines) = (l.emit("Sin", &[&angles], vec![], y)?, l.emit("Cos", &[&angles], vec![], y)?);
    let halves = if op.flip_sin_to_cos { [&*cosines, &*sines] } else { [&*sines, &*cosines] };
    let mut name = l.emit("Concat", &halves, vec![int("axis", 1)], y)?;
    if op.dim % 2 == 1 {
        let (pads, zero, axis) = (l.table_of(&[0, 1])?, l.scalar(0.0)?, l.table_of(&[1])?);
        name = l.emit("Pad", &[&name, &pads, &zero, &axis], vec![], y)?;
    }
    l.set_rows(y, name)
}

//! Products of activations head by head, as products of matrices.

use super::form::batched;
use super::lowering::Lowering;
use super::writer::ints;
use crate::error::Result;
use crate::graph::ValueId;
use crate::graph::ops::{HeadProduct, HeadSizes, Over};

pub(super) fn lower(l: &mut Lowering, op: &HeadProduct, inputs: &[ValueId], y: ValueId) -> Result<()> {
    let HeadSizes { tokens, rows, columns, .. } = op.sizes(l.shape(inputs[0]), l.shape(inputs[1]))?;
    let [heads, tokens, rows, columns] = [op.heads, tokens, rows, columns].map(|n| n as i64);
    // [N, T, heads each] as [N, heads, T, each], or [N, heads, each, T].
    let of_tokens = |l: &mut Lowering, v: ValueId, each: i64, turned: bool| {
        let rows = l.rows_as(v, vec![-1, tokens, heads, each])?;
        l.emit("Transpose", &[&rows], vec![ints("perm", if turned { &[0, 2, 3, 1] } else { &[0, 2, 1, 3] })], y)
    };
    // [N, heads rows, columns] as [N, heads, rows, columns], or its last two exchanged.
    let matrices = |l: &mut Lowering, v: ValueId, turned: bool| {
        let matrix = l.rows_as(v, vec![-1, heads, rows, columns])?;
        if turned { l.emit("Transpose", &[&matrix], vec![ints("perm", &[0, 1, 3, 2])], y) } else { Ok(matrix) }
    };
    let (a, b) = match op.over {
        Over::Tokens => (of_tokens(l, inputs[0], rows, true)?, of_tokens(l, inputs[1], columns, false)?),
        Over::Rows => (of_tokens(l, inputs[0], rows, false)?, matrices(l, inputs[1], false)?),
        Over::Columns => (of_tokens(l, inputs[0], columns, false)?, matrices(l, inputs[1], true)?),
    };
    let product = l.emit("MatMul", &[&a, &b], vec![], y)?;
    // A matrix of each head lies as the graph has it; what is of tokens has them before the heads.
    let placed = if op.over == Over::Tokens { product } else { l.emit("Transpose", &[&product], vec![ints("perm", &[0, 2, 1, 3])], y)? };
    let shape = l.table_of(&batched(l.shape(y)))?;
    let joined = l.emit("Reshape", &[&placed, &shape], vec![], y)?;
    l.set_rows(y, joined)
}

//! Attention as products of matrices and a softmax, which all runtimes recognise.

use super::lowering::{Lowering, wrong_rank};
use super::writer::{int, ints};
use crate::error::Result;
use crate::graph::ValueId;
use crate::graph::ops::Attention;

/// q, k, v [N, T, heads D]: softmax(scale q k^T) v, head by head.
pub(super) fn lower(l: &mut Lowering, op: &Attention, inputs: &[ValueId], y: ValueId) -> Result<()> {
    let &[_, tokens, width] = l.shape(y) else { return Err(wrong_rank("an attention")) };
    let (heads, tokens, width) = (op.heads as i64, tokens as i64, width as i64);
    let split = [-1, tokens, heads, width / heads];
    let mut of_heads = |v: ValueId, order: [i64; 4]| {
        let rows = l.rows_as(v, split.to_vec())?;
        l.emit("Transpose", &[&rows], vec![ints("perm", &order)], y)
    };
    let q = of_heads(inputs[0], [0, 2, 1, 3])?;
    let k = of_heads(inputs[1], [0, 2, 3, 1])?;
    let v = of_heads(inputs[2], [0, 2, 1, 3])?;
    let scores = l.emit("MatMul", &[&q, &k], vec![], y)?;
    let scale = l.scalar(op.scale as f32)?;
    let scaled = l.emit("Mul", &[&scores, &scale], vec![], y)?;
    let shares = l.emit("Softmax", &[&scaled], vec![int("axis", -1)], y)?;
    let means = l.emit("MatMul", &[&shares, &v], vec![], y)?;
    let tokens_first = l.emit("Transpose", &[&means], vec![ints("perm", &[0, 2, 1, 3])], y)?;
    let shape = l.table_of(&[-1, tokens, width])?;
    let joined = l.emit("Reshape", &[&tokens_first, &shape], vec![], y)?;
    l.set_rows(y, joined)
}

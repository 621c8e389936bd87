//! Sums over dimensions other than the batch, which no evaluation of a network adds up.

use super::lowering::Lowering;
use super::writer::int;
use crate::error::Result;
use crate::graph::ValueId;
use crate::graph::ops::ReduceSum;

pub(super) fn lower(l: &mut Lowering, op: &ReduceSum, x: ValueId, y: ValueId) -> Result<()> {
    let from = l.shape(x);
    let summed: Vec<i64> = (1..from.len()).filter(|d| op.shape[*d] == 1 && from[*d] != 1).map(|d| d as i64).collect();
    if summed.is_empty() {
        let (x, form) = l.any(x)?;
        return l.set(y, form, x);
    }
    let (x, axes) = (l.rows(x)?, l.table_of(&summed)?);
    let name = l.emit("ReduceSum", &[&x, &axes], vec![int("keepdims", 1)], y)?;
    l.set_rows(y, name)
}

//! Sums over dimensions.

use super::lowering::Lowering;
use super::writer::int;
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::graph::ops::ReduceSum;

pub(super) fn lower(l: &mut Lowering, op: &ReduceSum, x: ValueId, y: ValueId) -> Result<()> {
    let from = l.shape(x);
    let summed: Vec<i64> = (1..from.len()).filter(|d| op.shape[*d] == 1 && from[*d] != 1).map(|d| d as i64).collect();
    if op.shape[0] != from[0] {
        return Err(Error::unsupported("a sum over the batch has no form in a file whose batch is free"));
    }
    let (x, axes) = (l.rows(x)?, l.table_of(&summed)?);
    let name = l.emit("ReduceSum", &[&x, &axes], vec![int("keepdims", 1)], y)?;
    l.set_rows(y, name)
}

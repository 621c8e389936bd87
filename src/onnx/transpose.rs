//! The last two dimensions exchanged.

use super::lowering::Lowering;
use super::writer::ints;
use crate::error::Result;
use crate::graph::ValueId;

pub(super) fn lower(l: &mut Lowering, x: ValueId, y: ValueId) -> Result<()> {
    let rank = l.shape(x).len() as i64;
    let order: Vec<i64> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
    let x = l.rows(x)?;
    let name = l.emit("Transpose", &[&x], vec![ints("perm", &order)], y)?;
    l.set_rows(y, name)
}

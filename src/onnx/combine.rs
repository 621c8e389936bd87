//! Linear combinations: the steps of samplers.

use super::lowering::Lowering;
use super::writer::int;
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::graph::ops::Combine;

pub(super) fn lower(l: &mut Lowering, op: &Combine, inputs: &[ValueId], y: ValueId) -> Result<()> {
    let (table, values) = (inputs[0], &inputs[1..]);
    let rank = l.shape(y).len();
    let (names, first) = l.alike(values)?;
    let constant = if l.is_constant(table) { Some(l.tensor(table)?) } else { None };
    let mut sum: Option<String> = None;
    for (j, value) in names.iter().enumerate() {
        let column = op.first + j;
        // One row for the whole batch is a number; else a number of each image.
        let factor = match &constant {
            Some(rows) => l.scalar(rows.as_slice::<f32>()?[column])?,
            None => {
                let (rows, index) = (l.rows(table)?, l.table_of(&[column as i64])?);
                let of_images = l.emit("Gather", &[&rows, &index], vec![int("axis", 1)], y)?;
                let dims: Vec<i64> = std::iter::once(-1).chain(std::iter::repeat_n(1, rank - 1)).collect();
                let shape = l.table_of(&dims)?;
                l.emit("Reshape", &[&of_images, &shape], vec![], y)?
            }
        };
        let term = l.emit("Mul", &[value, &factor], vec![], y)?;
        sum = Some(match sum {
            None => term,
            Some(sum) => l.emit("Add", &[&sum, &term], vec![], y)?,
        });
    }
    let name = sum.ok_or_else(|| Error::internal("a sum of nothing"))?;
    l.set_alike(y, first, name)
}

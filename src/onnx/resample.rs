//! Nearest-neighbour doubling and average pooling.

use super::form::Form;
use super::lowering::Lowering;
use super::writer::{ints, word};
use crate::error::Result;
use crate::graph::ValueId;

pub(super) fn upsample(l: &mut Lowering, x: ValueId, y: ValueId) -> Result<()> {
    let (x, scales) = (l.first(x)?, l.writer.floats(&[4], &[1.0, 1.0, 2.0, 2.0])?);
    let attributes = vec![word("mode", "nearest"), word("coordinate_transformation_mode", "asymmetric"), word("nearest_mode", "floor")];
    let name = l.emit("Resize", &[&x, "", &scales], attributes, y)?;
    l.set(y, Form::First, name)
}

pub(super) fn avg_pool(l: &mut Lowering, x: ValueId, y: ValueId) -> Result<()> {
    let x = l.first(x)?;
    let name = l.emit("AveragePool", &[&x], vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])], y)?;
    l.set(y, Form::First, name)
}

//! An operand that comes in several values, its sources: what [`Concat`] would make of them, but nobody does.

use super::Concat;
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::op::OpDef;
use crate::graph::reference::Array;

/// The type of the joined operand.
pub(super) fn joined(sources: &[&TensorType]) -> Result<TensorType> {
    match sources {
        [] => Err(Error::internal("an operand of no sources")),
        [one] => Ok((*one).clone()),
        several => Ok(Concat.infer(several)?.swap_remove(0)),
    }
}

/// The joined operand.
pub(super) fn join(sources: &[&Array]) -> Result<Array> {
    match sources {
        [one] => Ok((*one).clone()),
        several => Ok(Concat.reference(several)?.swap_remove(0)),
    }
}

//! The teacher's cached state at the end of the student's step.

use super::super::context::TermContext;
use super::super::points::{At, Place};
use crate::diffusion::Weight;
use crate::diffusion::trajectory::loss_coefficients;
use crate::error::{Error, Result};
use crate::graph::ValueId;

pub(super) fn value(at: &At) -> Result<ValueId> {
    at.next.ok_or_else(|| Error::internal("a point without its next state"))
}

pub(super) fn coefficients(context: &TermContext, place: Place, weight: Weight) -> Result<[f64; 3]> {
    let next = place.next.ok_or_else(|| Error::internal("a point of no step"))?;
    loss_coefficients(context.schedule, (place.t, next), context.student.prediction, weight)
}

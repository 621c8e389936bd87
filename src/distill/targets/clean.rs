//! The data that x_t was made from.

use super::super::context::TermContext;
use super::super::points::{At, Place};
use crate::diffusion::Weight;
use crate::diffusion::trajectory::denoise_loss_coefficients;
use crate::error::{Error, Result};
use crate::graph::ValueId;

pub(super) fn value(at: &At) -> Result<ValueId> {
    at.data.ok_or_else(|| Error::internal("a point without its data"))
}

pub(super) fn coefficients(context: &TermContext, place: Place, weight: Weight) -> Result<[f64; 3]> {
    denoise_loss_coefficients(context.schedule, place.t, place.next, context.student.prediction, weight)
}

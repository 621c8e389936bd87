//! The teacher's output at the same x_t and timestep.

use super::super::context::TermContext;
use super::super::points::{At, Place};
use crate::diffusion::Weight;
use crate::diffusion::trajectory::output_loss_coefficients;
use crate::error::Result;
use crate::graph::{Graph, ValueId};

pub(super) fn value(g: &mut Graph, context: &TermContext, at: &At) -> Result<ValueId> {
    at.teacher(g, context).map(|predicted| predicted.output)
}

pub(super) fn coefficients(context: &TermContext, place: Place, weight: Weight) -> Result<[f64; 3]> {
    output_loss_coefficients(context.schedule, place.t, place.next, context.student.prediction, context.teacher()?.prediction, weight)
}

//! The teacher's output at the same x_t and timestep.

use super::super::context::{Role, TermContext};
use super::super::points::{At, Place};
use crate::diffusion::Weight;
use crate::diffusion::trajectory::output_loss_coefficients;
use crate::error::{Error, Result};
use crate::graph::{Graph, ValueId};

fn teacher<'a>(context: &TermContext<'a>) -> Result<Role<'a>> {
    context.teacher.ok_or_else(|| Error::invalid("the objectives need a teacher"))
}

pub(super) fn value(g: &mut Graph, context: &TermContext, at: &At) -> Result<ValueId> {
    teacher(context)?.network.predict(g, at.x, at.t, &at.conditions)
}

pub(super) fn coefficients(context: &TermContext, place: Place, weight: Weight) -> Result<[f64; 3]> {
    output_loss_coefficients(context.schedule, place.t, place.next, context.student.prediction, teacher(context)?.prediction, weight)
}

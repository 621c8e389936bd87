//! What the student is to match. Every target makes a difference d = c0 x_t + c1 student + c2 target whose coefficients carry parametrisation and weight:
//! state, epsilon, x0 and v errors differ only by a weight for each step.

pub mod clean;
pub mod next_state;
pub mod resolved;
pub mod self_teacher;
pub mod teacher_output;

use super::context::{Needs, TermContext};
use super::points::{At, Place, Point};
use crate::diffusion::Weight;
use crate::error::Result;
use crate::graph::{Graph, ValueId};
use crate::names::named_enum;

named_enum! {
    /// What the student is to match; the words are those of checkpoints.
    Target {
        /// The teacher's output at the same x_t, t.
        TeacherOutput = "TeacherOutput",
        /// The teacher's cached state at the end of the step.
        NextState = "NextState",
        /// The state where the teacher arrives from the same x_t at the end of the step.
        Resolved = "Resolved",
        /// The data that x_t was made from.
        Clean = "Clean",
        /// Where the student's own moving average lands from the teacher's next cached state, over the rest of a longer step.
        SelfTeacher = "SelfTeacher",
    }
}

impl Target {
    /// What it cannot be built without, beside what its point needs.
    pub fn needs(self) -> Needs {
        match self {
            Target::TeacherOutput | Target::Resolved => Needs { teacher: true, ..Needs::default() },
            Target::NextState | Target::Clean | Target::SelfTeacher => Needs::default(),
        }
    }

    /// Whether it is known at such a point.
    pub fn fits(self, point: Point) -> bool {
        match self {
            Target::TeacherOutput => !point.kind().chained,
            Target::NextState => point.kind().next,
            Target::Resolved => point.kind().on_grid && !point.kind().chained,
            Target::Clean => point.kind().data,
            Target::SelfTeacher => point == Point::Cached,
        }
    }

    /// Its value [B,H,W,C].
    pub(super) fn value(self, g: &mut Graph, context: &TermContext, at: &At) -> Result<ValueId> {
        match self {
            Target::TeacherOutput => teacher_output::value(g, context, at),
            Target::NextState => next_state::value(at),
            Target::Resolved => resolved::value(g, context, at),
            Target::Clean => clean::value(at),
            Target::SelfTeacher => self_teacher::value(g, context, at),
        }
    }

    /// The factors of x_t, the student's output and the target at a place.
    pub(super) fn coefficients(self, context: &TermContext, place: Place, weight: Weight) -> Result<[f64; 3]> {
        match self {
            Target::TeacherOutput => teacher_output::coefficients(context, place, weight),
            // A state is a state, whoever has walked there.
            Target::NextState | Target::Resolved => next_state::coefficients(context, place, weight),
            Target::Clean => clean::coefficients(context, place, weight),
            Target::SelfTeacher => self_teacher::coefficients(context, place, weight),
        }
    }
}

//! Where the moving average of the student itself lands from the teacher's next cached state: the student learns to do in one step what the teacher's next step
//! and one of its own older self do in two, until one step goes over many of the teacher's (TRACT, arXiv 2303.04248, section 3). The grid's pairs are the teacher's
//! steps then, and each of the student's steps is a run of them as long as any other. No gradient flows into the average.

use super::super::context::{SelfTeacher, TermContext};
use super::super::loss::table;
use super::super::points::{At, Place};
use crate::diffusion::Weight;
use crate::diffusion::trajectory::{Ddim, loss_coefficients};
use crate::error::{Error, Result};
use crate::graph::ops::{Combine, StopGradient};
use crate::graph::{Graph, ValueId};
use crate::memory;
use crate::tensor::Tensor;

/// The pairs that `steps` steps of a student make of a finer grid, which is a multiple as long: each step from the start of its first pair to the end of its last.
pub fn joined(pairs: &[(i64, i64)], steps: usize) -> Result<Vec<(i64, i64)>> {
    let each = pairs.len().checked_div(steps).filter(|each| *each > 0).ok_or_else(|| Error::internal(format!("{steps} steps of {} pairs", pairs.len())))?;
    memory::collect(pairs.chunks(each).filter_map(|run| Some((run.first()?.0, run.last()?.1))), "step pairs")
}

/// Where the student's step that goes through a pair ends.
fn landing(context: &TermContext, own: &SelfTeacher, t: i64) -> Result<i64> {
    let steps = joined(context.pairs, own.steps)?;
    let step = steps.iter().find(|(first, end)| (*end..=*first).contains(&t) && t != *end);
    step.map(|(_, end)| *end).ok_or_else(|| Error::internal(format!("timestep {t} is in no step of the student")))
}

/// The timestep at which the average is evaluated after a pair, and the factors of the state there and of its output: where a step ends the state is the target.
fn after(context: &TermContext, own: &SelfTeacher, (t, next): (i64, i64)) -> Result<(i64, [f64; 2])> {
    let end = landing(context, own, t)?;
    if next == end {
        return Ok((t, [1.0, 0.0]));
    }
    let (from, to) = (context.schedule.level(next)?, context.schedule.level(end)?);
    Ok((next, Ddim::new(from, to).coefficients(from, context.student.prediction)?))
}

pub(super) fn value(g: &mut Graph, context: &TermContext, at: &At) -> Result<ValueId> {
    let own = context.self_teacher()?;
    let next = at.next.ok_or_else(|| Error::internal("a point without its next state"))?;
    let rows = memory::try_collect(context.pairs.iter().map(|pair| after(context, own, *pair)), "timesteps")?;
    let times = memory::collect(rows.iter().map(|(t, _)| *t as f32), "timesteps")?;
    let times = g.constant("self_teacher.timesteps", Tensor::from_slice(&[times.len()], &times)?)?;
    let factors = table(g, "self_teacher.coefficients", Weight::Const, rows.into_iter().map(|(t, factors)| (t, Ok(factors))))?;
    let (t, factors) = (g.gather(times, at.place)?, g.gather(factors, at.place)?);
    let out = own.network.predict(g, next, t, &at.conditions)?;
    let landed = g.push1(Combine { first: 0 }.into(), &[factors, next, out])?;
    g.push1(StopGradient.into(), &[landed])
}

pub(super) fn coefficients(context: &TermContext, place: Place, weight: Weight) -> Result<[f64; 3]> {
    let end = landing(context, context.self_teacher()?, place.t)?;
    loss_coefficients(context.schedule, (place.t, end), context.student.prediction, weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_joined_from_end_to_end() -> Result<()> {
        let pairs = [(999, 749), (749, 499), (499, 249), (249, -1)];
        for (steps, expected) in [(1, vec![(999, -1)]), (2, vec![(999, 499), (499, -1)]), (4, pairs.to_vec())] {
            assert_eq!(joined(&pairs, steps)?, expected);
        }
        assert!(joined(&pairs, 0).is_err() && joined(&pairs, 5).is_err());
        Ok(())
    }
}

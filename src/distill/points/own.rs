//! The state that the student itself reaches from the noise of a trajectory, at the start of a step of its grid.

use super::super::context::TermContext;
use super::super::draws::{Draws, rows};
use super::cached::{self, Trajectories, TrajectoryBatch};
use super::{At, Kind, Sources};
use crate::diffusion::trajectory::Ddim;
use crate::error::{Error, Result};
use crate::graph::ops::{IntAffine, StopGradient};
use crate::graph::{Graph, ValueId};
use crate::memory;
use crate::nn::{Step, When};

/// As a cached point.
pub const KIND: Kind = cached::KIND;

/// The noise of a step, and the teacher's states that follow from it.
pub(in crate::distill) fn draw(g: &mut Graph, context: &TermContext, draws: &Draws, sources: &Sources) -> Result<TrajectoryBatch> {
    let drawn = Trajectories::draw(g, context, draws, sources)?;
    let state = drawn.noise(g)?;
    drawn.batch(g, state)
}

impl TrajectoryBatch {
    /// The point at the student's own state: what it reaches from x_T after as many of its steps as each row's pair has before it; no gradient flows back.
    pub fn own(&self, g: &mut Graph, context: &TermContext) -> Result<At> {
        let states = own_states(g, context, self)?;
        // Row b of the batch has its states in rows b n .. (b + 1) n of the table.
        let (n, shape) = (context.pairs.len(), g.shape(self.state).to_vec());
        let scale = i32::try_from(n).map_err(|_| Error::invalid(format!("{n} step pairs are too many")))?;
        let table = g.concat(&states)?;
        let table = g.reshape(table, &[&[shape[0] * n], &shape[1..]].concat())?;
        let batch = rows(g, shape[0])?;
        let row = g.push1(IntAffine { scale, shift: 0 }.into(), &[batch, self.pair])?;
        let x = g.gather(table, row)?;
        let x = g.push1(StopGradient.into(), &[x])?;
        self.at(g, context, x)
    }
}

/// Where the student's step over a pair lands, from x and what the network gives there.
pub(in crate::distill) fn student_step(g: &mut Graph, context: &TermContext, (t, next): (i64, i64), [x, out]: [ValueId; 2]) -> Result<ValueId> {
    let (from, to) = (context.schedule.level(t)?, context.schedule.level(next)?);
    let [of_x, of_out] = Ddim::new(from, to).coefficients(from, context.student.prediction)?;
    g.weighted_sum(&[(of_x, x), (of_out, out)])
}

/// The student's state at the start of each pair, [B, H W C] each.
fn own_states(g: &mut Graph, context: &TermContext, batch: &TrajectoryBatch) -> Result<Vec<ValueId>> {
    let shape = g.shape(batch.state).to_vec();
    let flat = [shape[0], shape[1..].iter().product()];
    let mut x = batch.state;
    let mut states = memory::with_capacity(context.pairs.len(), "the student's own states")?;
    states.push(g.reshape(x, &flat)?);
    // No step leads on from the start of the last pair.
    for (k, &(t, next)) in context.pairs.split_last().map_or(&[][..], |(_, before)| before).iter().enumerate() {
        let time = g.constant_fill("own.timestep", &[shape[0]], t as f32)?;
        let out = context.student.network.predict(g, x, When { t: time, step: Some(Step::All(k)) }, &batch.conditions)?;
        x = student_step(g, context, (t, next), [x, out])?;
        states.push(g.reshape(x, &flat)?);
    }
    Ok(states)
}

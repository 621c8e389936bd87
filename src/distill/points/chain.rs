//! The student's whole run from the noise of a trajectory: it is evaluated at each of its own states in turn, and the error of a later one flows back through
//! all steps before it.

use super::super::context::{Needs, TermContext};
use super::super::draws::Draws;
use super::cached::Trajectories;
use super::{Kind, Sources};
use crate::error::{Error, Result};
use crate::graph::{Graph, ValueId};
use crate::memory;

/// The teacher's next state is known at each of them, no data.
pub const KIND: Kind = Kind { needs: Needs { cache: true, grid: true, teacher: false, dataset: false }, data: false, next: true, on_grid: true, chained: true };

/// What a run is made of.
pub struct ChainBatch {
    /// Where each row begins, the noise of a trajectory [B,H,W,C].
    pub noise: ValueId,
    /// The teacher's states at the ends of the grid's pairs, in order.
    pub targets: Vec<ValueId>,
    /// The model's conditions, in their order.
    pub conditions: Vec<ValueId>,
}

/// A trajectory for each row.
pub(in crate::distill) fn draw(g: &mut Graph, context: &TermContext, draws: &Draws, sources: &Sources) -> Result<ChainBatch> {
    let drawn = Trajectories::draw(g, context, draws, sources)?;
    let noise = drawn.noise(g)?;
    let steps = i32::try_from(context.pairs.len()).map_err(|_| Error::invalid(format!("{} step pairs are too many", context.pairs.len())))?;
    let targets = memory::try_collect((1..=steps).map(|step| drawn.after(g, step)), "the teacher's states")?;
    Ok(ChainBatch { noise, targets, conditions: drawn.into_conditions() })
}

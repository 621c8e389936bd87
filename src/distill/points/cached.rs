//! A state of the teacher's cached trajectories, at the start of a step of the student's grid.

use super::super::context::{Needs, TermContext};
use super::super::draws::Draws;
use super::{At, CACHE, Kind, Place, Sources, conditions, grid_timesteps};
use crate::error::{Error, Result};
use crate::graph::ops::IntAffine;
use crate::graph::{Graph, TensorType, ValueId};
use crate::memory;
use crate::nn::Step;
use crate::random::Purpose;
use crate::tensor::DType;
use std::cell::OnceCell;

/// The teacher's next state is known, no data.
pub const KIND: Kind =
    Kind { needs: Needs { cache: true, grid: true, teacher: false, dataset: false }, data: false, next: true, on_grid: true, chained: false };

/// What points on trajectories are made of.
pub struct TrajectoryBatch {
    /// Step pair of each row, i32 [B].
    pub pair: ValueId,
    /// Where each row begins [B,H,W,C]: for a cached point the teacher's state at the start of the pair, for one of the student's own x_T.
    pub state: ValueId,
    /// The teacher's state at the end of the pair.
    pub target: ValueId,
    /// The model's conditions, in their order.
    pub conditions: Vec<ValueId>,
}

/// A trajectory for each row, and a step of it.
pub(in crate::distill) struct Trajectories {
    states: ValueId,
    /// Trajectories there are, which are the rows from one state of a trajectory to its next one.
    count: i32,
    index: ValueId,
    pair: ValueId,
    conditions: Vec<ValueId>,
}

impl Trajectories {
    /// Draws them.
    pub fn draw(g: &mut Graph, context: &TermContext, draws: &Draws, sources: &Sources) -> Result<Self> {
        let (n, m) = (context.pairs.len(), sources.cache_size);
        let ([h, w], channels) = (sources.size, context.student.network.model.roles()?.channels);
        let states = g.state(format!("{CACHE}states"), TensorType::new(DType::F16, &[(n + 1) * m, h, w, channels]))?;
        let index = draws.integers(g, Purpose::Data, m)?;
        let pair = draws.integers(g, Purpose::Timestep, n)?;
        let count = i32::try_from(m).map_err(|_| Error::invalid(format!("cache_size is {m}; it is too large")))?;
        let conditions = conditions(g, context, CACHE, (m, sources.size), index)?;
        Ok(Self { states, count, index, pair, conditions })
    }

    /// The state so many states after the start of the pair [B,H,W,C].
    fn state(&self, g: &mut Graph, later: i32) -> Result<ValueId> {
        let row = g.push1(IntAffine { scale: self.count, shift: later * self.count }.into(), &[self.pair, self.index])?;
        g.gather(self.states, row)
    }

    /// The noise that the trajectory begins with [B,H,W,C].
    pub fn noise(&self, g: &mut Graph) -> Result<ValueId> {
        g.gather(self.states, self.index)
    }

    /// The state after so many steps of the grid, whatever the pair [B,H,W,C].
    pub fn after(&self, g: &mut Graph, steps: i32) -> Result<ValueId> {
        let row = g.push1(IntAffine { scale: 0, shift: steps * self.count }.into(), &[self.pair, self.index])?;
        g.gather(self.states, row)
    }

    /// The conditions of the rows.
    pub fn into_conditions(self) -> Vec<ValueId> {
        self.conditions
    }

    /// Rows that begin at these states.
    pub fn batch(&self, g: &mut Graph, state: ValueId) -> Result<TrajectoryBatch> {
        Ok(TrajectoryBatch { pair: self.pair, state, target: self.state(g, 1)?, conditions: memory::copy(&self.conditions, "conditions")? })
    }
}

/// The teacher's states of a step.
pub(in crate::distill) fn draw(g: &mut Graph, context: &TermContext, draws: &Draws, sources: &Sources) -> Result<TrajectoryBatch> {
    let drawn = Trajectories::draw(g, context, draws, sources)?;
    let state = drawn.state(g, 0)?;
    drawn.batch(g, state)
}

impl TrajectoryBatch {
    /// The point at the teacher's state.
    pub fn cached(&self, g: &mut Graph, context: &TermContext) -> Result<At> {
        self.at(g, context, self.state)
    }

    /// The point at this state of each row's pair.
    pub(super) fn at(&self, g: &mut Graph, context: &TermContext, x: ValueId) -> Result<At> {
        let t = grid_timesteps(g, context, self.pair)?;
        let places = memory::collect(context.pairs.iter().map(|&(t, next)| Place { t, next: Some(next) }), "timesteps")?;
        let conditions = memory::copy(&self.conditions, "conditions")?;
        Ok(At { x, t, conditions, places, place: self.pair, step: Some(Step::Rows(self.pair)), data: None, next: Some(self.target), teacher: OnceCell::new() })
    }
}

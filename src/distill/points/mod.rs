//! Where the student is evaluated. A point draws what it needs, makes x_t of it, and says what else is known there; targets are known at some of them.

pub mod cached;
pub mod chain;
pub mod data;
pub mod own;

use super::context::{Needs, TermContext};
use super::dataset::Dataset;
use super::draws::Draws;
use crate::error::Result;
use crate::graph::{Graph, ValueId};
use crate::memory;
use crate::names::named_enum;
use crate::nn::{Condition, Predicted, Step};
use crate::tensor::Tensor;
use std::cell::OnceCell;

named_enum! {
    /// Where the student is evaluated; the words are those of checkpoints.
    Point {
        /// x_t of data and noise, at any timestep of the schedule.
        Data = "Data",
        /// x_t of data and noise, at the start of a step of the student's grid.
        Noised = "Noised",
        /// A state of the teacher's cached trajectories, at the start of a step of the student's grid.
        Cached = "Cached",
        /// The state that the student itself reaches there from the noise of a trajectory; no gradient flows into it.
        Own = "Own",
        /// Every state of the student's own run from the noise of a trajectory, one after the other, with gradient through all of them.
        Chain = "Chain",
    }
}

/// What a point needs, and what is known there beside x_t.
pub struct Kind {
    /// What it cannot be built without.
    pub needs: Needs,
    /// The clean data of x_t is known.
    pub data: bool,
    /// The teacher's state at the end of the step is known.
    pub next: bool,
    /// It lies at the start of a step of the student's grid.
    pub on_grid: bool,
    /// It is several, each made of what the student gave at the one before.
    pub chained: bool,
}

/// A timestep at which a point can lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The timestep.
    pub t: i64,
    /// Where the student's step from it ends; `None` where the point belongs to no step.
    pub next: Option<i64>,
}

/// A batch of states that the student is evaluated at, and what is known there.
pub struct At {
    /// x_t [B,H,W,C].
    pub x: ValueId,
    /// The timesteps f32 [B].
    pub t: ValueId,
    /// The model's conditions, in their order.
    pub conditions: Vec<ValueId>,
    /// All places there are.
    pub places: Vec<Place>,
    /// Which of them each row is at, i32 [B].
    pub place: ValueId,
    /// Which steps of the student's grid these are; `None` off it.
    pub step: Option<Step>,
    /// The data that x_t was made of.
    pub data: Option<ValueId>,
    /// The teacher's state at the end of the step.
    pub next: Option<ValueId>,
    /// What the teacher predicts here, once somebody has asked.
    pub teacher: OnceCell<Predicted>,
}

impl At {
    /// What the teacher predicts here: evaluated once, for whatever is matched.
    pub fn teacher(&self, g: &mut Graph, context: &TermContext) -> Result<&Predicted> {
        if let Some(known) = self.teacher.get() {
            return Ok(known);
        }
        let predicted = context.teacher()?.network.predicted(g, self.x, self.t, &self.conditions)?;
        Ok(self.teacher.get_or_init(|| predicted))
    }
}

/// What has been drawn.
pub(super) enum Drawn {
    /// A batch of states.
    At(At),
    /// A batch of runs, whose states are the student's to find.
    Chain(chain::ChainBatch),
}

/// What points draw from.
pub(super) struct Sources<'a> {
    /// Images and labels.
    pub dataset: Option<&'a Dataset>,
    /// Cached trajectories.
    pub cache_size: usize,
    /// [H, W] of their states.
    pub size: [usize; 2],
}

impl Point {
    /// What it needs and knows.
    pub fn kind(self) -> Kind {
        match self {
            Point::Data => data::KIND,
            Point::Noised => data::ON_GRID,
            Point::Cached => cached::KIND,
            Point::Own => own::KIND,
            Point::Chain => chain::KIND,
        }
    }

    /// Draws a batch.
    pub(super) fn draw(self, g: &mut Graph, context: &TermContext, draws: &Draws, sources: &Sources) -> Result<Drawn> {
        Ok(Drawn::At(match self {
            Point::Data => data::draw(g, context, draws, sources, false)?.at(g, context, false)?,
            Point::Noised => data::draw(g, context, draws, sources, true)?.at(g, context, true)?,
            Point::Cached => cached::draw(g, context, draws, sources)?.cached(g, context)?,
            Point::Own => own::draw(g, context, draws, sources)?.own(g, context)?,
            Point::Chain => return chain::draw(g, context, draws, sources).map(Drawn::Chain),
        }))
    }
}

/// Before the names of what the trajectory cache holds.
pub(super) const CACHE: &str = "cache.";
/// Before the names of what a dataset holds.
pub(super) const DATASET: &str = "dataset.";

/// The timesteps at which these pairs of the grid begin, f32 [B].
fn grid_timesteps(g: &mut Graph, context: &TermContext, pair: ValueId) -> Result<ValueId> {
    let times = memory::collect(context.pairs.iter().map(|p| p.0 as f32), "timesteps")?;
    let times = g.constant("pair.timesteps", Tensor::from_slice(&[times.len()], &times)?)?;
    g.gather(times, pair)
}

/// The conditions of these rows of tables with `count`, for what the student takes.
fn conditions(g: &mut Graph, context: &TermContext, room: &str, (count, size): (usize, [usize; 2]), index: ValueId) -> Result<Vec<ValueId>> {
    let batch = g.shape(index)[0];
    let rows = |c: Condition| {
        let table = g.state(format!("{room}{}", c.name), c.kind.rows(count, size))?;
        let rows = g.gather(table, index)?;
        g.reshape(rows, &c.kind.ty(batch, size).shape)
    };
    memory::try_collect(context.student.network.model.roles()?.conditions.into_iter().map(rows), "conditions")
}

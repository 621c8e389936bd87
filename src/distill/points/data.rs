//! x_t = a x_0 + s e of an image of the dataset and noise: at any timestep of the schedule, or at the start of a step of the student's grid.

use super::super::context::{Needs, TermContext};
use super::super::draws::Draws;
use super::super::loss::table;
use super::{At, DATASET, Kind, Place, Sources, conditions, grid_timesteps};
use crate::diffusion::Weight;
use crate::error::{Error, Result};
use crate::graph::ops::{Cast, Combine};
use crate::graph::{Graph, TensorType, ValueId};
use crate::memory;
use crate::nn::Step;
use crate::random::Purpose;
use crate::tensor::DType;
use std::cell::OnceCell;

/// Data is known, no step.
pub const KIND: Kind =
    Kind { needs: Needs { dataset: true, cache: false, grid: false, teacher: false }, data: true, next: false, on_grid: false, chained: false };
/// Data is known, and the step; not where the teacher is after it.
pub const ON_GRID: Kind = Kind { needs: Needs { grid: true, ..KIND.needs }, on_grid: true, ..KIND };

/// What the point is made of.
pub struct DataBatch {
    /// Clean images [B,H,W,C].
    pub data: ValueId,
    /// Standard normals of the same shape.
    pub noise: ValueId,
    /// Which of the places each row is at, i32 [B].
    pub place: ValueId,
    /// The model's conditions, in their order.
    pub conditions: Vec<ValueId>,
}

/// Where such states can lie: at every timestep, or at the start of every step of the student's grid.
fn places(context: &TermContext, on_grid: bool) -> Result<Vec<Place>> {
    match on_grid {
        true => memory::collect(context.pairs.iter().map(|&(t, next)| Place { t, next: Some(next) }), "timesteps"),
        false => memory::collect((0..context.schedule.len() as i64).map(|t| Place { t, next: None }), "timesteps"),
    }
}

/// Images, timesteps and noise of a step.
pub(in crate::distill) fn draw(g: &mut Graph, context: &TermContext, draws: &Draws, sources: &Sources, on_grid: bool) -> Result<DataBatch> {
    let dataset = sources.dataset.ok_or_else(|| Error::invalid("the objectives need a dataset"))?;
    let images = g.state(format!("{DATASET}images"), TensorType::f32(dataset.images().shape()))?;
    let index = draws.integers(g, Purpose::Data, dataset.len())?;
    let place = draws.integers(g, Purpose::Timestep, if on_grid { context.pairs.len() } else { context.schedule.len() })?;
    let data = g.gather(images, index)?;
    let image = [g.shape(data)[1], g.shape(data)[2], g.shape(data)[3]];
    let noise = draws.noise(g, image)?;
    let conditions = conditions(g, context, DATASET, (dataset.len(), dataset.size()), index)?;
    Ok(DataBatch { data, noise, place, conditions })
}

impl DataBatch {
    /// The point.
    pub fn at(&self, g: &mut Graph, context: &TermContext, on_grid: bool) -> Result<At> {
        let places = places(context, on_grid)?;
        let forward = places.iter().map(|place| (place.t, context.schedule.level(place.t).map(|l| [l.alpha, l.sigma])));
        let forward = table(g, "forward.coefficients", Weight::Const, forward)?;
        let forward = g.gather(forward, self.place)?;
        let x = g.push1(Combine { first: 0 }.into(), &[forward, self.data, self.noise])?;
        let t = if on_grid { grid_timesteps(g, context, self.place)? } else { g.push1(Cast { to: DType::F32 }.into(), &[self.place])? };
        let conditions = memory::copy(&self.conditions, "conditions")?;
        let step = on_grid.then_some(Step::Rows(self.place));
        Ok(At { x, t, conditions, places, place: self.place, step, data: Some(self.data), next: None, teacher: OnceCell::new() })
    }
}

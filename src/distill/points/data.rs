//! x_t = a x_0 + s e of an image of the dataset and noise, at a timestep of the schedule.

use super::super::context::{Needs, TermContext};
use super::super::draws::Draws;
use super::super::loss::table;
use super::{At, DATASET, Kind, Place, Sources, conditions};
use crate::diffusion::Weight;
use crate::error::{Error, Result};
use crate::graph::ops::{Cast, Combine};
use crate::graph::{Graph, TensorType, ValueId};
use crate::memory;
use crate::random::Purpose;
use crate::tensor::DType;
use std::cell::OnceCell;

/// Data is known, no step.
pub const KIND: Kind = Kind { needs: Needs { dataset: true, cache: false, teacher: false }, data: true, next: false, on_grid: false, chained: false };

/// What the point is made of.
pub struct DataBatch {
    /// Clean images [B,H,W,C].
    pub data: ValueId,
    /// Standard normals of the same shape.
    pub noise: ValueId,
    /// Timesteps i32 [B].
    pub timestep: ValueId,
    /// The model's conditions, in their order.
    pub conditions: Vec<ValueId>,
}

/// Images, timesteps and noise of a step.
pub(in crate::distill) fn draw(g: &mut Graph, context: &TermContext, draws: &Draws, sources: &Sources) -> Result<DataBatch> {
    let dataset = sources.dataset.ok_or_else(|| Error::invalid("the objectives need a dataset"))?;
    let images = g.state(format!("{DATASET}images"), TensorType::f32(dataset.images().shape()))?;
    let index = draws.integers(g, Purpose::Data, dataset.len())?;
    let timestep = draws.integers(g, Purpose::Timestep, context.schedule.len())?;
    let data = g.gather(images, index)?;
    let image = [g.shape(data)[1], g.shape(data)[2], g.shape(data)[3]];
    let noise = draws.noise(g, image)?;
    let conditions = conditions(g, context, DATASET, (dataset.len(), dataset.size()), index)?;
    Ok(DataBatch { data, noise, timestep, conditions })
}

impl DataBatch {
    /// The point.
    pub fn at(&self, g: &mut Graph, context: &TermContext) -> Result<At> {
        let steps = context.schedule.len() as i64;
        let forward = (0..steps).map(|t| (t, context.schedule.level(t).map(|l| [l.alpha, l.sigma])));
        let forward = table(g, "forward.coefficients", Weight::Const, forward)?;
        let forward = g.gather(forward, self.timestep)?;
        let x = g.push1(Combine { first: 0 }.into(), &[forward, self.data, self.noise])?;
        let t = g.push1(Cast { to: DType::F32 }.into(), &[self.timestep])?;
        let places = memory::collect((0..steps).map(|t| Place { t, next: None }), "timesteps")?;
        let conditions = memory::copy(&self.conditions, "conditions")?;
        Ok(At { x, t, conditions, places, place: self.timestep, data: Some(self.data), next: None, teacher: OnceCell::new() })
    }
}

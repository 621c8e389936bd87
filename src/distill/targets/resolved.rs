//! Where the teacher arrives at the end of the student's step from the very state that the student is evaluated at, walked anew in every training step: a
//! cached state belongs to the teacher's own trajectory, this one to the student's.

use super::super::context::TermContext;
use super::super::points::At;
use crate::diffusion::table::is_coefficient;
use crate::diffusion::{Clip, Step, Table, trajectory};
use crate::error::{Error, Result};
use crate::graph::ops::{Combine, StopGradient, UnaryKind};
use crate::graph::{Graph, ValueId};
use crate::memory;
use crate::tensor::Tensor;

pub(super) fn value(g: &mut Graph, context: &TermContext, at: &At) -> Result<ValueId> {
    let (teacher, walk) = (context.teacher()?, context.walk);
    let grid = trajectory::teacher_pairs(context.schedule.len(), context.pairs, walk.substeps)?;
    let table = Table::from_pairs(context.schedule, teacher.prediction, &grid, 0.0, walk.clip)?;
    let mut x = at.x;
    for sub in 0..walk.substeps {
        let steps = || table.steps.iter().skip(sub).step_by(walk.substeps);
        let t = rows(g, at, steps().map(|s| [s.t]))?;
        let shape = memory::copy(g.shape(at.t), "timesteps")?;
        let t = g.reshape(t, &shape)?;
        let out = teacher.network.predict(g, x, t, &at.conditions)?;
        x = step(g, at, steps, [x, out], walk.clip)?;
    }
    g.push1(StopGradient.into(), &[x])
}

/// x' of these steps, one for each pair ([`Table`]).
fn step<'t, I: Iterator<Item = &'t Step>>(g: &mut Graph, at: &At, steps: impl Fn() -> I, [x, out]: [ValueId; 2], clip: Clip) -> Result<ValueId> {
    let range = match clip {
        Clip::None => {
            let factors = rows(g, at, steps().map(|s| [s.next.x, s.next.out]))?;
            return g.push1(Combine { first: 0 }.into(), &[factors, x, out]);
        }
        Clip::Range(range) => range as f32,
        Clip::Dynamic { .. } => {
            return Err(Error::unsupported(
                "a target that the teacher walks to in every step of training cannot be thresholded dynamically; give another trajectory_clip",
            ));
        }
    };
    let factors = rows(g, at, steps().map(|s| [s.x0_x, s.x0_out]))?;
    let data = g.push1(Combine { first: 0 }.into(), &[factors, x, out])?;
    let data = g.unary(UnaryKind::Clamp(-range, range), data)?;
    let factors = rows(g, at, steps().map(|s| [s.next.x, s.next.out, s.next.m0]))?;
    g.push1(Combine { first: 0 }.into(), &[factors, x, out, data])
}

/// The numbers of each row's pair, [B, K].
fn rows<const K: usize>(g: &mut Graph, at: &At, pairs: impl Iterator<Item = [f64; K]>) -> Result<ValueId> {
    let mut data = memory::with_capacity::<f32>(at.places.len().saturating_mul(K), "a teacher's steps")?;
    for (row, place) in pairs.zip(&at.places) {
        if let Some(c) = row.iter().find(|c| !is_coefficient(**c)) {
            return Err(Error::numeric(format!("timestep {}: a factor of the teacher's steps is {c:e}, which float32 does not hold", place.t)));
        }
        memory::append(&mut data, &row.map(|c| c as f32), "a teacher's steps")?;
    }
    let table = g.constant("teacher.steps", Tensor::from_slice(&[at.places.len(), K], &data)?)?;
    g.gather(table, at.place)
}

//! Where the teacher arrives at the end of the student's step from the very state that the student is evaluated at, walked anew in every training step: a
//! cached state belongs to the teacher's own trajectory, this one to the student's.

use super::super::context::TermContext;
use super::super::points::At;
use crate::diffusion::MEMORY;
use crate::error::{Error, Result};
use crate::graph::ops::StopGradient;
use crate::graph::{Graph, ValueId};
use crate::memory;
use crate::sampling::{Does, Kept};
use std::array;

pub(super) fn value(g: &mut Graph, context: &TermContext, at: &At) -> Result<ValueId> {
    let (teacher, walk) = (context.teacher()?, context.walk);
    // A run of its own for each pair: a multistep solver knows nothing of how the student has come there.
    let table = |pair: &(i64, i64)| walk.table(context.schedule, teacher.prediction, std::slice::from_ref(pair));
    let tables = memory::try_collect(context.pairs.iter().map(table), "a teacher's steps")?;
    let batch = g.shape(at.x)[0];
    let (mut x, mut kept): (ValueId, Kept) = (at.x, [None; MEMORY]);
    for place in kept.iter_mut().take(tables.iter().map(|table| table.memory).max().unwrap_or(0)) {
        *place = Some(g.weighted_sum(&[(0.0, x)])?); // as a sampler begins; some pairs' steps may keep nothing where others do
    }
    for sub in 0..walk.substeps {
        let steps = memory::collect(tables.iter().map(|table| table.steps[sub]), "a teacher's steps")?;
        let does = Does::Any { steps: &steps, row: at.place };
        let t = does.number(g, "teacher.timestep", batch, |s| s.t)?;
        let out = teacher.network.predict(g, x, t, &at.conditions)?;
        let (next, keeps) = does.next(g, &walk.clip, [x, out], &kept, |_| Err(Error::internal("a teacher's step draws no noise")))?;
        (x, kept) = (next, array::from_fn(|j| keeps[j].or(kept[j])));
    }
    g.push1(StopGradient.into(), &[x])
}

//! The student's evaluations of a step of training: one at a point, or those along its own run.

use super::context::TermContext;
use super::draws::Draws;
use super::loss::Evaluated;
use super::points::chain::ChainBatch;
use super::points::own::student_step;
use super::points::{At, Drawn, Place, Point, Sources};
use super::term::Term;
use crate::error::{Error, Result};
use crate::graph::{Graph, ValueId};
use crate::memory;
use crate::nn::Step;
use crate::tensor::{DType, Tensor};
use std::cell::OnceCell;

/// What such lists are called where there is no memory for them.
const WHAT: &str = "evaluations of the student";

/// The evaluations that a term is the mean over.
#[derive(Default)]
pub struct Evaluations {
    steps: Vec<Evaluated>,
    /// Values that the backward pass may compute again instead of keeping.
    pub inside: Vec<ValueId>,
}

impl Evaluations {
    /// Those at a point, which is drawn.
    pub(super) fn of(g: &mut Graph, context: &TermContext, point: Point, draws: &Draws, sources: &Sources) -> Result<Self> {
        match point.draw(g, context, draws, sources)? {
            Drawn::At(at) => Self::at(g, context, at),
            Drawn::Chain(batch) => Self::along(g, context, &batch),
        }
    }

    /// The one at these states.
    pub fn at(g: &mut Graph, context: &TermContext, at: At) -> Result<Self> {
        let mut this = Self::default();
        memory::push(&mut this.steps, Evaluated::new(g, context, at)?, WHAT)?;
        Ok(this)
    }

    /// Those along a run from noise: each step begins where the student's last one has landed. What is inside a step is computed again in the backward pass, so
    /// that a run of any length keeps the states between its steps, and one step.
    pub fn along(g: &mut Graph, context: &TermContext, batch: &ChainBatch) -> Result<Self> {
        let rows = g.shape(batch.noise)[0];
        let place = g.constant("chain.place", Tensor::zeros(DType::I32, &[rows])?)?;
        let (mut this, mut x) = (Self::default(), batch.noise);
        for (k, (&(t, next), target)) in context.pairs.iter().zip(&batch.targets).enumerate() {
            let mark = g.mark();
            let time = g.constant_fill("chain.timestep", &[rows], t as f32)?;
            let (conditions, places) = (memory::copy(&batch.conditions, WHAT)?, memory::copy(&[Place { t, next: Some(next) }], WHAT)?);
            let at = At { x, t: time, conditions, places, place, step: Some(Step::All(k)), data: None, next: Some(*target), teacher: OnceCell::new() };
            let evaluated = Evaluated::new(g, context, at)?;
            // The way back begins with the last step, which is still there, and no step leads on from it.
            if this.steps.len() + 1 < context.pairs.len() {
                memory::append(&mut this.inside, &g.values_since(mark)?, WHAT)?;
                x = student_step(g, context, (t, next), [x, evaluated.student])?;
            }
            memory::push(&mut this.steps, evaluated, WHAT)?;
        }
        Ok(this)
    }

    /// What a block of the student and one of the teacher give at the point.
    pub(super) fn features(&self, g: &mut Graph, context: &TermContext, paths: [&str; 2]) -> Result<[ValueId; 2]> {
        match self.steps.as_slice() {
            [step] => step.features(g, context, paths),
            _ => Err(Error::internal("features along a run")),
        }
    }

    /// Where the student's last step lands, and where the teacher's does from the same noise, [B,H,W,C] both.
    pub(super) fn ends(&self, g: &mut Graph, context: &TermContext) -> Result<[ValueId; 2]> {
        let (Some(pair), Some(last)) = (context.pairs.last(), self.steps.last()) else { return Err(Error::internal("a run without steps")) };
        let target = last.at.next.ok_or_else(|| Error::internal("a run without the teacher's"))?;
        Ok([student_step(g, context, *pair, [last.at.x, last.student])?, target])
    }

    /// Loss [1] of a term, without the term's factor; `fit` as in [`Evaluated::loss`].
    pub fn loss(&mut self, g: &mut Graph, context: &TermContext, term: &Term, fit: Option<ValueId>) -> Result<ValueId> {
        let mut losses = memory::try_collect(self.steps.iter_mut().map(|step| step.loss(g, context, term, fit)), WHAT)?;
        if losses.len() == 1 {
            return Ok(losses.remove(0));
        }
        let all = g.concat(&losses)?;
        g.mean(all)
    }
}

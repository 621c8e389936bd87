//! Distribution matching distillation as a finisher (DMD, arXiv 2311.18828; as in DMD2, arXiv 2405.14867): the images that the student's runs end in are to be
//! as likely under what the teacher knows as under themselves. Both are asked through denoising: the end of a run is noised, the frozen teacher says which data
//! it takes it for, and so does a critic, which learns nothing but to denoise the student's own ends. Where the two disagree, the end moves towards the
//! teacher's.
//!
//! The critic is a network of the teacher's shape that begins with the teacher's weights: it has its own set of parameters and its own phase, after the
//! student's. It learns from the first step on, the student from it only after [`DmdTerm::begin`] steps, when the critic knows the student's images.

use super::context::{Needs, Role, TermContext};
use super::draws::Draws;
use super::loss::{Evaluated, table};
use super::objective::Objective;
use super::points::data::DataBatch;
use super::points::{At, Point};
use super::term::NormKind;
use crate::diffusion::Weight;
use crate::error::{Error, Result};
use crate::graph::ops::{Combine, IntAffine, StopGradient, UnaryKind};
use crate::graph::{Graph, ValueId};
use crate::memory;
use crate::nn::{Model, Predictor};
use crate::random::Purpose;

/// The critic's set of parameters, and its phase.
pub const CRITIC: &str = "critic";
/// Before the critic's parameters in a training graph, as its set names them.
const PREFIX: &str = "critic.";
/// One in so many timesteps, at either end, is not drawn: hardly noised ends and hardly visible ones tell the two networks apart by nothing of use.
const MARGIN: usize = 50;

/// The ends of the student's runs are to be moved to where the teacher finds them likely.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DmdTerm {
    /// Factor on this term.
    pub weight: f32,
    /// Steps before the student learns by it; the critic learns from the first on.
    pub begin: u64,
    /// The critic's learning rate; all else of how it learns is the student's.
    pub learning_rate: f64,
}

impl DmdTerm {
    /// Where the student is evaluated: along its whole run, through which the gradient flows back.
    pub const POINT: Point = Point::Chain;

    /// What it cannot be built without.
    pub fn needs(&self) -> Needs {
        Needs { teacher: true, ..Self::POINT.kind().needs }
    }

    /// The factor in the step after `done` steps.
    pub fn factor(&self, done: u64) -> f32 {
        if done < self.begin { 0.0 } else { self.weight }
    }

    /// Refuses numbers that mean nothing.
    pub fn check(&self) -> Result<()> {
        if self.weight.is_finite() { Ok(()) } else { Err(Error::invalid(format!("the weight of DMD is {}; it must be finite", self.weight))) }
    }
}

impl<'a> Role<'a> {
    /// The network that learns what the student's ends are like.
    pub(super) fn critic(model: &'a Model) -> Self {
        Self { network: Predictor::new(model, PREFIX), prediction: model.scheduler.prediction() }
    }
}

/// The ends of a batch of the student's runs, and what judges them.
pub(super) struct Judged<'a> {
    /// It.
    pub critic: Role<'a>,
    /// Where the runs end [B,H,W,C].
    pub ends: ValueId,
    /// The model's conditions, in their order.
    pub conditions: Vec<ValueId>,
    /// The draws of the student's phase; the critic's are the next ones.
    pub draws: Draws,
}

impl Judged<'_> {
    /// The ends, as data without gradient, with noise of any level.
    fn noised(&self, g: &mut Graph, context: &TermContext, draws: &Draws) -> Result<At> {
        let &[_, h, w, c] = g.shape(self.ends) else { return Err(Error::internal("ends that are no images")) };
        let (timesteps, margin) = (context.schedule.len(), context.schedule.len() / MARGIN);
        let drawn = draws.integers(g, Purpose::Timestep, timesteps - 2 * margin)?;
        let place = g.push1(IntAffine { scale: 0, shift: margin as i32 }.into(), &[drawn, drawn])?;
        let (data, noise) = (g.push1(StopGradient.into(), &[self.ends])?, draws.noise(g, [h, w, c])?);
        DataBatch { data, noise, place, conditions: memory::copy(&self.conditions, "conditions")? }.at(g, context, false)
    }

    /// The student's loss [1], without its factor: half the mean square of what the ends are to be moved by, whose gradient is that move itself.
    pub fn loss(&self, g: &mut Graph, context: &TermContext) -> Result<ValueId> {
        /// Beside the mean error of the teacher's data, for an end that it predicts exactly.
        const LEAST: f32 = 1e-6;
        let at = self.noised(g, context, &self.draws)?;
        let x0 = at.data.ok_or_else(|| Error::internal("noised data without its data"))?;
        let [real, fake] = [context.teacher()?, self.critic].map(|role| data(g, context, role, &at));
        let (real, fake) = (real?, fake?);
        let apart = g.sub(fake, real)?;
        // By the mean error of the teacher's data, image by image: noisier ends are told apart by larger differences.
        let error = g.sub(x0, real)?;
        let error = g.unary(UnaryKind::Abs, error)?;
        let (rows, each) = (g.shape(error)[0], g.shape(error)[1..].iter().product::<usize>());
        let error = g.reduce_sum(error, &[rows, 1, 1, 1])?;
        let error = g.affine(error, 1.0 / each as f32, LEAST)?;
        let root = g.unary(UnaryKind::Rsqrt, error)?;
        let inverse = g.mul(root, root)?;
        let moved = g.mul(apart, inverse)?;
        let target = g.sub(x0, moved)?;
        let target = g.push1(StopGradient.into(), &[target])?;
        let difference = g.sub(self.ends, target)?;
        let square = g.unary(UnaryKind::Square, difference)?;
        let mean = g.mean(square)?;
        g.affine(mean, 0.5, 0.0)
    }

    /// The critic's loss [1]: that of denoising the ends.
    pub fn critic_loss(&self, g: &mut Graph, context: &TermContext) -> Result<ValueId> {
        let &TermContext { teacher, schedule, pairs, walk, .. } = context;
        let context = TermContext { student: self.critic, teacher, schedule, pairs, walk, self_teacher: None };
        let at = self.noised(g, &context, &Draws { stream: self.draws.stream + 1, ..self.draws })?;
        Evaluated::new(g, &context, at)?.loss(g, &context, &Objective::Denoise.term(Weight::V, NormKind::L2), None)
    }
}

/// The data that a network takes x_t for [B,H,W,C].
fn data(g: &mut Graph, context: &TermContext, role: Role, at: &At) -> Result<ValueId> {
    let out = role.network.predict(g, at.x, at.t, &at.conditions)?;
    let rows = at.places.iter().map(|place| {
        let linear = context.schedule.level(place.t).and_then(|level| role.prediction.data(level));
        (place.t, linear.map(|linear| [linear.x, linear.out]))
    });
    let coefficients = table(g, "data.coefficients", Weight::Const, rows)?;
    let coefficients = g.gather(coefficients, at.place)?;
    g.push1(Combine { first: 0 }.into(), &[coefficients, at.x, out])
}

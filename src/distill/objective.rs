//! What a student is asked to match. Every objective is a difference d = c0 x_t + c1 student + c2 target, a norm and a mean; the coefficients carry
//! parametrisation and weight (research: state, epsilon, x0 and v errors differ only by a weight for each step).

use crate::diffusion::table::is_coefficient;
use crate::diffusion::trajectory::{Ddim, Weight, denoise_loss_coefficients, loss_coefficients, output_loss_coefficients};
use crate::diffusion::{NoiseSchedule, Prediction};
use crate::error::{Error, Result};
use crate::graph::ops::{Cast, Combine, StopGradient, UnaryKind};
use crate::graph::{Graph, ValueId};
use crate::memory;
use crate::nn::{Model, Predictor};
use crate::tensor::{DType, Tensor};

/// The objectives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// The teacher's prediction at the same x_t, t, with x_t made from data.
    Output,
    /// The teacher's next cached state, from the teacher's own state.
    TeacherForced,
    /// The teacher's next cached state of the same noise, from the state that the student itself reaches (detached).
    OnPolicy,
    /// The data that x_t was made from: trains a teacher, needs none.
    Denoise,
}

impl Objective {
    /// Whether cached teacher trajectories are read.
    pub fn needs_cache(self) -> bool {
        matches!(self, Objective::TeacherForced | Objective::OnPolicy)
    }

    /// Whether a dataset is read.
    pub fn needs_data(self) -> bool {
        !self.needs_cache()
    }

    /// Whether a teacher network is read, in the loop or for the cache.
    pub fn needs_teacher(self) -> bool {
        self != Objective::Denoise
    }
}

/// Norm of the difference, element by element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormKind {
    /// |d|.
    L1,
    /// d^2.
    L2,
    /// d^2/2 inside |d| <= delta, delta (|d| - delta/2) outside.
    Huber(f32),
}

/// One term of the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// What is matched.
    pub objective: Objective,
    /// Factor on this term.
    pub weight: f32,
    /// Weight of each step, on the squared x0 error.
    pub step_weight: Weight,
    /// Norm of the difference.
    pub norm: NormKind,
}

/// The networks and grids that terms are built from.
pub struct TermContext<'a> {
    /// The network that learns; its parameters are states named `student.*`.
    pub student: &'a Model,
    /// What its output reads as.
    pub student_prediction: Prediction,
    /// The frozen network, `teacher.*`.
    pub teacher: Option<(Predictor<'a>, Prediction)>,
    /// The noise schedule of both.
    pub schedule: &'a NoiseSchedule,
    /// The student's grid.
    pub pairs: &'a [(i64, i64)],
}

/// Prefix of the student's parameters in a training graph.
pub const STUDENT: &str = "student.";
/// Prefix of the teacher's parameters in a training graph.
pub const TEACHER: &str = "teacher.";

/// Operands of a trajectory term.
pub struct TrajectoryBatch {
    /// Step pair of each row, i32 [B].
    pub pair: ValueId,
    /// Teacher-forced: the teacher's state at the start of the pair. On-policy: x_T. [B,H,W,C].
    pub state: ValueId,
    /// The teacher's state at the end of the pair.
    pub target: ValueId,
    /// The model's conditions, in their order.
    pub conditions: Vec<ValueId>,
}

/// Operands of an output or denoise term.
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

impl TermContext<'_> {
    fn student_at(&self, g: &mut Graph, x: ValueId, t: ValueId, conditions: &[ValueId]) -> Result<ValueId> {
        Predictor::new(self.student, STUDENT).predict(g, x, t, conditions)
    }

    /// Loss [1] of a teacher-forced or on-policy term, without the term's factor.
    pub fn trajectory_loss(&self, g: &mut Graph, term: &Term, batch: &TrajectoryBatch) -> Result<ValueId> {
        let x = match term.objective {
            Objective::OnPolicy => self.own_states(g, batch)?,
            _ => batch.state,
        };
        let times = memory::collect(self.pairs.iter().map(|p| p.0 as f32), "timesteps")?;
        let times = g.constant("pair.timesteps", Tensor::from_slice(&[times.len()], &times)?)?;
        let t = g.gather(times, batch.pair)?;
        let out = self.student_at(g, x, t, &batch.conditions)?;
        let rows = self.pairs.iter().map(|p| (p.0, loss_coefficients(self.schedule, *p, self.student_prediction, term.step_weight)));
        let coefficients = table(g, "pair.coefficients", term.step_weight, rows)?;
        let coefficients = g.gather(coefficients, batch.pair)?;
        difference_loss(g, coefficients, [x, out, batch.target], term.norm)
    }

    /// The state that the student reaches from x_T after as many of its own steps as each row's pair has before it; no gradient flows back.
    fn own_states(&self, g: &mut Graph, batch: &TrajectoryBatch) -> Result<ValueId> {
        let n = self.pairs.len();
        if n > 8 {
            return Err(Error::unsupported(format!("on_policy supports up to 8 student steps, found {n}")));
        }
        let b = g.shape(batch.state)[0];
        let mut states = vec![batch.state];
        for (j, &(t, next)) in self.pairs[..n - 1].iter().enumerate() {
            let time = g.constant_fill("own.timestep", &[b], t as f32)?;
            let out = self.student_at(g, states[j], time, &batch.conditions)?;
            let (from, to) = (self.schedule.level(t)?, self.schedule.level(next)?);
            let [cx, co] = Ddim::new(from, to).coefficients(from, self.student_prediction)?;
            states.push(g.weighted_sum(&[(cx, states[j]), (co, out)])?);
        }
        let mut identity = vec![0f32; n * n];
        (0..n).for_each(|i| identity[i * n + i] = 1.0);
        let identity = g.constant("own.choice", Tensor::from_slice(&[n, n], &identity)?)?;
        let choice = g.gather(identity, batch.pair)?;
        let operands: Vec<_> = std::iter::once(choice).chain(states).collect();
        let x = g.push1(Combine { first: 0 }.into(), &operands)?;
        g.push1(StopGradient.into(), &[x])
    }

    /// Loss [1] of an output or denoise term, without the term's factor.
    pub fn data_loss(&self, g: &mut Graph, term: &Term, batch: &DataBatch) -> Result<ValueId> {
        let steps = self.schedule.len() as i64;
        let forward = (0..steps).map(|t| (t, self.schedule.level(t).map(|l| [l.alpha, l.sigma])));
        let forward = table(g, "forward.coefficients", Weight::Const, forward)?;
        let forward = g.gather(forward, batch.timestep)?;
        let x = g.push1(Combine { first: 0 }.into(), &[forward, batch.data, batch.noise])?;
        let t = g.push1(Cast { to: DType::F32 }.into(), &[batch.timestep])?;
        let out = self.student_at(g, x, t, &batch.conditions)?;
        let (coefficients, target) = match (term.objective, self.teacher) {
            (Objective::Output, Some((teacher, prediction))) => {
                let target = teacher.predict(g, x, t, &batch.conditions)?;
                let row = |t| output_loss_coefficients(self.schedule, t, None, self.student_prediction, prediction, term.step_weight);
                (table(g, "output.coefficients", term.step_weight, (0..steps).map(|t| (t, row(t))))?, target)
            }
            (Objective::Denoise, _) => {
                let row = |t| denoise_loss_coefficients(self.schedule, t, None, self.student_prediction, term.step_weight);
                (table(g, "denoise.coefficients", term.step_weight, (0..steps).map(|t| (t, row(t))))?, batch.data)
            }
            _ => return Err(Error::invalid("the output objective needs a teacher")),
        };
        let coefficients = g.gather(coefficients, batch.timestep)?;
        difference_loss(g, coefficients, [x, out, target], term.norm)
    }
}

/// The rows of a table of coefficients, each with the timestep that it is for; an error for one that float32 does not hold, whose batches would be NaN.
fn table<const K: usize>(g: &mut Graph, name: &str, weight: Weight, rows: impl Iterator<Item = (i64, Result<[f64; K]>)>) -> Result<ValueId> {
    let mut data = memory::with_capacity::<f32>(rows.size_hint().0.saturating_mul(K), name)?;
    let mut count = 0;
    for (t, row) in rows {
        let at = || format!("timestep {t}");
        let row = row.map_err(|e| e.context(at()))?;
        if let Some(c) = row.iter().find(|c| !is_coefficient(**c)) {
            let name = weight.name();
            return Err(Error::numeric(format!(
                "{}: a coefficient of the loss with weight {name} is {c:e}, which float32 does not hold; use another weight",
                at()
            )));
        }
        memory::append(&mut data, &row.map(|c| c as f32), name)?;
        count += 1;
    }
    g.constant(name, Tensor::from_slice(&[count, K], &data)?)
}

fn difference_loss(g: &mut Graph, coefficients: ValueId, [x, out, target]: [ValueId; 3], norm: NormKind) -> Result<ValueId> {
    let d = g.push1(Combine { first: 0 }.into(), &[coefficients, x, out, target])?;
    let kind = match norm {
        NormKind::L1 => UnaryKind::Abs,
        NormKind::L2 => UnaryKind::Square,
        NormKind::Huber(delta) => UnaryKind::Huber(delta),
    };
    let normed = g.unary(kind, d)?;
    g.mean(normed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_that_float32_does_not_hold_are_named() {
        let mut g = Graph::new();
        for (row, good) in [([1.0, 3e38], true), ([1.0, 4e38], false), ([f64::NAN, 0.0], false)] {
            let made = table(&mut g, "rows", Weight::TruncSnr, [(999, Ok([0.0, 1.0])), (7, Ok(row))].into_iter());
            assert_eq!(made.is_ok(), good, "{row:?}");
            let Err(error) = made else { continue };
            assert!(error.message.contains("timestep 7") && error.message.contains("trunc_snr"), "{error}");
        }
    }
}

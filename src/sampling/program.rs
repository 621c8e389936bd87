//! What a sampling run is as a program of the graph: a segment that draws the noise, then a segment for each step, or one that is gone through once a step.

use crate::backend::{Executable, as_bytes};
use crate::cancel::Stop;
use crate::diffusion::table::Step;
use crate::diffusion::{Clip, MEMORY, Sum, Table};
use crate::error::{Error, Result};
use crate::graph::ops::{Assign, Combine, DynamicThreshold, RandomNormal, UnaryKind};
use crate::graph::{Graph, TensorType, ValueId};
use crate::memory;
use crate::nn::{Condition, Guidance, Model, Predictor, Step as Own, When};
use crate::random::Purpose;
use crate::tensor::{DType, Tensor};

/// The state that holds x_t [N,H,W,C] between steps.
pub(super) const X: &str = "sampler.x";
/// The states that hold what a sampler keeps from step to step, by place.
const KEPT: [&str; MEMORY] = ["sampler.k0", "sampler.k1", "sampler.k2", "sampler.k3", "sampler.k4"];

/// The segment that draws x_T.
pub(super) const INIT: &str = "init";

/// The segment of sampler step `k`.
pub(super) fn step_segment(k: usize) -> String {
    format!("step {k}")
}

/// Seed, sample indices: what noise depends on.
#[derive(Clone, Copy)]
struct Draw {
    seed: ValueId,
    samples: ValueId,
    image: [usize; 3],
}

/// The steps of a table that a piece of program does.
#[derive(Clone, Copy)]
pub enum Does<'a> {
    /// One of them: its factors are constants.
    One(&'a Step),
    /// Whichever `row` i32 [N] says for each image: factors are rows of tables.
    Any {
        /// Those that there are.
        steps: &'a [Step],
        /// Which of them each image does.
        row: ValueId,
    },
}

/// What a sampler has kept at each place, where there is anything.
pub type Kept = [Option<ValueId>; MEMORY];

/// What a step's sums are made of: x, the model's output, the clipped prediction, what was kept, and noise.
const TERMS: usize = 4 + MEMORY;

impl<'a> Does<'a> {
    fn steps(&self) -> &'a [Step] {
        match self {
            Does::One(step) => std::slice::from_ref(*step),
            Does::Any { steps, .. } => steps,
        }
    }

    /// The sum of `values` with the factors that `of` gives for a step, as many; those that are 0 in every step have no part in it, and may not be there.
    fn sum(&self, g: &mut Graph, values: &[Option<ValueId>], of: impl Fn(&Step, usize) -> f64) -> Result<ValueId> {
        let used: Vec<usize> = (0..values.len()).filter(|i| self.steps().iter().any(|s| of(s, *i) != 0.0)).collect();
        let value = |i: usize| values[i].ok_or_else(|| Error::internal("a sampler step reads what no step has kept"));
        match (self, &used[..]) {
            (_, []) => g.weighted_sum(&[(0.0, value(0)?)]),
            (Does::One(step), used) => {
                let terms = memory::try_collect(used.iter().map(|i| Ok((of(step, *i), value(*i)?))), "coefficients")?;
                g.weighted_sum(&terms)
            }
            (Does::Any { steps, row }, used) => {
                let factors = memory::collect(steps.iter().flat_map(|s| used.iter().map(|i| of(s, *i) as f32)), "coefficients")?;
                let table = g.constant("coefficients", Tensor::from_slice(&[steps.len(), used.len()], &factors)?)?;
                let rows = g.gather(table, *row)?;
                let operands = memory::try_collect(std::iter::once(Ok(rows)).chain(used.iter().map(|i| value(*i))), "coefficients")?;
                g.push1(Combine { first: 0 }.into(), &operands)
            }
        }
    }

    /// A number of each step, for every image: f32 [N].
    pub fn number(&self, g: &mut Graph, name: &str, batch: usize, of: impl Fn(&Step) -> f64) -> Result<ValueId> {
        match self {
            Does::One(step) => g.constant_fill(name, &[batch], of(step) as f32),
            Does::Any { steps, row } => {
                let numbers = memory::collect(steps.iter().map(|s| of(s) as f32), "sampler steps")?;
                let table = g.constant(name, Tensor::from_slice(&[steps.len()], &numbers)?)?;
                g.gather(table, *row)
            }
        }
    }

    /// The state x, or its multiple where the sampler scales what the network sees.
    pub fn network_input(&self, g: &mut Graph, x: ValueId) -> Result<ValueId> {
        if self.steps().iter().all(|s| s.input == 1.0) { Ok(x) } else { self.sum(g, &[Some(x)], |s, _| s.input) }
    }

    /// The next x from x and the model's prediction `out` [N,H,W,C] there, and what each place then keeps, `None` where that stays what it is; `fresh` gives
    /// noise.
    pub fn next(
        &self,
        g: &mut Graph,
        clip: &Clip,
        [x, out]: [ValueId; 2],
        kept: &Kept,
        fresh: impl FnOnce(&mut Graph) -> Result<ValueId>,
    ) -> Result<(ValueId, Kept)> {
        let mut values = [None; TERMS];
        values[..2].copy_from_slice(&[Some(x), Some(out)]);
        if self.steps().iter().any(Step::reads_m0) {
            let x0 = self.sum(g, &[Some(x), Some(out)], |s, i| [s.x0_x, s.x0_out][i])?;
            values[2] = Some(clipped(g, x0, clip)?);
        }
        values[3..3 + MEMORY].copy_from_slice(kept);
        if self.steps().iter().any(|s| s.noise != 0.0) {
            values[3 + MEMORY] = Some(fresh(g)?);
        }
        let next = self.sum(g, &values, |s, i| s.next.factors().chain([s.noise]).nth(i).unwrap_or(0.0))?;
        let mut keeps = [None; MEMORY];
        for (j, keeps) in keeps.iter_mut().enumerate() {
            let of = |s: &Step, i: usize| s.keep[j].unwrap_or_else(|| Sum::kept(j)).factors().nth(i).unwrap_or(0.0);
            let same = |i: usize| self.steps().iter().all(|s| (0..3 + MEMORY).all(|k| of(s, k) == f64::from(u8::from(k == i))));
            *keeps = match (0..3 + MEMORY).find(|i| same(*i)) {
                Some(i) if i == 3 + j => None,
                Some(i) => values[i], // a place in which nothing is yet passes on nothing
                None => Some(self.sum(g, &values[..3 + MEMORY], of)?),
            };
        }
        Ok((next, keeps))
    }

    /// The same with x and what is kept as the run's states.
    fn update(&self, g: &mut Graph, table: &Table, out: ValueId, fresh: impl FnOnce(&mut Graph) -> Result<ValueId>) -> Result<()> {
        let x = current(g, X)?;
        let mut kept = [None; MEMORY];
        for (place, name) in kept.iter_mut().zip(KEPT).take(table.memory) {
            *place = Some(current(g, name)?);
        }
        let (next, keeps) = self.next(g, &table.clip, [x, out], &kept, fresh)?;
        let places = kept.into_iter().zip(keeps).filter_map(|(place, new)| place.zip(new));
        assign(g, memory::collect(std::iter::once((x, next)).chain(places), "sampler steps")?)
    }
}

/// Appends assignments (state, new value) in an order in which no state is overwritten before it is copied.
fn assign(g: &mut Graph, mut updates: Vec<(ValueId, ValueId)>) -> Result<()> {
    while !updates.is_empty() {
        let free = updates.iter().position(|(state, _)| updates.iter().all(|(other, new)| new != state || other == state));
        let (state, new) = updates.remove(free.ok_or_else(|| Error::internal("a sampler step exchanges what it keeps"))?);
        g.push1(Assign.into(), &[state, new])?;
    }
    Ok(())
}

fn clipped(g: &mut Graph, x0: ValueId, clip: &Clip) -> Result<ValueId> {
    match *clip {
        Clip::None => Ok(x0),
        Clip::Range(range) => g.unary(UnaryKind::Clamp(-range as f32, range as f32), x0),
        Clip::Dynamic { ratio, max } => g.push1(DynamicThreshold { ratio, max }.into(), &[x0]),
    }
}

fn current(g: &Graph, name: &str) -> Result<ValueId> {
    g.storage(name).map(|s| g.current(s)).ok_or_else(|| Error::internal(format!("no state '{name}'")))
}

/// Noise of a step i64 [1], by number.
fn noise(g: &mut Graph, purpose: Purpose, step: ValueId, draw: Draw) -> Result<ValueId> {
    g.push1(RandomNormal { purpose, image: draw.image }.into(), &[draw.seed, step, draw.samples])
}

fn number(g: &mut Graph, step: i64) -> Result<ValueId> {
    g.constant("noise.step", Tensor::from_slice(&[1], &[step])?)
}

/// The most steps that are written one after the other: what depends on a step's timestep alone is then computed once and for all, which is what few-step
/// students gain by. A longer run is one step's program, over tables of the steps' numbers: its plan is as small as that of one step.
pub const UNROLLED: usize = 16;

/// What a run is compiled for.
#[derive(Clone, Debug)]
pub struct RunSpec<'a> {
    /// Coefficients of every step.
    pub table: &'a Table,
    /// N.
    pub batch: usize,
    /// [H, W] of a sample.
    pub size: [usize; 2],
    /// Whose noise: evaluation for users, data for training caches, so that the two never meet.
    pub purpose: Purpose,
    /// Type of the network's activations; the state stays f32.
    pub precision: DType,
    /// If the predictions are guided.
    pub guidance: Option<Guidance>,
    /// A run of more steps loops over one; see [`UNROLLED`].
    pub unrolled: usize,
}

/// Inputs of a looped step: its number, for the draws i64 [1], and as the row of tables i32 [N].
#[derive(Clone, Copy)]
pub(super) struct Counter {
    number: ValueId,
    row: ValueId,
}

impl Counter {
    fn declare(g: &mut Graph, batch: usize) -> Result<Self> {
        let number = g.input("step.number", TensorType::new(DType::I64, &[1]))?;
        Ok(Self { number, row: g.input("step.row", TensorType::new(DType::I32, &[batch]))? })
    }

    /// Step `k` comes next.
    pub fn write(&self, exec: &mut dyn Executable, rows: &mut [i32], k: usize) -> Result<()> {
        rows.fill(k as i32);
        exec.write_bytes(self.number, as_bytes(&[k as i64]))?;
        exec.write_bytes(self.row, as_bytes(rows))
    }
}

/// A whole run as a program, and what the host writes into it.
pub(super) struct Program {
    pub graph: Graph,
    pub seed: ValueId,
    pub samples: ValueId,
    /// What the model takes.
    pub conditions: Vec<Condition>,
    /// Where each of these goes.
    pub inputs: Vec<ValueId>,
    /// In a run that loops: where the step's number goes.
    pub counter: Option<Counter>,
    /// Where the host writes predictions, if it makes them.
    pub prediction: Option<ValueId>,
    /// [N,H,W,C].
    pub shape: [usize; 4],
}

/// Who makes the predictions of a program.
enum Predicts<'a> {
    /// A model, given the values of these inputs.
    Model(Predictor<'a>, &'a [ValueId]),
    /// The host, which writes them here.
    Host(ValueId),
}

impl Predicts<'_> {
    /// The prediction [N,H,W,C] of what a step does, the `k`th or whichever a program that loops is at.
    fn predict(&self, g: &mut Graph, does: Does, k: usize, batch: usize) -> Result<ValueId> {
        match self {
            Predicts::Host(prediction) => Ok(*prediction),
            Predicts::Model(predictor, inputs) => {
                let t = does.number(g, "timestep", batch, |s| s.t)?;
                let x = current(g, X)?;
                let x = does.network_input(g, x)?;
                // A model whose steps have parameters of their own is sampled on its own grid alone, step by step.
                let step = if let Does::Any { row, .. } = does { Own::Rows(row) } else { Own::All(k) };
                predictor.predict(g, x, When { t, step: Some(step) }, inputs)
            }
        }
    }
}

impl Program {
    /// Of a model whose parameters are states without a prefix.
    pub fn new(model: &Model, spec: &RunSpec, stop: Stop) -> Result<Self> {
        let roles = model.roles()?;
        let shape = [spec.batch, spec.size[0], spec.size[1], roles.channels];
        let mut g = Graph::new();
        let RunGraph { draw } = RunGraph::start(&mut g, spec, shape)?;
        let input = |c: &Condition| g.input(c.name.clone(), c.kind.ty(spec.batch, spec.size));
        let inputs = memory::try_collect(roles.conditions.iter().map(input), "conditions")?;
        let predictor = Predictor { guidance: spec.guidance, ..Predictor::new(model, "") };
        let counter = steps(&mut g, spec, draw, &Predicts::Model(predictor, &inputs), stop)?;
        Ok(Self { graph: g, seed: draw.seed, samples: draw.samples, conditions: roles.conditions, inputs, counter, prediction: None, shape })
    }

    /// Of predictions that the host makes from the state: for steps that scale nothing that a network sees.
    pub fn hosted(channels: usize, spec: &RunSpec, stop: Stop) -> Result<Self> {
        let shape = [spec.batch, spec.size[0], spec.size[1], channels];
        let mut g = Graph::new();
        let RunGraph { draw } = RunGraph::start(&mut g, spec, shape)?;
        let prediction = g.input("prediction", TensorType::f32(&shape))?;
        let counter = steps(&mut g, spec, draw, &Predicts::Host(prediction), stop)?;
        let (conditions, inputs) = (vec![], vec![]);
        Ok(Self { graph: g, seed: draw.seed, samples: draw.samples, conditions, inputs, counter, prediction: Some(prediction), shape })
    }
}

/// Appends the steps, or the one that is gone through as often; its counter then.
fn steps(g: &mut Graph, spec: &RunSpec, draw: Draw, predicts: &Predicts, stop: Stop) -> Result<Option<Counter>> {
    let steps = &spec.table.steps;
    let looped = steps.len() > spec.unrolled;
    let counter = looped.then(|| Counter::declare(g, spec.batch)).transpose()?;
    for k in 0..if looped { 1 } else { steps.len() } {
        stop.check()?;
        g.begin_segment(step_segment(k));
        let does = counter.map_or(Does::One(&steps[k]), |c| Does::Any { steps, row: c.row });
        let out = predicts.predict(g, does, k, spec.batch)?;
        does.update(g, spec.table, out, |g| {
            let step = counter.map_or_else(|| number(g, k as i64), |c| Ok(c.number))?;
            noise(g, Purpose::Noise, step, draw)
        })?;
    }
    Ok(counter)
}

/// The part of a run that does not depend on the model; the scheduler tests drive it with a model of their own.
pub struct RunGraph {
    draw: Draw,
}

impl RunGraph {
    /// States, inputs and the segment that draws x_T.
    pub fn start(g: &mut Graph, spec: &RunSpec, shape: [usize; 4]) -> Result<Self> {
        g.begin_segment(INIT);
        let ty = TensorType::f32(&shape);
        let x = g.state(X, ty.clone())?;
        for name in KEPT.iter().take(spec.table.memory) {
            g.state(*name, ty.clone())?;
        }
        let seed = g.input("seed", TensorType::new(DType::I64, &[1]))?;
        let samples = g.input("samples", TensorType::new(DType::I32, &[spec.batch]))?;
        let draw = Draw { seed, samples, image: [shape[1], shape[2], shape[3]] };
        let step = number(g, 0)?;
        let mut noise = noise(g, spec.purpose, step, draw)?;
        if spec.table.initial != 1.0 {
            noise = g.weighted_sum(&[(spec.table.initial, noise)])?;
        }
        g.push1(Assign.into(), &[x, noise])?;
        Ok(Self { draw })
    }

    /// What the model sees in step `k`: the state, or its multiple where the sampler scales it.
    pub fn network_input(&self, g: &mut Graph, table: &Table, k: usize) -> Result<ValueId> {
        let x = current(g, X)?;
        Does::One(&table.steps[k]).network_input(g, x)
    }

    /// The update of step `k` from the model's prediction, with `z` [N,H,W,C] for the noise, if the step has any: what a test gives that repeats a recorded run.
    pub fn update(&self, g: &mut Graph, table: &Table, k: usize, out: ValueId, z: Option<ValueId>) -> Result<()> {
        Does::One(&table.steps[k]).update(g, table, out, |_| z.ok_or_else(|| Error::invalid(format!("step {k} needs noise"))))
    }
}

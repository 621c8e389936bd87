//! A sampling run as one plan: noise, then for each step the model's evaluation and the sampler's update, one segment a step.

use crate::backend::{Backend, Executable, HostSlice, Memory, as_bytes};
use crate::cancel::{Stop, cancelled};
use crate::diffusion::table::Step;
use crate::diffusion::{Clip, MEMORY, Sum, Table};
use crate::error::{Error, Result};
use crate::graph::ops::{Assign, Combine, DynamicThreshold, RandomNormal, UnaryKind};
use crate::graph::{Graph, Numerics, TensorType, ValueId};
use crate::memory;
use crate::nn::conditions::{Values, assign_all};
use crate::nn::{Condition, ConditionKind, Guidance, Model, Predictor};
use crate::random::Purpose;
use crate::tensor::{DType, Tensor, try_vec};
use std::ops::Range;
use std::time::{Duration, Instant};

/// The state that holds x_t [N,H,W,C] between steps.
const X: &str = "sampler.x";
/// The states that hold what a sampler keeps from step to step, by place.
const KEPT: [&str; MEMORY] = ["sampler.k0", "sampler.k1", "sampler.k2", "sampler.k3", "sampler.k4"];

/// The segment that draws x_T.
const INIT: &str = "init";

/// The segment of sampler step `k`.
fn step_segment(k: usize) -> String {
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
enum Does<'a> {
    /// One of them: its factors are constants.
    One(&'a Step),
    /// Whichever `row` i32 [N] says, the same in each element: factors are rows of tables.
    Any { steps: &'a [Step], row: ValueId },
}

impl<'a> Does<'a> {
    fn steps(&self) -> &'a [Step] {
        match self {
            Does::One(step) => std::slice::from_ref(*step),
            Does::Any { steps, .. } => steps,
        }
    }

    /// The sum of `values` with the factors that `of` gives for a step, as many; those that are 0 in every step have no part in it.
    fn sum(&self, g: &mut Graph, values: &[ValueId], of: impl Fn(&Step, usize) -> f64) -> Result<ValueId> {
        let used: Vec<usize> = (0..values.len()).filter(|i| self.steps().iter().any(|s| of(s, *i) != 0.0)).collect();
        match (self, &used[..]) {
            (_, []) => g.weighted_sum(&[(0.0, values[0])]),
            (Does::One(step), used) => g.weighted_sum(&used.iter().map(|i| (of(step, *i), values[*i])).collect::<Vec<_>>()),
            (Does::Any { steps, row }, used) => {
                let factors = memory::collect(steps.iter().flat_map(|s| used.iter().map(|i| of(s, *i) as f32)), "coefficients")?;
                let table = g.constant("coefficients", Tensor::from_slice(&[steps.len(), used.len()], &factors)?)?;
                let rows = g.gather(table, *row)?;
                let operands: Vec<_> = std::iter::once(rows).chain(used.iter().map(|i| values[*i])).collect();
                g.push1(Combine { first: 0 }.into(), &operands)
            }
        }
    }

    /// A number of each step, for every image: f32 [N].
    fn number(&self, g: &mut Graph, name: &str, batch: usize, of: impl Fn(&Step) -> f64) -> Result<ValueId> {
        match self {
            Does::One(step) => g.constant_fill(name, &[batch], of(step) as f32),
            Does::Any { steps, row } => {
                let numbers = memory::collect(steps.iter().map(|s| of(s) as f32), "sampler steps")?;
                let table = g.constant(name, Tensor::from_slice(&[steps.len()], &numbers)?)?;
                g.gather(table, *row)
            }
        }
    }

    /// The state, or its multiple where the sampler scales what the network sees.
    fn network_input(&self, g: &mut Graph) -> Result<ValueId> {
        let x = current(g, X)?;
        if self.steps().iter().all(|s| s.input == 1.0) { Ok(x) } else { self.sum(g, &[x], |s, _| s.input) }
    }

    /// The next x and what is kept, each a sum of x, `out`, the prediction, what was kept, and noise, which `fresh` gives. `out` is the model's prediction
    /// [N,H,W,C] at the present state.
    fn update(&self, g: &mut Graph, table: &Table, out: ValueId, fresh: impl FnOnce(&mut Graph) -> Result<ValueId>) -> Result<()> {
        let x = current(g, X)?;
        let mut values = [x; 4 + MEMORY];
        values[1] = out;
        if self.steps().iter().any(Step::reads_m0) {
            let x0 = self.sum(g, &[x, out], |s, i| [s.x0_x, s.x0_out][i])?;
            values[2] = clipped(g, x0, &table.clip)?;
        }
        for (value, name) in values[3..].iter_mut().zip(KEPT).take(table.memory) {
            *value = current(g, name)?;
        }
        if self.steps().iter().any(|s| s.noise != 0.0) {
            values[3 + MEMORY] = fresh(g)?;
        }
        let next = self.sum(g, &values, |s, i| s.next.factors().chain([s.noise]).nth(i).unwrap_or(0.0))?;
        let mut updates = vec![(x, next)];
        for j in 0..table.memory {
            let place = values[3 + j];
            let of = |s: &Step, i: usize| s.keep[j].unwrap_or_else(|| Sum::kept(j)).factors().nth(i).unwrap_or(0.0);
            let same = |i: usize| self.steps().iter().all(|s| (0..3 + MEMORY).all(|k| of(s, k) == f64::from(u8::from(k == i))));
            match (0..3 + MEMORY).find(|i| same(*i)) {
                Some(i) if i == 3 + j => {}
                Some(i) => updates.push((place, values[i])),
                None => updates.push((place, self.sum(g, &values[..3 + MEMORY], of)?)),
            }
        }
        assign(g, updates)
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

/// What a run is given beside noise, of one kind: the values of a batch.
pub type Given<'a> = (ConditionKind, Values<'a>);

impl Counter {
    fn declare(g: &mut Graph, batch: usize) -> Result<Self> {
        let number = g.input("step.number", TensorType::new(DType::I64, &[1]))?;
        Ok(Self { number, row: g.input("step.row", TensorType::new(DType::I32, &[batch]))? })
    }

    /// Step `k` comes next.
    fn write(&self, exec: &mut dyn Executable, rows: &mut [i32], k: usize) -> Result<()> {
        rows.fill(k as i32);
        exec.write_bytes(self.number, as_bytes(&[k as i64]))?;
        exec.write_bytes(self.row, as_bytes(rows))
    }
}

/// A compiled sampling run and its state. One thread at a time.
pub struct SamplingRun {
    exec: Box<dyn Executable>,
    seed: ValueId,
    samples: ValueId,
    /// What the model takes.
    conditions: Vec<Condition>,
    /// Where each of these goes.
    inputs: Vec<ValueId>,
    shape: [usize; 4],
    /// The nodes that draw x_T.
    init: Range<usize>,
    /// Where each sampler step ends, as if all were written one after the other.
    ends: Vec<usize>,
    /// In a run that loops: where the step's number goes.
    counter: Option<Counter>,
    /// What goes there.
    rows: Vec<i32>,
    /// Factor of the unit noise that a run starts from.
    initial: f32,
    /// Next node, as if all steps were written one after the other; `None` before `begin`.
    cursor: Option<usize>,
}

/// Inputs of a looped step: its number, for the draws i64 [1], and as the row of tables i32 [N].
#[derive(Clone, Copy)]
struct Counter {
    number: ValueId,
    row: ValueId,
}

impl SamplingRun {
    /// Builds, plans and compiles the run for a model's weights.
    pub fn new(backend: &dyn Backend, model: &Model, spec: &RunSpec) -> Result<Self> {
        Self::new_until(backend, model, spec, Stop::NEVER)
    }

    /// The same; a cancelled error where `stop` is set before it is done.
    pub fn new_until(backend: &dyn Backend, model: &Model, spec: &RunSpec, stop: Stop) -> Result<Self> {
        if spec.batch == 0 {
            return Err(Error::invalid("the batch of a sampling run must be at least 1"));
        }
        spec.guidance.map_or(Ok(()), |guidance| model.check_guidance(&guidance))?;
        let roles = model.roles()?;
        let shape = [spec.batch, spec.size[0], spec.size[1], roles.channels];
        let numerics = Numerics::of(spec.precision)?;
        let mut g = Graph::new();
        let run = RunGraph::start(&mut g, spec, shape)?;
        let input = |c: &Condition| g.input(c.name.clone(), c.kind.ty(spec.batch, spec.size));
        let inputs = memory::try_collect(roles.conditions.iter().map(input), "conditions")?;
        let predictor = Predictor { guidance: spec.guidance, ..Predictor::new(model, "") };
        let steps = &spec.table.steps;
        let looped = steps.len() > spec.unrolled;
        let counter = looped.then(|| Counter::declare(&mut g, spec.batch)).transpose()?;
        for k in 0..if looped { 1 } else { steps.len() } {
            stop.check()?;
            g.begin_segment(step_segment(k));
            let does = counter.map_or(Does::One(&steps[k]), |c| Does::Any { steps, row: c.row });
            let t = does.number(&mut g, "timestep", spec.batch, |s| s.t)?;
            let x = does.network_input(&mut g)?;
            let out = predictor.predict(&mut g, x, t, &inputs)?;
            let draw = run.draw;
            does.update(&mut g, spec.table, out, |g| {
                let step = counter.map_or_else(|| number(g, k as i64), |c| Ok(c.number))?;
                noise(g, Purpose::Noise, step, draw)
            })?;
        }
        let mut exec = backend.compile_until(&g, &numerics, stop)?;
        drop(g);
        for (name, tensor) in &model.weights {
            stop.check()?;
            exec.bind(name, tensor.clone())?;
        }
        exec.prepare_until(stop)?;
        let (seed, samples) = (run.draw.seed, run.draw.samples);
        let (init, initial) = (exec.plan().segment(INIT)?, spec.table.initial as f32);
        let ends = match counter {
            None => memory::try_collect((0..steps.len()).map(|k| Ok(exec.plan().segment(&step_segment(k))?.end)), "sampler steps")?,
            Some(_) => {
                let step = exec.plan().segment(&step_segment(0))?;
                memory::collect((1..=steps.len()).map(|k| init.end + k * step.len()), "sampler steps")?
            }
        };
        let rows = try_vec(spec.batch, "sampler steps")?;
        Ok(Self { exec, seed, samples, conditions: roles.conditions, inputs, shape, init, ends, counter, rows, initial, cursor: None })
    }

    /// [N,H,W,C].
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Number of sampler steps.
    pub fn steps(&self) -> usize {
        self.ends.len()
    }

    /// The plan, for its sizes.
    pub fn plan(&self) -> &crate::graph::Plan {
        self.exec.plan()
    }

    /// Memory that it holds beside the model's weights.
    pub fn memory(&self) -> Memory {
        self.exec.memory()
    }

    /// Starts anew. Sample n gets the noise of (seed, samples[n]), whatever the batch and its place in it; `x_t` [N,H,W,C] replaces that noise;
    /// like it, it is multiplied by the table's `initial`.
    pub fn begin(&mut self, seed: u64, samples: &[i32], given: &[Given], x_t: Option<&[f32]>) -> Result<()> {
        let [n, h, w, _] = self.shape;
        let taken = check_given(&self.conditions, given, n, [h, w])?;
        if samples.len() != n {
            return Err(Error::shape(format!("the run has a batch of {n}, {} sample indices were given", samples.len())));
        }
        self.cursor = None;
        // Without random terms the plan has no use for seed and indices, but x_T always has.
        self.exec.write_bytes(self.seed, as_bytes(&[seed as i64]))?;
        self.exec.write_bytes(self.samples, as_bytes(samples))?;
        for (input, from) in self.inputs.iter().zip(taken) {
            self.exec.write_bytes(*input, given[from].1.bytes())?;
        }
        // The noise is drawn with the first step, so that a whole run is one range of the plan, which a GPU starts as one graph.
        if let Some(x) = x_t {
            if let Some(i) = x.iter().position(|v| !v.is_finite()) {
                return Err(Error::numeric(format!("the initial state has a non-finite value at element {i}")));
            }
            self.exec.check_ready()?;
            match self.initial {
                1.0 => self.exec.write_storage(X, as_bytes(x))?,
                initial => {
                    let mut scaled = try_vec::<f32>(x.len(), "initial state")?;
                    scaled.iter_mut().zip(x).for_each(|(s, x)| *s = initial * x);
                    self.exec.write_storage(X, as_bytes(&scaled))?;
                }
            }
        }
        self.cursor = Some(if x_t.is_some() { self.init.end } else { self.init.start });
        Ok(())
    }

    /// Draws the noise if no step has done so yet; the place of the next node.
    fn draw(&mut self, at: usize, stop: Stop) -> Result<usize> {
        let end = self.init.end;
        if at < end {
            self.go(at..end, stop)?;
        }
        Ok(at.max(end))
    }

    /// Draws the noise that the run begins with, which otherwise comes with the first step.
    pub fn draw_noise(&mut self, stop: Stop) -> Result<()> {
        let at = self.cursor.ok_or_else(|| Error::state("the run was not begun; begin it before drawing its noise"))?;
        self.draw(at, stop).map(|_| ())
    }

    /// Runs the next nodes. What is refused before anything is done can be tried again, what is stopped can go on; what fails half way must be begun again.
    fn go(&mut self, nodes: Range<usize>, stop: Stop) -> Result<()> {
        self.exec.check_ready()?;
        self.cursor = None;
        let at = match self.counter {
            None => self.exec.run_until(nodes.clone(), stop)?,
            Some(counter) => self.go_looped(nodes.clone(), counter, stop)?,
        };
        self.cursor = Some(at);
        if at < nodes.end { Err(cancelled()) } else { Ok(()) }
    }

    /// The same by the one step that there is, as often as it takes.
    fn go_looped(&mut self, nodes: Range<usize>, counter: Counter, stop: Stop) -> Result<usize> {
        let init = self.init.clone();
        let mut at = nodes.start;
        if at < init.end {
            let end = init.end.min(nodes.end);
            at = self.exec.run_until(at..end, stop)?;
            if at < end {
                return Ok(at);
            }
        }
        let step = self.ends[0] - init.end;
        while at < nodes.end {
            let (k, first) = ((at - init.end) / step, (at - init.end) % step);
            if first == 0 {
                counter.write(self.exec.as_mut(), &mut self.rows, k)?;
            }
            let last = (nodes.end - (at - first)).min(step);
            let reached = self.exec.run_until(init.end + first..init.end + last, stop)? - init.end;
            at += reached - first;
            if reached < last {
                break;
            }
        }
        Ok(at)
    }

    /// The end of the sampler step that node `at` is in or begins.
    fn step_end(&self, at: usize) -> usize {
        let next = self.ends.partition_point(|end| *end <= at);
        self.ends.get(next).or(self.ends.last()).copied().unwrap_or(self.init.end)
    }

    /// Runs until the whole run or one more sampler step is done, or `budget` has passed; at least one op runs. Returns true when the run is done.
    pub fn step(&mut self, budget: Option<Duration>, whole: bool) -> Result<bool> {
        self.step_until(budget, whole, Stop::NEVER)
    }

    /// The same; a cancelled error where `stop` is set before, after which the run can go on with any function.
    pub fn step_until(&mut self, budget: Option<Duration>, whole: bool, stop: Stop) -> Result<bool> {
        let mut at = self.cursor.ok_or_else(|| Error::state("the run was not begun; begin it before stepping it"))?;
        let start = Instant::now();
        let end = self.ends.last().copied().unwrap_or(self.init.end);
        let last = if whole { end } else { self.step_end(at) };
        if !whole {
            at = self.draw(at, stop)?; // the graphs of a GPU are segments, or all of them
        }
        let Some(budget) = budget else {
            // In one call: a GPU then starts the whole of it as one graph.
            self.go(at..last.max(at), stop)?;
            return Ok(last >= end);
        };
        while at < last {
            self.go(at..at + 1, stop)?;
            self.exec.synchronize()?;
            at += 1;
            if start.elapsed() >= budget {
                break;
            }
        }
        Ok(at >= end)
    }

    /// Goes on to the end of the present sampler step, or until `stop` is set: a cancelled error then, after which the run can go on with any function. On a
    /// GPU a step that has begun is waited for. Returns true when the run is done.
    pub fn advance(&mut self, stop: Stop) -> Result<bool> {
        stop.check()?;
        let at = self.cursor.ok_or_else(|| Error::state("the run was not begun; begin it before stepping it"))?;
        let at = self.draw(at, stop)?;
        let end = self.step_end(at);
        self.go(at..end.max(at), stop)?;
        self.exec.synchronize()?;
        Ok(self.is_done())
    }

    /// Sampler steps that are complete, or `None` before `begin`.
    pub fn steps_done(&self) -> Option<usize> {
        let at = self.cursor?;
        Some(self.ends.partition_point(|end| *end <= at))
    }

    /// True after the last op.
    pub fn is_done(&self) -> bool {
        self.steps_done() == Some(self.steps())
    }

    /// The state x_t [N,H,W,C] as it is now: after the last complete step.
    pub fn read(&mut self) -> Result<HostSlice<'_, f32>> {
        let at = self.cursor.ok_or_else(|| Error::state("the run was not begun; begin it before reading it"))?;
        self.draw(at, Stop::NEVER)?;
        let x = self.exec.storage_bytes(X)?.of::<f32>()?;
        match x.iter().position(|v| !v.is_finite()) {
            None => Ok(x),
            Some(i) => Err(Error::numeric(format!("the sample became non-finite at element {i} after step {}", self.steps_done().unwrap_or(0)))),
        }
    }
}

/// Which of what was given each condition takes; an error where that is not all, or not what the model takes.
pub(super) fn check_given(conditions: &[Condition], given: &[Given], n: usize, size: [usize; 2]) -> Result<Vec<usize>> {
    let kinds = memory::collect(given.iter().map(|(kind, _)| *kind), "conditions")?;
    let taken = assign_all(conditions, &kinds)?;
    conditions.iter().zip(&taken).try_for_each(|(condition, from)| condition.kind.check(given[*from].1, n, size))?;
    Ok(taken)
}

/// Samples of any number through a run of fixed batch: `visit(run, first, count)` is called after every batch. `given` has the values of all samples.
pub fn for_each_batch(
    run: &mut SamplingRun,
    seed: u64,
    given: &[Given],
    count: usize,
    mut visit: impl FnMut(&mut SamplingRun, usize, usize) -> Result<()>,
) -> Result<()> {
    let batch = run.shape()[0];
    let mut samples = try_vec::<i32>(batch, "samples")?;
    for first in (0..count).step_by(batch) {
        let n = batch.min(count - first);
        samples.iter_mut().enumerate().for_each(|(i, s)| *s = (first + i.min(n - 1)) as i32);
        let rows = memory::try_collect(given.iter().map(|(_, values)| Rows::of(*values, count, first..first + n, batch)), "conditions")?;
        let part = memory::collect(given.iter().zip(&rows).map(|((kind, _), rows)| (*kind, rows.values())), "conditions")?;
        run.begin(seed, &samples, &part, None)?;
        visit(run, first, n)?;
    }
    Ok(())
}

/// The values of a batch, the last ones repeated where there are fewer.
enum Rows {
    I32(Vec<i32>),
    F32(Vec<f32>),
}

impl Rows {
    fn of(values: Values, count: usize, range: Range<usize>, batch: usize) -> Result<Self> {
        fn rows<T: Copy>(values: &[T], count: usize, range: Range<usize>, batch: usize) -> Result<Vec<T>> {
            let row = values.len() / count;
            let mut out = memory::with_capacity(batch * row, "conditions")?;
            (0..batch).map(|i| (range.start + i).min(range.end - 1)).for_each(|i| out.extend_from_slice(&values[i * row..][..row]));
            Ok(out)
        }
        Ok(match values {
            Values::I32(values) => Self::I32(rows(values, count, range, batch)?),
            Values::F32(values) => Self::F32(rows(values, count, range, batch)?),
        })
    }

    fn values(&self) -> Values<'_> {
        match self {
            Self::I32(values) => Values::I32(values),
            Self::F32(values) => Values::F32(values),
        }
    }
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
        Does::One(&table.steps[k]).network_input(g)
    }

    /// The update of step `k` from the model's prediction, with `z` [N,H,W,C] for the noise, if the step has any: what a test gives that repeats a recorded run.
    pub fn update(&self, g: &mut Graph, table: &Table, k: usize, out: ValueId, z: Option<ValueId>) -> Result<()> {
        Does::One(&table.steps[k]).update(g, table, out, |_| z.ok_or_else(|| Error::invalid(format!("step {k} needs noise"))))
    }
}

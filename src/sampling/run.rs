//! A sampling run as one plan: noise, then for each step the model's evaluation and the sampler's update, one segment a step.

use crate::backend::{Backend, Executable, HostSlice, Memory, as_bytes};
use crate::cancel::{Stop, cancelled};
use crate::diffusion::{Clip, MEMORY, Sum, Table};
use crate::error::{Error, Result};
use crate::graph::ops::{Assign, DynamicThreshold, RandomNormal, UnaryKind};
use crate::graph::{Graph, Numerics, TensorType, ValueId};
use crate::memory;
use crate::nn::conditions::check_labels;
use crate::nn::{Model, UNet};
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

/// Appends step `k` of the table to the current segment: the next x and what is kept, each a sum of x, `out`, the prediction, what was kept, and noise. `out` is
/// the model's prediction [N,H,W,C] at the present state; `fresh` gives the noise.
fn append_update(g: &mut Graph, table: &Table, k: usize, out: ValueId, fresh: impl Fn(&mut Graph) -> Result<ValueId>) -> Result<()> {
    let step = &table.steps[k];
    let x = current(g, X)?;
    let mut values = [(0.0, x); 3 + MEMORY];
    values[1].1 = out;
    if step.reads_m0() {
        let x0 = g.weighted_sum(&[(step.x0_x, x), (step.x0_out, out)])?;
        values[2].1 = clipped(g, x0, &table.clip)?;
    }
    for (value, name) in values[3..].iter_mut().zip(KEPT).take(table.memory) {
        value.1 = current(g, name)?;
    }
    let terms = |sum: &Sum| {
        let terms: Vec<_> = values.iter().zip(sum.factors()).filter(|(_, c)| *c != 0.0).map(|(v, c)| (c, v.1)).collect();
        if terms.is_empty() { vec![(0.0, x)] } else { terms }
    };
    let mut next = terms(&step.next);
    if step.noise != 0.0 {
        next.push((step.noise, fresh(g)?));
    }
    let mut updates = vec![(x, g.weighted_sum(&next)?)];
    for (sum, (_, place)) in step.keep.iter().zip(&values[3..]) {
        let Some(sum) = sum else { continue };
        let new = match terms(sum)[..] {
            [(1.0, value)] => value,
            ref several => g.weighted_sum(several)?,
        };
        updates.push((*place, new));
    }
    assign(g, updates)
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

fn noise(g: &mut Graph, purpose: Purpose, step: i64, draw: Draw) -> Result<ValueId> {
    let step = g.constant("noise.step", Tensor::from_slice(&[1], &[step])?)?;
    g.push1(RandomNormal { purpose, image: draw.image }.into(), &[draw.seed, step, draw.samples])
}

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
}

/// A compiled sampling run and its state. One thread at a time.
pub struct SamplingRun {
    exec: Box<dyn Executable>,
    seed: ValueId,
    samples: ValueId,
    labels: Option<ValueId>,
    classes: usize,
    shape: [usize; 4],
    /// The nodes that draw x_T.
    init: Range<usize>,
    /// Where the nodes of each sampler step end.
    ends: Vec<usize>,
    /// Factor of the unit noise that a run starts from.
    initial: f32,
    /// Next node; `None` before `begin`.
    cursor: Option<usize>,
}

impl SamplingRun {
    /// Builds, plans and compiles the run for a model's weights.
    pub fn new(backend: &dyn Backend, model: &Model, spec: &RunSpec) -> Result<Self> {
        Self::new_until(backend, model, spec, Stop::NEVER)
    }

    /// The same; a cancelled error where `stop` is set before it is done.
    pub fn new_until(backend: &dyn Backend, model: &Model, spec: &RunSpec, stop: Stop) -> Result<Self> {
        let config = &model.config;
        if spec.batch == 0 {
            return Err(Error::invalid("the batch of a sampling run must be at least 1"));
        }
        if config.in_channels != config.out_channels {
            return Err(Error::unsupported(format!("sampling needs in_channels = out_channels, found {} and {}", config.in_channels, config.out_channels)));
        }
        let shape = [spec.batch, spec.size[0], spec.size[1], config.in_channels];
        let numerics = Numerics::of(spec.precision)?;
        let mut g = Graph::new();
        let mut run = RunGraph::start(&mut g, spec, shape)?;
        let labels = match model.classes() {
            None => None,
            Some(_) => Some(g.input("labels", TensorType::new(DType::I32, &[spec.batch]))?),
        };
        for (k, step) in spec.table.steps.iter().enumerate() {
            stop.check()?;
            g.begin_segment(step_segment(k));
            let t = g.constant_fill("timestep", &[spec.batch], step.t as f32)?;
            let x = run.network_input(&mut g, spec.table, k)?;
            let out = UNet { config, prefix: "" }.build(&mut g, x, t, labels)?;
            run.update(&mut g, spec.table, k, out)?;
        }
        let mut exec = backend.compile_until(&g, &numerics, stop)?;
        drop(g);
        for (name, tensor) in &model.weights {
            stop.check()?;
            exec.bind(name, tensor.clone())?;
        }
        exec.prepare_until(stop)?;
        let (seed, samples) = (run.draw.seed, run.draw.samples);
        let classes = model.classes().unwrap_or(0);
        let (init, initial) = (exec.plan().segment(INIT)?, spec.table.initial as f32);
        let ends = (0..spec.table.steps.len()).map(|k| Ok(exec.plan().segment(&step_segment(k))?.end));
        let ends = memory::try_collect(ends, "steps of a run")?;
        Ok(Self { exec, seed, samples, labels, classes, shape, init, ends, initial, cursor: None })
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
    pub fn begin(&mut self, seed: u64, samples: &[i32], labels: Option<&[i32]>, x_t: Option<&[f32]>) -> Result<()> {
        self.check_labels(labels)?;
        if samples.len() != self.shape[0] {
            return Err(Error::shape(format!("the run has a batch of {}, {} sample indices were given", self.shape[0], samples.len())));
        }
        // Without random terms the plan has no use for seed and indices, but x_T always has.
        self.exec.write_bytes(self.seed, as_bytes(&[seed as i64]))?;
        self.exec.write_bytes(self.samples, as_bytes(samples))?;
        if let (Some(input), Some(labels)) = (self.labels, labels) {
            self.exec.write_bytes(input, as_bytes(labels))?;
        }
        // The noise is drawn with the first step, so that a whole run is one range of the plan, which a GPU starts as one graph.
        self.cursor = None;
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

    /// Runs nodes of the plan, the next ones. What is refused before anything is done can be tried again, what is stopped can go on; what fails half way
    /// must be begun again.
    fn go(&mut self, nodes: Range<usize>, stop: Stop) -> Result<()> {
        self.exec.check_ready()?;
        self.cursor = None;
        let at = self.exec.run_until(nodes.clone(), stop)?;
        self.cursor = Some(at);
        if at < nodes.end { Err(cancelled()) } else { Ok(()) }
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

    fn check_labels(&self, labels: Option<&[i32]>) -> Result<()> {
        match (self.labels, labels) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err(Error::invalid("labels were given to a model without classes")),
            (Some(_), None) => Err(Error::invalid("the model is class-conditional and needs labels")),
            (Some(_), Some(labels)) => check_labels(labels, self.shape[0], self.classes),
        }
    }
}

/// Samples of any number through a run of fixed batch: `visit(run, first, count)` is called after every batch.
pub fn for_each_batch(
    run: &mut SamplingRun,
    seed: u64,
    labels: Option<&[i32]>,
    count: usize,
    mut visit: impl FnMut(&mut SamplingRun, usize, usize) -> Result<()>,
) -> Result<()> {
    let batch = run.shape()[0];
    let mut padded = try_vec::<i32>(batch, "labels")?;
    let mut samples = try_vec::<i32>(batch, "samples")?;
    for first in (0..count).step_by(batch) {
        let n = batch.min(count - first);
        samples.iter_mut().enumerate().for_each(|(i, s)| *s = (first + i.min(n - 1)) as i32);
        if let Some(labels) = labels {
            (0..batch).for_each(|i| padded[i] = labels[first + i.min(n - 1)]);
        }
        run.begin(seed, &samples, labels.map(|_| padded.as_slice()), None)?;
        visit(run, first, n)?;
    }
    Ok(())
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
        let mut noise = noise(g, spec.purpose, 0, draw)?;
        if spec.table.initial != 1.0 {
            noise = g.weighted_sum(&[(spec.table.initial, noise)])?;
        }
        g.push1(Assign.into(), &[x, noise])?;
        Ok(Self { draw })
    }

    /// What the model sees in step `k`: the state, or its multiple where the sampler scales it.
    pub fn network_input(&self, g: &mut Graph, table: &Table, k: usize) -> Result<ValueId> {
        let x = current(g, X)?;
        match table.steps[k].input {
            1.0 => Ok(x),
            factor => g.weighted_sum(&[(factor, x)]),
        }
    }

    /// The update of step `k` from the model's prediction.
    pub fn update(&mut self, g: &mut Graph, table: &Table, k: usize, out: ValueId) -> Result<()> {
        let draw = self.draw;
        append_update(g, table, k, out, |g| noise(g, Purpose::Noise, k as i64, draw))
    }

    /// The same with `z` [N,H,W,C] for the noise: what a test gives that repeats a recorded run.
    pub fn update_with_noise(&mut self, g: &mut Graph, table: &Table, k: usize, out: ValueId, z: ValueId) -> Result<()> {
        append_update(g, table, k, out, |_| Ok(z))
    }
}

//! A sampling run and its state: the program of `program.rs` compiled, begun, stepped and read.

use super::program::{Counter, INIT, Program, RunSpec, X, step_segment};
use crate::backend::{Backend, Executable, HostSlice, Memory, as_bytes};
use crate::cancel::{Stop, cancelled};
use crate::error::{Error, Result};
use crate::graph::{Numerics, ValueId};
use crate::memory;
use crate::nn::conditions::{Values, assign_all};
use crate::nn::{Condition, ConditionKind, Model};
use crate::tensor::try_vec;
use std::ops::Range;
use std::time::{Duration, Instant};

/// What a run is given beside noise, of one kind: the values of a batch.
pub type Given<'a> = (ConditionKind, Values<'a>);

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
    /// Where the host writes predictions, if it makes them.
    prediction: Option<ValueId>,
    /// What goes there.
    rows: Vec<i32>,
    /// Factor of the unit noise that a run starts from.
    initial: f32,
    /// Next node, as if all steps were written one after the other; `None` before `begin`.
    cursor: Option<usize>,
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
        model.check_timesteps(&memory::collect(spec.table.steps.iter().map(|step| step.t), "timesteps")?)?;
        let bind = |exec: &mut dyn Executable| {
            model.weights.iter().try_for_each(|(name, tensor)| {
                stop.check()?;
                exec.bind(name, tensor.clone())
            })
        };
        Self::of_program(backend, Program::new(model, spec, stop)?, spec, bind, stop)
    }

    /// A run whose predictions the host makes, each before its step ([`SamplingRun::predict`]): for steps that scale nothing that a network sees.
    pub fn hosted(backend: &dyn Backend, channels: usize, spec: &RunSpec, stop: Stop) -> Result<Self> {
        if spec.batch == 0 || spec.table.steps.iter().any(|step| step.input != 1.0) {
            return Err(Error::internal("a run of the host's predictions needs a batch, and steps that scale nothing"));
        }
        Self::of_program(backend, Program::hosted(channels, spec, stop)?, spec, |_| Ok(()), stop)
    }

    /// Compiles a program and binds what it reads.
    fn of_program(backend: &dyn Backend, program: Program, spec: &RunSpec, bind: impl FnOnce(&mut dyn Executable) -> Result<()>, stop: Stop) -> Result<Self> {
        let Program { graph, seed, samples, conditions, inputs, counter, prediction, shape } = program;
        let mut exec = backend.compile_until(&graph, &Numerics::of(spec.precision)?, stop)?;
        drop(graph);
        bind(exec.as_mut())?;
        exec.prepare_until(stop)?;
        let steps = spec.table.steps.len();
        let (init, initial) = (exec.plan().segment(INIT)?, spec.table.initial as f32);
        let ends = match counter {
            None => memory::try_collect((0..steps).map(|k| Ok(exec.plan().segment(&step_segment(k))?.end)), "sampler steps")?,
            Some(_) => {
                let step = exec.plan().segment(&step_segment(0))?;
                memory::collect((1..=steps).map(|k| init.end + k * step.len()), "sampler steps")?
            }
        };
        let rows = try_vec(spec.batch, "sampler steps")?;
        Ok(Self { exec, seed, samples, conditions, inputs, shape, init, ends, counter, prediction, rows, initial, cursor: None })
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

    /// Gives a hosted run the prediction [N,H,W,C] of its next step.
    pub fn predict(&mut self, prediction: &[f32]) -> Result<()> {
        let input = self.prediction.ok_or_else(|| Error::internal("a run that makes its own predictions"))?;
        self.exec.write_bytes(input, as_bytes(prediction))
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

/// Begins a run of fixed batch, of a model or hosted, with as many of `count` samples as fit, from `first` on, of whose values `given` has all; how many those are, and their values.
pub fn begin_batch(run: &mut SamplingRun, seed: u64, given: &[Given], count: usize, first: usize) -> Result<(usize, Vec<(ConditionKind, Rows)>)> {
    begin_batch_at(run, (seed, None), given, count, first)
}

/// The same from the noise of a seed, or from given states [N,H,W,C] of the batch.
pub fn begin_batch_at(
    run: &mut SamplingRun,
    (seed, x_t): (u64, Option<&[f32]>),
    given: &[Given],
    count: usize,
    first: usize,
) -> Result<(usize, Vec<(ConditionKind, Rows)>)> {
    let batch = run.shape()[0];
    let used = batch.min(count.saturating_sub(first));
    let last = (first + used).checked_sub(1).ok_or_else(|| Error::internal("a batch of no samples"))?;
    let index = |i: usize| i32::try_from((first + i).min(last)).map_err(|_| Error::invalid(format!("{count} samples are too many")));
    let samples = memory::try_collect((0..batch).map(index), "samples")?;
    let rows = given.iter().map(|(kind, values)| Ok((*kind, Rows::of(*values, count, first..first + used, batch)?)));
    let rows = memory::try_collect(rows, "conditions")?;
    // The host is given what a hosted run does not take.
    let given = if run.prediction.is_some() { vec![] } else { values_of(&rows)? };
    run.begin(seed, &samples, &given, x_t)?;
    Ok((used, rows))
}

/// What a run is given.
fn values_of(rows: &[(ConditionKind, Rows)]) -> Result<Vec<Given<'_>>> {
    memory::collect(rows.iter().map(|(kind, rows)| (*kind, rows.values())), "conditions")
}

/// Samples of any number through a run of fixed batch: `visit(run, first, count, given)` is called after every batch
/// is begun, with what it was given. `given` has the values of all samples.
pub fn for_each_batch(
    run: &mut SamplingRun,
    seed: u64,
    given: &[Given],
    count: usize,
    mut visit: impl FnMut(&mut SamplingRun, usize, usize, &[Given]) -> Result<()>,
) -> Result<()> {
    for first in (0..count).step_by(run.shape()[0]) {
        let (used, rows) = begin_batch(run, seed, given, count, first)?;
        visit(run, first, used, &values_of(&rows)?)?;
    }
    Ok(())
}

/// The values of a batch, the last ones repeated where there are fewer.
pub enum Rows {
    /// Labels.
    I32(Vec<i32>),
    /// Everything else.
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

    /// Those of the first of a batch.
    pub fn first(&self, used: usize, batch: usize) -> Values<'_> {
        match self {
            Self::I32(values) => Values::I32(&values[..values.len() / batch * used]),
            Self::F32(values) => Values::F32(&values[..values.len() / batch * used]),
        }
    }

    fn values(&self) -> Values<'_> {
        match self {
            Self::I32(values) => Values::I32(values),
            Self::F32(values) => Values::F32(values),
        }
    }
}

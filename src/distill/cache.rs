//! Teacher trajectories: the states at the ends of the student's steps, in f16, regenerated from seeds whenever they are needed.

use super::range::StateRange;
use crate::backend::Backend;
use crate::cancel::Stop;
use crate::diffusion::{Clip, NoiseSchedule, Prediction, Walk};
use crate::error::{Error, Result};
use crate::memory;
use crate::nn::conditions::Values;
use crate::nn::{ConditionKind, Guidance, Model, Roles};
use crate::random::Purpose;
use crate::sampling::{Given, Rows, RunSpec, SamplingRun, UNROLLED, begin_batch, draw_conditions};
use crate::tensor::{DType, Tensor, try_vec};
use half::f16;
use std::sync::Arc;

/// States [(N+1)*M,H,W,C] f16 (row k*M + i: noise i after k student steps' worth of the teacher) and the conditions of each noise.
#[derive(Clone, Debug)]
pub struct TrajectoryCache {
    /// All states.
    pub states: Arc<Tensor>,
    /// What the teacher was given with each noise, a row each: its conditions in their order.
    pub conditions: Vec<Arc<Tensor>>,
    /// M.
    pub count: usize,
    /// What is odd about the states.
    pub warning: Option<String>,
}

impl TrajectoryCache {
    /// Bytes of states and conditions.
    pub fn bytes(&self) -> usize {
        self.states.bytes().len() + self.conditions.iter().map(|rows| rows.bytes().len()).sum::<usize>()
    }
}

/// What a cache is made with.
pub struct CacheSpec {
    /// Both networks' noise schedule.
    pub schedule: NoiseSchedule,
    /// What the teacher's output reads as.
    pub prediction: Prediction,
    /// The student's grid.
    pub pairs: Vec<(i64, i64)>,
    /// How the teacher goes through each pair.
    pub walk: Walk,
    /// M.
    pub count: usize,
    /// [H, W].
    pub size: [usize; 2],
    /// Trajectories computed side by side.
    pub batch: usize,
    /// If the teacher's predictions are guided.
    pub guidance: Option<Guidance>,
    /// Rows that conditions are drawn from, as many of each; empty where labels are all that the teacher takes, which are then drawn evenly.
    pub rows: Vec<Arc<Tensor>>,
    /// What the teacher computes in: f32, f16 or bf16. States are f32 between its steps in any case.
    pub precision: DType,
}

/// A teacher that is no network of ours.
pub trait HostTeacher {
    /// Its predictions [N,H,W,C] at x_t [N,H,W,C] and a timestep, with what each sample is given.
    fn predict(&mut self, x_t: &[f32], timestep: f64, given: &[Given], prediction: &mut [f32]) -> Result<()>;
}

/// Such a teacher on its way.
struct Host<'h> {
    teacher: Box<dyn HostTeacher + 'h>,
    /// Of its steps.
    timesteps: Vec<f64>,
    /// Of a batch [N,H,W,C].
    prediction: Vec<f32>,
}

/// Trajectories under way: the teacher goes through one batch of them after the other, step by step.
pub struct CacheBuilder<'h> {
    spec: CacheSpec,
    run: SamplingRun,
    /// Who predicts, where the run does not.
    host: Option<Host<'h>>,
    roles: Roles,
    /// What the teacher's own scheduler does to its data, which tells their range.
    own_clip: Clip,
    work: Option<Work>,
}

/// What there is of a cache.
struct Work {
    /// Key of noises and labels.
    seed: u64,
    states: Tensor,
    conditions: Vec<Tensor>,
    range: StateRange,
    /// The first trajectory of the batch.
    first: usize,
    /// Trajectories of the batch, without those that only fill it up; 0 before it is begun.
    used: usize,
    /// What the batch is given.
    given: Vec<(ConditionKind, Rows)>,
    /// Teacher steps that the batch has done.
    done: usize,
    /// How many of its states are stored.
    stored: usize,
}

impl<'h> CacheBuilder<'h> {
    /// Compiles the teacher's run.
    pub fn new(backend: &dyn Backend, teacher: &Model, spec: CacheSpec, stop: Stop) -> Result<Self> {
        let table = spec.walk.table(&spec.schedule, spec.prediction, &spec.pairs)?;
        let (batch, guidance) = (spec.batch.min(spec.count).max(1), spec.guidance);
        let run = RunSpec { table: &table, batch, size: spec.size, purpose: Purpose::Data, precision: spec.precision, guidance, unrolled: UNROLLED };
        let run = SamplingRun::new_until(backend, teacher, &run, stop)?;
        Ok(Self { spec, run, host: None, roles: teacher.roles()?, own_clip: teacher.scheduler.clip(), work: None })
    }

    /// The same for a teacher of the host's, which takes what a student of these roles takes. No guidance, and in f32.
    pub fn hosted(backend: &dyn Backend, teacher: Box<dyn HostTeacher + 'h>, roles: Roles, spec: CacheSpec, stop: Stop) -> Result<Self> {
        let table = spec.walk.table(&spec.schedule, spec.prediction, &spec.pairs)?;
        let (batch, precision) = (spec.batch.min(spec.count).max(1), DType::F32);
        let run = RunSpec { table: &table, batch, size: spec.size, purpose: Purpose::Data, precision, guidance: None, unrolled: UNROLLED };
        let run = SamplingRun::hosted(backend, roles.channels, &run, stop)?;
        let timesteps = memory::collect(table.steps.iter().map(|step| step.t), "timesteps")?;
        let prediction = try_vec(run.shape().iter().product(), "predictions")?;
        let (host, own_clip) = (Some(Host { teacher, timesteps, prediction }), Clip::None);
        Ok(Self { spec, run, host, roles, own_clip, work: None })
    }

    /// Begins trajectories of the noises and labels of a seed; what was under way is forgotten.
    pub fn begin(&mut self, seed: u64, stop: Stop) -> Result<()> {
        let Self { spec, roles, own_clip, work, .. } = self;
        *work = None; // before the memory of the next ones
        let (n, count) = (spec.pairs.len(), spec.count);
        let rows = (n + 1).checked_mul(count).filter(|r| *r <= i32::MAX as usize);
        let rows = rows.ok_or_else(|| Error::invalid(format!("a cache of {count} trajectories of {} states is too large", n + 1)))?;
        let states = Tensor::zeros(DType::F16, &[rows, spec.size[0], spec.size[1], roles.channels]).map_err(|e| e.context("trajectory cache"))?;
        let conditions = draw_conditions(&roles.conditions, &spec.rows, (count, spec.size), seed, stop)?;
        let range = StateRange::new(&spec.schedule, &spec.pairs, spec.walk.clip, *own_clip)?;
        *work = Some(Work { seed, states, conditions, range, first: 0, used: 0, given: vec![], done: 0, stored: 0 });
        Ok(())
    }

    /// Whether there are trajectories under way.
    pub fn is_begun(&self) -> bool {
        self.work.is_some()
    }

    /// Bytes of what it holds, beside the teacher's weights.
    pub fn bytes(&self) -> usize {
        let work = self.work.as_ref().map_or(0, |work| work.states.bytes().len() + work.conditions.iter().map(|rows| rows.bytes().len()).sum::<usize>());
        self.run.memory().total() + work
    }

    /// Steps of one trajectory that are done, times trajectories, and how many there are in all.
    pub fn progress(&self) -> (usize, usize) {
        let steps = self.run.steps();
        (self.work.as_ref().map_or(0, |work| work.first * steps + work.done * work.used), self.spec.count * steps)
    }

    /// The next step of the teacher; true when all trajectories are there. What `stop` has cut goes on with the next call.
    pub fn step(&mut self, stop: Stop) -> Result<bool> {
        let Self { spec, run, host, roles, work, .. } = self;
        let work = work.as_mut().ok_or_else(|| Error::internal("no trajectories were begun"))?;
        if work.first == spec.count {
            return Ok(true);
        }
        if work.used == 0 {
            (work.used, work.given) = work.begin_batch(run, roles, spec.count)?;
        }
        work.keep(run, spec, stop)?;
        if work.done < run.steps() {
            if let Some(host) = host {
                stop.check()?;
                host.predict(run, work)?;
            }
            // Where nobody can stop it a GPU need not be waited for; what follows the host's prediction is soon done.
            if stop.is_never() || host.is_some() {
                run.step(None, false)?
            } else {
                run.advance(stop)?
            };
            work.done += 1;
            work.keep(run, spec, stop)?;
        }
        if work.done == run.steps() {
            (work.first, work.used, work.done, work.stored) = (work.first + work.used, 0, 0, 0);
        }
        Ok(work.first == spec.count)
    }

    /// Goes on to the end; `progress(done, total)` returning false cancels, and so does `stop`, which is looked at inside an evaluation too.
    pub fn finish(&mut self, progress: &mut dyn FnMut(usize, usize) -> bool, stop: Stop) -> Result<TrajectoryCache> {
        let mut all = false;
        while !all {
            all = self.step(stop)?;
            let (done, total) = self.progress();
            if !progress(done, total) {
                return Err(Error::cancelled("the trajectory cache was cancelled"));
            }
        }
        let work = self.work.take().ok_or_else(|| Error::internal("no trajectories were begun"))?;
        Ok(TrajectoryCache {
            states: Arc::new(work.states),
            conditions: memory::collect(work.conditions.into_iter().map(Arc::new), "conditions")?,
            count: self.spec.count,
            warning: work.range.warning(),
        })
    }
}

impl Work {
    /// Begins the batch at `first`; how many of it are wanted.
    fn begin_batch(&self, run: &mut SamplingRun, roles: &Roles, count: usize) -> Result<(usize, Vec<(ConditionKind, Rows)>)> {
        let given = roles.conditions.iter().zip(&self.conditions).map(|(condition, rows)| Ok((condition.kind, Values::of(rows)?)));
        let given = memory::try_collect(given, "conditions")?;
        begin_batch(run, self.seed, &given, count, self.first)
    }

    /// Stores the states that the batch is at, where they are the end of a step of the student's and not stored yet.
    fn keep(&mut self, run: &mut SamplingRun, spec: &CacheSpec, stop: Stop) -> Result<()> {
        if self.done != self.stored * spec.walk.substeps {
            return Ok(());
        }
        run.draw_noise(stop)?;
        let row = self.states.numel() / self.states.shape()[0];
        let to = &mut self.states.as_mut_slice::<f16>()?[(self.stored * spec.count + self.first) * row..][..self.used * row];
        self.range.store(self.stored, to, &run.read()?, stop)?;
        self.stored += 1;
        Ok(())
    }
}

impl Host<'_> {
    /// Asks the teacher for its prediction at the present states, and gives it to the run.
    fn predict(&mut self, run: &mut SamplingRun, work: &Work) -> Result<()> {
        let (batch, t) = (run.shape()[0], self.timesteps[work.done]);
        let row = self.prediction.len() / batch;
        let given = memory::collect(work.given.iter().map(|(kind, rows)| (*kind, rows.first(work.used, batch))), "conditions")?;
        let prediction = &mut self.prediction[..work.used * row];
        self.teacher.predict(&run.read()?[..work.used * row], t, &given, prediction)?;
        if let Some(i) = prediction.iter().position(|v| !v.is_finite()) {
            return Err(Error::numeric(format!("the teacher's prediction for trajectory {} at timestep {t} is {}", work.first + i / row, prediction[i])));
        }
        run.predict(&self.prediction)
    }
}

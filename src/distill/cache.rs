//! Teacher trajectories: the states at the ends of the student's steps, in f16, regenerated from seeds whenever they are needed.

use super::range::StateRange;
use crate::backend::Backend;
use crate::cancel::Stop;
use crate::diffusion::{Clip, NoiseSchedule, Prediction, Table, trajectory};
use crate::error::{Error, Result};
use crate::memory;
use crate::nn::conditions::Values;
use crate::nn::{Guidance, Model};
use crate::random::Purpose;
use crate::sampling::{RunSpec, SamplingRun, UNROLLED, draw_conditions, for_each_batch};
use crate::tensor::{DType, Tensor};
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

/// What a cache is made with.
pub struct CacheSpec<'a> {
    /// Both networks' noise schedule.
    pub schedule: &'a NoiseSchedule,
    /// What the teacher's output reads as.
    pub prediction: Prediction,
    /// What is done to the data that the teacher predicts, in every one of its steps.
    pub clip: Clip,
    /// The student's grid.
    pub pairs: &'a [(i64, i64)],
    /// Teacher DDIM steps inside each pair.
    pub substeps: usize,
    /// M.
    pub count: usize,
    /// [H, W].
    pub size: [usize; 2],
    /// Key of noises and labels.
    pub seed: u64,
    /// Trajectories computed side by side.
    pub batch: usize,
    /// If the teacher's predictions are guided.
    pub guidance: Option<Guidance>,
    /// Rows that conditions are drawn from, as many of each; empty where labels are all that the teacher takes, which are then drawn evenly.
    pub rows: &'a [Arc<Tensor>],
    /// What the teacher computes in: f32, f16 or bf16. States are f32 between its steps in any case.
    pub precision: DType,
}

impl TrajectoryCache {
    /// Runs the teacher; `progress(done, total)` returning false cancels, and so does `stop`, which is looked at inside an evaluation too.
    pub fn build(backend: &dyn Backend, teacher: &Model, spec: &CacheSpec, progress: &mut dyn FnMut(usize, usize) -> bool, stop: Stop) -> Result<Self> {
        let n = spec.pairs.len();
        let roles = teacher.roles()?;
        let c = roles.channels;
        let shape = [n + 1, spec.count, spec.size[0], spec.size[1], c];
        let rows = (n + 1).checked_mul(spec.count).filter(|r| *r <= i32::MAX as usize);
        let rows = rows.ok_or_else(|| Error::invalid(format!("a cache of {} trajectories of {} states is too large", spec.count, n + 1)))?;
        let mut states = Tensor::zeros(DType::F16, &[rows, shape[2], shape[3], c]).map_err(|e| e.context("trajectory cache"))?;
        let conditions = draw_conditions(&roles.conditions, spec.rows, (spec.count, spec.size), spec.seed, stop)?;
        let grid = trajectory::teacher_pairs(spec.schedule.len(), spec.pairs, spec.substeps)?;
        let table = Table::from_pairs(spec.schedule, spec.prediction, &grid, 0.0, spec.clip)?;
        let batch = spec.batch.min(spec.count).max(1);
        let run =
            RunSpec { table: &table, batch, size: spec.size, purpose: Purpose::Data, precision: spec.precision, guidance: spec.guidance, unrolled: UNROLLED };
        let mut run = SamplingRun::new_until(backend, teacher, &run, stop)?;
        let row = spec.size[0] * spec.size[1] * c;
        let out = states.as_mut_slice::<f16>()?;
        let mut range = StateRange::new(spec.schedule, spec.pairs, spec.clip, teacher.scheduler.clip())?;
        let given = roles.conditions.iter().zip(&conditions).map(|(condition, rows)| Ok((condition.kind, Values::of(rows)?)));
        let given = memory::try_collect(given, "conditions")?;
        let total = spec.count * grid.len();
        for_each_batch(&mut run, spec.seed, &given, spec.count, |run, first, used, _| {
            run.draw_noise(stop)?;
            for k in 0..=n {
                let to = &mut out[(k * spec.count + first) * row..][..used * row];
                range.store(k, to, &run.read()?, stop)?;
                for sub in 0..if k < n { spec.substeps } else { 0 } {
                    // Where nobody can stop it a GPU need not be waited for.
                    if stop.is_never() {
                        run.step(None, false)?
                    } else {
                        run.advance(stop)?
                    };
                    let done = first * grid.len() + (k * spec.substeps + sub + 1) * used;
                    if !progress(done, total) {
                        return Err(Error::cancelled("the trajectory cache was cancelled"));
                    }
                }
            }
            Ok(())
        })?;
        Ok(Self {
            states: Arc::new(states),
            conditions: memory::collect(conditions.into_iter().map(Arc::new), "conditions")?,
            count: spec.count,
            warning: range.warning(),
        })
    }
}

//! Teacher trajectories: the states at the ends of the student's steps, in f16, regenerated from seeds whenever they are needed.

use super::range::StateRange;
use crate::backend::Backend;
use crate::cancel::Stop;
use crate::diffusion::{Clip, NoiseSchedule, Prediction, Table, trajectory};
use crate::error::{Error, Result};
use crate::nn::Model;
use crate::random::{self, Purpose};
use crate::sampling::{RunSpec, SamplingRun, for_each_batch};
use crate::tensor::{DType, Tensor};
use half::f16;
use std::sync::Arc;

/// States [(N+1)*M,H,W,C] f16 (row k*M + i: noise i after k student steps' worth of the teacher) and labels [M] i32.
#[derive(Clone, Debug)]
pub struct TrajectoryCache {
    /// All states.
    pub states: Arc<Tensor>,
    /// Labels of the noises, for class-conditional teachers.
    pub labels: Option<Arc<Tensor>>,
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
    /// What the teacher computes in: f32, f16 or bf16. States are f32 between its steps in any case.
    pub precision: DType,
}

impl TrajectoryCache {
    /// Runs the teacher; `progress(done, total)` returning false cancels, and so does `stop`, which is looked at inside an evaluation too.
    pub fn build(backend: &dyn Backend, teacher: &Model, spec: &CacheSpec, progress: &mut dyn FnMut(usize, usize) -> bool, stop: Stop) -> Result<Self> {
        let n = spec.pairs.len();
        let c = teacher.config.in_channels;
        let shape = [n + 1, spec.count, spec.size[0], spec.size[1], c];
        let rows = (n + 1).checked_mul(spec.count).filter(|r| *r <= i32::MAX as usize);
        let rows = rows.ok_or_else(|| Error::invalid(format!("a cache of {} trajectories of {} states is too large", spec.count, n + 1)))?;
        let mut states = Tensor::zeros(DType::F16, &[rows, shape[2], shape[3], c]).map_err(|e| e.context("trajectory cache"))?;
        let labels = draw_labels(teacher.classes(), spec, stop)?;
        let grid = trajectory::teacher_pairs(spec.schedule.len(), spec.pairs, spec.substeps)?;
        let table = Table::from_pairs(spec.schedule, spec.prediction, &grid, 0.0, spec.clip)?;
        let batch = spec.batch.min(spec.count).max(1);
        let run = RunSpec { table: &table, batch, size: spec.size, purpose: Purpose::Data, precision: spec.precision };
        let mut run = SamplingRun::new_until(backend, teacher, &run, stop)?;
        let row = spec.size[0] * spec.size[1] * c;
        let out = states.as_mut_slice::<f16>()?;
        let mut range = StateRange::new(spec.schedule, spec.pairs, spec.clip, teacher.scheduler.clip())?;
        let label_slice = labels.as_ref().map(|l| l.as_slice::<i32>()).transpose()?;
        let total = spec.count * grid.len();
        for_each_batch(&mut run, spec.seed, label_slice, spec.count, |run, first, used| {
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
        Ok(Self { states: Arc::new(states), labels: labels.map(Arc::new), count: spec.count, warning: range.warning() })
    }
}

/// Uniform labels from the data purpose of the seed.
fn draw_labels(classes: Option<usize>, spec: &CacheSpec, stop: Stop) -> Result<Option<Tensor>> {
    let Some(classes) = classes else { return Ok(None) };
    let classes = u32::try_from(classes).map_err(|_| Error::invalid("too many classes"))?;
    let mut labels = Tensor::zeros(DType::I32, &[spec.count])?;
    for (i, label) in labels.as_mut_slice::<i32>()?.iter_mut().enumerate() {
        stop.check()?;
        *label = random::uniform_int(random::words(spec.seed, Purpose::Timestep, u32::MAX, i as u32, 0)[0], classes) as i32;
    }
    Ok(Some(labels))
}

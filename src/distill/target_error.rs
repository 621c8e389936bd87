//! How far from the teacher the states are that a student is trained to match: a student that matches them perfectly is no closer.

use super::trainer::Trainer;
use crate::cancel::Stop;
use crate::diffusion::{Table, Walk, trailing_pairs};
use crate::error::{Error, Result};
use crate::memory;
use crate::nn::conditions::Values;
use crate::random::Purpose;
use crate::sampling::{RunSpec, SamplingRun, UNROLLED, begin_batch, draw_conditions};
use crate::tensor::{DType, try_vec};

impl Trainer {
    /// RMSE between the ends of the teacher's trajectories as this run computes them and those of DDIM over `steps` trailing timesteps, from `count` noises
    /// (and labels) of a seed that training does not see. Clipping and guidance are the run's in both. In f32.
    pub fn target_error(&self, steps: usize, count: usize, seed: u64, stop: Stop) -> Result<f64> {
        let (teacher, spec) = self.cache_spec()?;
        if count == 0 || i32::try_from(count).is_err() {
            return Err(Error::invalid(format!("count is {count}; it must be 1 to {}", i32::MAX)));
        }
        let pairs = trailing_pairs(spec.schedule.len(), steps)?;
        let reference = Walk { order: 1, substeps: 1, clip: spec.walk.clip };
        let roles = teacher.roles()?;
        let conditions = draw_conditions(&roles.conditions, &spec.rows, (count, spec.size), seed, stop)?;
        let given = roles.conditions.iter().zip(&conditions).map(|(condition, rows)| Ok((condition.kind, Values::of(rows)?)));
        let given = memory::try_collect(given, "conditions")?;
        let run = |table: &Table| {
            let (batch, guidance) = (spec.batch.min(count).max(1), spec.guidance);
            let run = RunSpec { table, batch, size: spec.size, purpose: Purpose::Evaluation, precision: DType::F32, guidance, unrolled: UNROLLED };
            SamplingRun::new_until(self.backend.as_ref(), teacher, &run, stop)
        };
        let mut runs =
            [run(&spec.walk.table(&spec.schedule, spec.prediction, &spec.pairs)?)?, run(&reference.table(&spec.schedule, spec.prediction, &pairs)?)?];
        let row: usize = runs[0].shape()[1..].iter().product();
        let mut ends = try_vec::<f32>(runs[0].shape()[0] * row, "the teacher's ends")?;
        let (mut first, mut sum) = (0, 0f64);
        while first < count {
            let mut used = 0;
            for (which, run) in runs.iter_mut().enumerate() {
                used = begin_batch(run, seed, &given, count, first)?.0;
                run.step_until(None, true, stop)?;
                let found = run.read()?;
                match which {
                    0 => ends.copy_from_slice(&found),
                    _ => sum += ends[..used * row].iter().zip(found.iter()).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>(),
                }
            }
            first += used;
        }
        Ok((sum / (count * row) as f64).sqrt())
    }
}

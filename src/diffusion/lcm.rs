//! Multistep consistency sampling of latent consistency models (arXiv 2310.04378, algorithm 3), as diffusers' `LCMScheduler` takes it.
//!
//! A step predicts clean data, mixes in the state by the boundary condition `c_skip x + c_out x_0`, and adds noise again for the next timestep.

use super::grid::check_steps;
use super::parametrisation::Prediction;
use super::sampler::{Clip, Step, Sum, Table};
use super::schedule::{CLEAN, Level, NoiseSchedule, Precision};
use crate::error::{Error, Result};
use crate::memory::try_collect;

/// Options of an LCM run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LcmConfig {
    /// Steps of the solver that the model was distilled with, of whose timesteps a run visits some.
    pub original_steps: usize,
    /// Factor of timesteps in the boundary condition.
    pub timestep_scaling: f64,
    /// Clipping of the predicted data.
    pub clip: Clip,
}

/// The table of a run of `steps` steps.
pub(super) fn table(schedule: &NoiseSchedule, prediction: Prediction, config: &LcmConfig, steps: usize) -> Result<Table> {
    config.clip.check()?;
    let timesteps = timesteps(schedule.len(), config.original_steps, steps)?;
    let step = |i: usize| {
        let (t, next) = (timesteps[i], timesteps.get(i + 1).copied());
        let data = prediction.data(schedule.level(t)?)?;
        let [skip, out] = boundary(t as f64, config.timestep_scaling, schedule.config.precision);
        // The last step's result is the data itself.
        let to = next.map_or(Ok(Level::CLEAN), |n| schedule.level(n))?;
        let sum = Sum { x: to.alpha * skip, m0: to.alpha * out, ..Sum::default() };
        Ok(Step::new((t as f64, next.unwrap_or(CLEAN) as f64), data, sum, to.sigma))
    };
    Table::new(steps, step, config.clip)
}

/// `c_skip` and `c_out` with sigma_data = 1/2, in the precision of PyTorch's scalars.
fn boundary(t: f64, scaling: f64, p: Precision) -> [f64; 2] {
    let scaled = p.round(t * scaling);
    let sum = p.round(p.round(scaled * scaled) + 0.25);
    if !sum.is_finite() {
        return [0.0, 0.0];
    }
    [p.round(0.25 / sum), p.round(scaled / p.round(sum.sqrt()))]
}

/// Every so manieth of the solver's timesteps `k j - 1`, from the last down.
fn timesteps(train: usize, original: usize, steps: usize) -> Result<Vec<i64>> {
    check_steps(train, steps)?;
    if original == 0 || original > train {
        return Err(Error::invalid(format!("original_inference_steps is {original}; it must be between 1 and num_train_timesteps, {train}")));
    }
    if steps > original {
        return Err(Error::invalid(format!("the number of LCM steps is {steps}; original_inference_steps allows {original} at most")));
    }
    let (stride, part) = (train / original, original as f64 / steps as f64);
    let at = |i: usize| ((original - (i as f64 * part).floor() as usize) * stride) as i64 - 1;
    try_collect((0..steps).map(|i| Ok(at(i))), "timesteps")
}

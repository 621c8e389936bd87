//! DDPM's ancestral sampling (arXiv 2006.11239, algorithm 2 and equation 7), as diffusers' `DDPMScheduler` takes it over any grid of timesteps.

use super::grid::{PrevRule, Spacing, ddim_timesteps, pairs};
use super::parametrisation::Prediction;
use super::sampler::{Clip, Step, Sum, Table};
use super::schedule::{Level, NoiseSchedule, Precision};
use crate::error::Result;

/// The variance of the noise that a step adds (`variance_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Variance {
    /// That of the posterior of the step's result given clean data (`fixed_small`; `fixed_small_log` is the same number another way).
    #[default]
    Small,
    /// Beta of the step (`fixed_large`).
    Large,
}

/// Options of a DDPM run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DdpmConfig {
    /// Spread of the timesteps.
    pub spacing: Spacing,
    /// Added to each timestep for [`Spacing::Leading`].
    pub steps_offset: i64,
    /// Variance of the noise.
    pub variance: Variance,
    /// Clipping of the predicted data.
    pub clip: Clip,
}

/// The table of a run of `steps` steps.
pub(super) fn table(schedule: &NoiseSchedule, prediction: Prediction, config: &DdpmConfig, steps: usize) -> Result<Table> {
    config.clip.check()?;
    let timesteps = ddim_timesteps(schedule.len(), config.spacing, config.steps_offset, steps)?;
    let pairs = pairs(&timesteps, schedule.len(), steps, PrevRule::Schedule)?;
    Table::new(pairs.len(), |i| step(schedule, prediction, config, pairs[i]), config.clip)
}

fn step(schedule: &NoiseSchedule, prediction: Prediction, config: &DdpmConfig, (t, next): (i64, i64)) -> Result<Step> {
    let bars = &schedule.alphas_cumprod;
    let (from, to) = (bars[t as usize], if next < 0 { 1.0 } else { bars[next as usize] });
    let data = prediction.data(Level::from_alpha_bar(from))?;
    let mean = mean(from, to, schedule.config.precision);
    // Without clipping the data is folded into x and the output, in f64.
    let sum = match config.clip {
        Clip::None => Sum { x: mean.x + mean.m0 * data.x, out: mean.m0 * data.out, ..Sum::default() },
        _ => mean,
    };
    let noise = if t > 0 { deviation(from, to, config.variance, schedule.config.precision) } else { 0.0 };
    Ok(Step::new((t as f64, next as f64), data, sum, noise))
}

/// The posterior's mean as a combination of x and of clean data. Near clean data 1 - abar/abar' cancels, so every operation is rounded as diffusers rounds it.
fn mean(from: f64, to: f64, p: Precision) -> Sum {
    let r = |v: f64| p.round(v);
    let alpha = r(from / to);
    let (beta, beta_from, beta_to) = (r(1.0 - alpha), r(1.0 - from), r(1.0 - to));
    let m0 = r(r(r(to.sqrt()) * beta) / beta_from);
    Sum { x: r(r(r(alpha.sqrt()) * beta_to) / beta_from), m0, ..Sum::default() }
}

/// The noise's standard deviation.
fn deviation(from: f64, to: f64, variance: Variance, p: Precision) -> f64 {
    let r = |v: f64| p.round(v);
    let beta = r(1.0 - r(from / to));
    let variance = match variance {
        Variance::Small => r(r(r(1.0 - to) / r(1.0 - from)) * beta).max(1e-20),
        Variance::Large => beta,
    };
    r(variance.sqrt())
}

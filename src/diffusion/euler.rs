//! Euler's method and its ancestral form (k-diffusion; EDM, arXiv 2206.00364, algorithm 1), as diffusers' `EulerDiscreteScheduler` and
//! `EulerAncestralDiscreteScheduler` take them.
//!
//! The state is `x_0 + sigma e` with sigma = s/a, so it begins at the largest sigma and the network sees `x / sqrt(sigma² + 1)`. With D the predicted data and
//! d = (x - D) / sigma, a step is `x' = x + (sigma_down - sigma) d + sigma_up z`; the plain method has sigma_down = sigma' and sigma_up = 0.

use super::grid::{Spacing, check_steps, ddim_timesteps, trailing_timesteps};
use super::parametrisation::{Linear, Prediction};
use super::schedule::{CLEAN, NoiseSchedule, Rounding};
use super::sigmas::{FinalSigma, Logarithms, SigmaSpread, check_falling, spread_between, training_sigmas};
use super::table::{Clip, Step, Sum, Table};
use crate::error::{Error, Result};
use crate::memory::try_collect;

/// Options of an Euler run.
#[derive(Clone, Debug, PartialEq)]
pub struct EulerConfig {
    /// Spread of the timesteps.
    pub spacing: Spacing,
    /// Added to each timestep for [`Spacing::Leading`].
    pub steps_offset: i64,
    /// Fresh noise in every step.
    pub ancestral: bool,
    /// Spread of the sigmas. Unlike DPM-Solver's it lies between those of the first and the last timestep.
    pub sigmas: SigmaSpread,
    /// Equal steps of ln sigma over the whole schedule, whatever the spacing; the run then ends at the smallest sigma.
    pub log_linear: bool,
    /// The network is given a quarter of ln sigma as time. With `log_linear` the run then takes one step more, to the end that is said below.
    pub continuous: bool,
    /// The smallest and the largest sigma of a spread other than the schedule's, instead of those of the timesteps.
    pub range: [Option<f64>; 2],
    /// Where the run ends.
    pub final_sigmas: FinalSigma,
}

/// Times and sigmas of a run: one sigma more than there are times.
struct Grid {
    times: Vec<f64>,
    sigmas: Vec<f64>,
}

/// The table of a run of `steps` steps.
pub(super) fn table(schedule: &NoiseSchedule, prediction: Prediction, config: &EulerConfig, steps: usize) -> Result<Table> {
    if config.ancestral && prediction == Prediction::Sample {
        return Err(Error::unsupported("Euler ancestral has no prediction_type sample, in diffusers neither; sample with DDIM or DPM-Solver++"));
    }
    let p = schedule.config.precision;
    let grid = grid(schedule, config, steps)?;
    let largest = grid.sigmas.iter().fold(0.0_f64, |m, s| m.max(*s));
    let initial = match config.spacing {
        Spacing::Leading => p.round(p.round(p.round(largest * largest) + 1.0).sqrt()),
        Spacing::Linspace | Spacing::Trailing => largest,
    };
    Table::new(grid.times.len(), |i| step(&grid, i, prediction, config, p), Clip::None)?.starting_from(initial)
}

fn step(grid: &Grid, i: usize, prediction: Prediction, config: &EulerConfig, p: Rounding) -> Result<Step> {
    let (from, to) = (grid.sigmas[i], grid.sigmas[i + 1]);
    let [down, up] = if config.ancestral { ancestral(from, to, p) } else { [to, 0.0] };
    // d as a combination of x and the output.
    let norm = (from * from + 1.0).sqrt();
    let slope = match prediction {
        Prediction::Epsilon => Linear { x: 0.0, out: 1.0 },
        Prediction::Sample => Linear { x: 1.0 / from, out: -1.0 / from },
        Prediction::VPrediction => Linear { x: from / (norm * norm), out: 1.0 / norm },
    };
    let dt = down - from;
    let next = Sum { x: 1.0 + dt * slope.x, out: dt * slope.out, ..Sum::default() };
    let landing = grid.times.get(i + 1).copied().unwrap_or(if to == 0.0 { CLEAN as f64 } else { 0.0 });
    let step = Step::new((grid.times[i], landing), Linear { x: 0.0, out: 0.0 }, next, up);
    Ok(Step { input: 1.0 / norm, ..step })
}

/// `sigma_down` and `sigma_up`, rounded as diffusers rounds them: the first is a difference that may cancel.
fn ancestral(from: f64, to: f64, p: Rounding) -> [f64; 2] {
    let r = |v: f64| p.round(v);
    let (from2, to2) = (r(from * from), r(to * to));
    let up = r(r(r(to2 * r(from2 - to2)) / from2).sqrt());
    [r(r(to2 - r(up * up)).max(0.0).sqrt()), up]
}

fn grid(schedule: &NoiseSchedule, config: &EulerConfig, steps: usize) -> Result<Grid> {
    let p = schedule.config.precision;
    let train = training_sigmas(schedule)?;
    let mut times = timesteps(schedule, config, steps)?;
    let mut sigmas = match config.log_linear {
        true => log_linear(&train, steps, p)?,
        false => try_collect(times.iter().map(|t| Ok(interpolate(&train, *t))), "sigmas")?,
    };
    if config.sigmas != SigmaSpread::Schedule {
        let (high, low) = (config.range[1].unwrap_or(sigmas[0]), config.range[0].unwrap_or(sigmas[sigmas.len() - 1]));
        let logs = Logarithms::new(schedule, &train)?;
        sigmas = spread_between(config.sigmas, high, low, steps)?;
        times = try_collect(sigmas.iter().map(|s| Ok(logs.timestep_of(*s))), "timesteps")?;
    }
    let mut sigmas = try_collect(sigmas.iter().copied().chain([end(config, train[0])]).map(|s| Ok(p.round(s))), "sigmas")?;
    if !config.continuous {
        sigmas.truncate(times.len() + 1);
    }
    check_falling(&sigmas)?;
    times = match config.continuous {
        true => try_collect(sigmas[..sigmas.len() - 1].iter().map(|s| Ok(p.round(p.round(s.ln()) * 0.25))), "timesteps")?,
        false => try_collect(times.iter().map(|t| Ok(p.round(*t))), "timesteps")?,
    };
    Ok(Grid { times, sigmas })
}

fn end(config: &EulerConfig, smallest: f64) -> f64 {
    match config.final_sigmas {
        FinalSigma::Zero => 0.0,
        FinalSigma::SigmaMin => smallest,
    }
}

/// The same as DDIM's, but that linspace is not rounded to whole ones, and that a last trailing timestep of -1 is one.
fn timesteps(schedule: &NoiseSchedule, config: &EulerConfig, steps: usize) -> Result<Vec<f64>> {
    check_steps(schedule.len(), steps)?;
    if config.spacing == Spacing::Linspace {
        let (last, p) = (schedule.len() as f64 - 1.0, schedule.config.precision);
        let stride = last / (steps.max(2) - 1) as f64;
        let at = |i: usize| if i > 0 && i + 1 == steps { last } else { i as f64 * stride };
        return try_collect((0..steps).rev().map(|i| Ok(p.round(at(i)))), "timesteps");
    }
    let whole = match config.spacing {
        Spacing::Trailing => trailing_timesteps(schedule.len(), schedule.len(), steps)?,
        other => ddim_timesteps(schedule.len(), other, config.steps_offset, steps)?,
    };
    try_collect(whole.iter().map(|t| Ok(*t as f64)), "timesteps")
}

/// `numpy.interp` over the timesteps: before the first it is the first.
fn interpolate(train: &[f64], t: f64) -> f64 {
    let t = t.max(0.0);
    let low = (t.floor() as usize).min(train.len() - 1);
    let high = (low + 1).min(train.len() - 1);
    train[low] + (train[high] - train[low]) * (t - low as f64)
}

/// `steps` + 1 sigmas from the largest to the smallest.
fn log_linear(train: &[f64], steps: usize, p: Rounding) -> Result<Vec<f64>> {
    let ends = [train[train.len() - 1], train[0]].map(|s| p.round(s.ln()));
    let logs = super::schedule::linspace(ends[0], ends[1], steps + 1, p)?;
    try_collect(logs.iter().take(steps + 1).map(|l| Ok(p.round(l.exp()))), "sigmas")
}

#[cfg(test)]
mod tests {
    use super::super::schedule::ScheduleConfig;
    use super::*;

    /// 61 and 122 trailing steps of 1000 are 62 and 123 for diffusers, the last at timestep -1, which has the sigma of timestep 0.
    #[test]
    fn a_timestep_before_the_first_has_its_sigma() -> Result<()> {
        for (beta_start, steps, spread) in [(1e-4, 61, SigmaSpread::Schedule), (1e-6, 61, SigmaSpread::Schedule), (8.5e-4, 122, SigmaSpread::Karras)] {
            let schedule = NoiseSchedule::new(ScheduleConfig { beta_start, ..ScheduleConfig::default() })?;
            let config = EulerConfig {
                spacing: Spacing::Trailing,
                steps_offset: 0,
                ancestral: false,
                sigmas: spread,
                log_linear: false,
                continuous: false,
                range: [None; 2],
                final_sigmas: FinalSigma::Zero,
            };
            let (sigmas, least) = (grid(&schedule, &config, steps)?.sigmas, training_sigmas(&schedule)?[0]);
            let last = sigmas[sigmas.len() - 2];
            // float32, in which the sigmas are kept.
            assert!((last - least).abs() <= 1e-6 * least, "{beta_start} {steps}: {last}, not {least}");
            assert!(spread != SigmaSpread::Schedule || sigmas.len() == steps + 2, "{}", sigmas.len());
        }
        Ok(())
    }
}

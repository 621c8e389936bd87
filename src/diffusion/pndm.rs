//! PNDM: pseudo Runge-Kutta steps, then pseudo linear multistep ones (arXiv 2202.09778, equations 9, 12 and 13), as diffusers' `PNDMScheduler` takes them.
//!
//! Every step is equation 9, the deterministic DDIM step, with the network's output replaced by a combination of outputs. A Runge-Kutta step evaluates the network
//! four times, each from the state that it started at; without those, the first multistep step is taken twice.

use super::grid::{Spacing, ddim_timesteps};
use super::parametrisation::{Linear, Prediction};
use super::sampler::{Clip, MEMORY, Step, Sum, Table};
use super::schedule::{CLEAN, Level, NoiseSchedule};
use crate::error::{Error, Result};
use crate::tensor::try_vec;

/// Options of a PNDM run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PndmConfig {
    /// Spread of the timesteps.
    pub spacing: Spacing,
    /// Added to each timestep for [`Spacing::Leading`].
    pub steps_offset: i64,
    /// Without Runge-Kutta steps at the start.
    pub skip_prk_steps: bool,
    /// Past the first timestep lies clean data (true), or the noise level of timestep 0 (false).
    pub set_alpha_to_one: bool,
}

/// Places of what is kept: older outputs, newest first; the state that a step started from; the sum of a Runge-Kutta step's outputs.
const OUTPUTS: usize = 3;
const START: usize = 3;
const TOTAL: usize = 4;

/// One evaluation of the network and what is made of it.
struct Evaluation {
    /// Timestep that the network sees.
    t: i64,
    /// Equation 9 goes from the first to the second of these.
    pair: (i64, i64),
    /// From which state.
    state: Sum,
    /// The output in its place.
    output: Sum,
    /// Whether the output is one of those that later steps read.
    remembered: bool,
    /// What else is kept.
    keep: [Option<Sum>; MEMORY],
}

/// The table of a run of `steps` steps, which evaluates the network once more (but for a single step), or nine times more with Runge-Kutta steps.
pub(super) fn table(schedule: &NoiseSchedule, prediction: Prediction, config: &PndmConfig, steps: usize) -> Result<Table> {
    if prediction == Prediction::Sample {
        return Err(Error::unsupported("PNDM has no prediction_type sample, in diffusers neither; sample with DDIM or DPM-Solver++"));
    }
    let timesteps = ddim_timesteps(schedule.len(), config.spacing, config.steps_offset, steps)?;
    if !config.skip_prk_steps && steps < 4 {
        return Err(Error::invalid(format!("the number of PNDM steps is {steps}; with Runge-Kutta steps (skip_prk_steps false) it is at least 4")));
    }
    let stride = (schedule.len() / steps) as i64;
    let rising = |i: usize| timesteps[timesteps.len() - 1 - i];
    let (runge_kutta, multistep) = match config.skip_prk_steps {
        true => (0, if steps == 1 { 1 } else { steps + 1 }),
        false => (12, steps - 3),
    };
    let mut visited = try_vec::<i64>(runge_kutta + multistep, "timesteps")?;
    for (i, t) in visited.iter_mut().enumerate() {
        *t = match (i < runge_kutta, config.skip_prk_steps) {
            // Twice each, from the last but for its half: t3, t2+half twice, t2 twice, ..., t0.
            (true, _) => rising(steps - 1 - i.div_ceil(4)) + if (i + 1) % 4 > 1 { stride / 2 } else { 0 },
            (_, true) => timesteps[i.saturating_sub(usize::from(i > 1))],
            (_, false) => timesteps[3 + i - runge_kutta],
        };
    }
    let step = |i: usize| {
        let evaluation = if i < runge_kutta { runge_kutta_part(&visited, i, stride) } else { multistep_part(&visited, i, stride, config) };
        evaluation.step(schedule, prediction, config)
    };
    Table::new(visited.len(), step, Clip::None)
}

/// Part i % 4 of a Runge-Kutta step: two half steps and a whole one from the same state, and their weighted mean (equation 13).
fn runge_kutta_part(visited: &[i64], i: usize, stride: i64) -> Evaluation {
    let (t, base) = (visited[i], visited[i / 4 * 4]);
    let next = if i.is_multiple_of(2) { t - stride / 2 } else { t };
    let total = Sum::kept(TOTAL);
    let weighted = Sum::OUT.times(if matches!(i % 4, 0 | 3) { 1.0 / 6.0 } else { 1.0 / 3.0 });
    let mut part = Evaluation { t, pair: (base, next), state: Sum::kept(START), output: Sum::OUT, remembered: false, keep: [None; MEMORY] };
    match i % 4 {
        0 => {
            (part.state, part.remembered) = (Sum::X, true);
            (part.keep[START], part.keep[TOTAL]) = (Some(Sum::X), Some(weighted));
        }
        3 => part.output = total.plus(weighted),
        _ => part.keep[TOTAL] = Some(total.plus(weighted)),
    }
    part
}

/// A multistep evaluation (equation 12), of as many outputs as there are.
fn multistep_part(visited: &[i64], i: usize, stride: i64, config: &PndmConfig) -> Evaluation {
    let t = visited[i];
    let plain = Evaluation { t, pair: (t, t - stride), state: Sum::X, output: Sum::OUT, remembered: true, keep: [None; MEMORY] };
    let older = |weights: [f64; 4]| Sum { out: weights[0], kept: [weights[1], weights[2], weights[3], 0.0, 0.0], ..Sum::default() };
    match if config.skip_prk_steps { i } else { 4 } {
        0 => {
            let mut keep = [None; MEMORY];
            keep[START] = Some(Sum::X);
            Evaluation { keep, ..plain }
        }
        // The first step again, with the mean of the outputs at both of its ends.
        1 => Evaluation { pair: (t + stride, t), state: Sum::kept(START), output: older([0.5, 0.5, 0.0, 0.0]), remembered: false, ..plain },
        2 => Evaluation { output: older([1.5, -0.5, 0.0, 0.0]), ..plain },
        3 => Evaluation { output: older([23.0, -16.0, 5.0, 0.0].map(|w| w / 12.0)), ..plain },
        _ => Evaluation { output: older([55.0, -59.0, 37.0, -9.0].map(|w| w / 24.0)), ..plain },
    }
}

impl Evaluation {
    fn step(&self, schedule: &NoiseSchedule, prediction: Prediction, config: &PndmConfig) -> Result<Step> {
        let bar = |t: i64| match usize::try_from(t) {
            Ok(i) => schedule.alphas_cumprod.get(i).copied().ok_or_else(|| past(t, schedule.len())),
            Err(_) if config.set_alpha_to_one => Ok(1.0),
            Err(_) => Ok(schedule.alphas_cumprod[0]),
        };
        let [from, to] = [bar(self.pair.0)?, bar(self.pair.1)?];
        let Linear { x, out } = prediction.noise(Level::from_alpha_bar(from))?;
        // The network's output tells nothing of the data at zero SNR, whatever it predicts: equation 9 divides by a.
        if from == 0.0 {
            return Err(Error::invalid("PNDM cannot start at a timestep of zero SNR (alpha is 0); use DDIM with v_prediction"));
        }
        let noise = self.state.times(x).plus(self.output.times(out));
        let divisor = from * (1.0 - to).sqrt() + (from * (1.0 - from) * to).sqrt();
        let next = self.state.times((to / from).sqrt()).plus(noise.times((from - to) / divisor));
        let mut step = Step::new((self.t as f64, self.pair.1.max(CLEAN) as f64), Linear { x: 0.0, out: 0.0 }, next, 0.0);
        if self.remembered {
            step = step.push(Sum::OUT, OUTPUTS);
        }
        step.keep.iter_mut().zip(self.keep).for_each(|(place, keep)| *place = place.or(keep));
        Ok(step)
    }
}

fn past(t: i64, train: usize) -> Error {
    Error::invalid(format!("PNDM goes from timestep {t}; it must be below {train} (steps_offset moves it)"))
}

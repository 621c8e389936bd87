//! Samplers as tables of constants: whatever the method, a step is a few linear combinations whose coefficients are known before the run.
//!
//! The step of every table is the same. With z fresh unit noise, and k_j what earlier steps have kept:
//! ```text
//! out = network(input * x, t)
//! m0  = clip(x0_x * x + x0_out * out)
//! x'  = next(x, out, m0, k) + noise * z
//! k'  = keep(x, out, m0, k)
//! ```
//! `next` and each row of `keep` are sums with constant factors ([`Sum`]). So multistep methods remember predictions, Runge-Kutta steps the state that they started
//! from, and correctors the state before. A backend needs one kernel, a captured graph needs one small buffer, and a quantized student's coefficients can be refitted.

use super::parametrisation::Linear;
use crate::error::{Error, Result};
use crate::io::scheduler_config::is_limit;
use crate::memory::try_collect;

/// What is done to the predicted data of every step before it is used.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Clip {
    /// Nothing.
    #[default]
    None,
    /// Clamp to -range ..= range (`clip_sample`, `clip_sample_range`), above 0.
    Range(f64),
    /// Dynamic thresholding (Imagen, arXiv 2205.11487, section 2.3): with s the `ratio` quantile of |x0| over one sample's elements, at least 1 and at most `max`,
    /// clamp to ±s and divide by s (`thresholding`, `dynamic_thresholding_ratio`, `sample_max_value`).
    Dynamic {
        /// Quantile, 0 ..= 1.
        ratio: f64,
        /// Upper bound of s, above 0. Below 1 it wins over the lower bound, as in PyTorch's clamp.
        max: f64,
    },
}

/// The most values that any sampler keeps from step to step.
pub const MEMORY: usize = 5;

/// `x * x + out * out + m0 * m0 + sum_j kept[j] * k_j`: a linear combination of what a step has at hand.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Sum {
    /// Factor of the state.
    pub x: f64,
    /// Factor of the network's output.
    pub out: f64,
    /// Factor of the clipped prediction.
    pub m0: f64,
    /// Factors of what earlier steps have kept.
    pub kept: [f64; MEMORY],
}

impl Sum {
    /// The state itself.
    pub const X: Self = Self { x: 1.0, out: 0.0, m0: 0.0, kept: [0.0; MEMORY] };
    /// The network's output itself.
    pub const OUT: Self = Self { x: 0.0, out: 1.0, m0: 0.0, kept: [0.0; MEMORY] };
    /// The clipped prediction itself.
    pub const M0: Self = Self { x: 0.0, out: 0.0, m0: 1.0, kept: [0.0; MEMORY] };

    /// What is kept at place `j`, itself.
    pub fn kept(j: usize) -> Self {
        let mut sum = Self::default();
        sum.kept[j] = 1.0;
        sum
    }

    /// This combination times a number.
    pub fn times(mut self, factor: f64) -> Self {
        self.factors_mut().for_each(|f| *f *= factor);
        self
    }

    /// This combination and another.
    pub fn plus(mut self, other: Self) -> Self {
        self.factors_mut().zip(other.factors()).for_each(|(f, o)| *f += o);
        self
    }

    /// All factors: of the state, the output, the prediction, and of what is kept.
    pub fn factors(&self) -> impl Iterator<Item = f64> + '_ {
        [self.x, self.out, self.m0].into_iter().chain(self.kept)
    }

    fn factors_mut(&mut self) -> impl Iterator<Item = &mut f64> + '_ {
        [&mut self.x, &mut self.out, &mut self.m0].into_iter().chain(&mut self.kept)
    }
}

/// The coefficients of one step; see the module's formula.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Timestep fed to the network.
    pub t: f64,
    /// Timestep of the result; -1 is clean data.
    pub t_next: f64,
    /// Factor of x in what the network sees.
    pub input: f64,
    /// Factor of x in m0.
    pub x0_x: f64,
    /// Factor of the output in m0.
    pub x0_out: f64,
    /// The result, without its noise.
    pub next: Sum,
    /// Factor of unit normal noise in the result.
    pub noise: f64,
    /// What is kept at each place after the step; `None` leaves it as it is.
    pub keep: [Option<Sum>; MEMORY],
}

/// A whole run as constants.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// Factor of the unit noise that the run starts from: the standard deviation of the first state (diffusers: `init_noise_sigma`).
    pub initial: f64,
    /// Clipping of m0, in every step.
    pub clip: Clip,
    /// How many places of `keep` any step uses, 0 ..= [`MEMORY`].
    pub memory: usize,
}

impl Table {
    /// The table of `count` steps, from 0 on, without noise beside the steps' own.
    pub(super) fn new(count: usize, step: impl Fn(usize) -> Result<Step>, clip: Clip) -> Result<Self> {
        let checked = |i: usize| {
            let s = step(i)?;
            s.check().map_err(|e| e.context(format!("sampler step {i}, from timestep {} to {}", s.t, s.t_next)))?;
            Ok(s)
        };
        let steps = try_collect((0..count).map(checked), "sampler steps")?;
        let used = |j: &usize| steps.iter().any(|s| s.keep[*j].is_some());
        let memory = (0..MEMORY).rev().find(used).map_or(0, |j| j + 1);
        Ok(Self { steps, initial: 1.0, clip, memory })
    }

    /// The same table for a run that starts from unit noise times `initial`.
    pub(super) fn starting_from(self, initial: f64) -> Result<Self> {
        match is_coefficient(initial) {
            true => Ok(Self { initial, ..self }),
            false => Err(Error::numeric(format!("the first sigma ({initial:e}) is too large for float32; lower sigma_max, or take a milder noise schedule"))),
        }
    }

    /// True when some step needs fresh noise.
    pub fn is_stochastic(&self) -> bool {
        self.steps.iter().any(|s| s.noise != 0.0)
    }
}

impl Clip {
    /// An error unless the numbers make sense.
    pub fn check(self) -> Result<()> {
        match self {
            Clip::Range(r) if !is_limit(r) => {
                Err(Error::invalid(format!("clip_range (diffusers: clip_sample_range) is {r}; it must be above 0, also in float32")))
            }
            Clip::Dynamic { ratio, .. } if !(0.0..=1.0).contains(&ratio) => {
                Err(Error::invalid(format!("threshold_ratio (diffusers: dynamic_thresholding_ratio) is {ratio}; it must be between 0 and 1")))
            }
            Clip::Dynamic { max, .. } if !is_limit(max) => {
                Err(Error::invalid(format!("threshold_max (diffusers: sample_max_value) is {max}; it must be above 0, also in float32")))
            }
            _ => Ok(()),
        }
    }
}

impl Step {
    /// A step that gives `next` and keeps nothing.
    pub(super) fn new((t, t_next): (f64, f64), m0: Linear, next: Sum, noise: f64) -> Self {
        Self { t, t_next, input: 1.0, x0_x: m0.x, x0_out: m0.out, next, noise, keep: [None; MEMORY] }
    }

    /// A step that also keeps `row` at place 0, and what was at each of the first `places` - 1 places at the next.
    pub(super) fn push(mut self, row: Sum, places: usize) -> Self {
        for (j, keep) in self.keep.iter_mut().enumerate().take(places) {
            *keep = Some(if j == 0 { row } else { Sum::kept(j - 1) });
        }
        self
    }

    /// Whether anything is made of m0.
    pub fn reads_m0(&self) -> bool {
        std::iter::once(&self.next).chain(self.keep.iter().flatten()).any(|row| row.m0 != 0.0)
    }

    /// An error unless every coefficient is finite in float32, in which backends take them.
    fn check(&self) -> Result<()> {
        let rows = std::iter::once(&self.next).chain(self.keep.iter().flatten());
        match [self.input, self.x0_x, self.x0_out, self.noise].into_iter().chain(rows.flat_map(Sum::factors)).find(|c| !is_coefficient(*c)) {
            Some(c) => Err(Error::numeric(format!("a sampler coefficient is {c:e}; the schedule is too extreme for this prediction type"))),
            None => Ok(()),
        }
    }
}

/// Whether float32 has a finite number for it. Not a cast, which would raise a flag; see schedule.rs on traps.
pub(crate) fn is_coefficient(value: f64) -> bool {
    value.abs() <= f64::from(f32::MAX)
}

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

use super::ddpm::{self, DdpmConfig};
use super::dpm::{self, DpmConfig};
use super::euler::{self, EulerConfig};
use super::grid::{PrevRule, Spacing, check_pairs, ddim_timesteps, pairs};
use super::lcm::{self, LcmConfig};
use super::parametrisation::{Linear, Prediction};
use super::pndm::{self, PndmConfig};
use super::schedule::{Level, NoiseSchedule, Precision};
use super::unipc::{self, UniPcConfig};
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

/// Options of a DDIM run (arXiv 2010.02502, equations 12 and 16).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DdimConfig {
    /// Spread of the timesteps.
    pub spacing: Spacing,
    /// Added to each timestep for [`Spacing::Leading`].
    pub steps_offset: i64,
    /// Share of fresh noise: 0 is deterministic, 1 is DDPM's ancestral sampling. Not negative.
    pub eta: f64,
    /// Clipping of the predicted data.
    pub clip: Clip,
    /// The last step lands on clean data (true), or on the noise level of timestep 0 (false).
    pub set_alpha_to_one: bool,
    /// Where a step lands.
    pub prev_rule: PrevRule,
    /// Derive the noise again from the clipped data instead of taking it from the output. No effect without clipping.
    pub use_clipped_model_output: bool,
}

impl Default for DdimConfig {
    /// What a few-step student is sampled with: trailing, deterministic, no clipping, ending at clean data. (diffusers' own defaults differ.)
    fn default() -> Self {
        Self {
            spacing: Spacing::Trailing,
            steps_offset: 0,
            eta: 0.0,
            clip: Clip::None,
            set_alpha_to_one: true,
            prev_rule: PrevRule::Schedule,
            use_clipped_model_output: false,
        }
    }
}

/// A sampler and its options.
#[derive(Clone, Debug, PartialEq)]
pub enum SamplerConfig {
    /// DDIM.
    Ddim(DdimConfig),
    /// The DPM-Solver++ family.
    DpmSolverPp(DpmConfig),
    /// Euler, also ancestral.
    Euler(EulerConfig),
    /// DDPM's ancestral sampling.
    Ddpm(DdpmConfig),
    /// PNDM.
    Pndm(PndmConfig),
    /// LCM.
    Lcm(LcmConfig),
    /// UniPC.
    UniPc(UniPcConfig),
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
    /// The table of a run of `steps` steps, 1 ..= T, with a network of the given prediction type. Start from unit normal noise
    /// times `initial`. (PNDM evaluates the network a few times more than it has steps: each is a step of the table.)
    pub fn build(schedule: &NoiseSchedule, prediction: Prediction, config: &SamplerConfig, steps: usize) -> Result<Self> {
        match config {
            SamplerConfig::Ddim(ddim) => Self::ddim(schedule, prediction, ddim, steps),
            SamplerConfig::DpmSolverPp(dpm) => dpm::table(schedule, prediction, dpm, steps),
            SamplerConfig::Euler(euler) => euler::table(schedule, prediction, euler, steps),
            SamplerConfig::Ddpm(ddpm) => ddpm::table(schedule, prediction, ddpm, steps),
            SamplerConfig::Pndm(pndm) => pndm::table(schedule, prediction, pndm, steps),
            SamplerConfig::Lcm(lcm) => lcm::table(schedule, prediction, lcm, steps),
            SamplerConfig::UniPc(unipc) => unipc::table(schedule, prediction, unipc, steps),
        }
    }

    /// DDIM steps over an explicit list of pairs, each with t in 0 .. T and a smaller t_next, -1 for clean data: the grid saved with a few-step student.
    pub fn from_pairs(schedule: &NoiseSchedule, prediction: Prediction, pairs: &[(i64, i64)], eta: f64, clip: Clip) -> Result<Self> {
        check_pairs(schedule.len(), pairs)?;
        let rule = DdimConfig { eta, clip, ..DdimConfig::default() };
        Self::ddim_steps(schedule, prediction, &rule, pairs)
    }

    fn ddim(schedule: &NoiseSchedule, prediction: Prediction, config: &DdimConfig, steps: usize) -> Result<Self> {
        let timesteps = ddim_timesteps(schedule.len(), config.spacing, config.steps_offset, steps)?;
        Self::ddim_steps(schedule, prediction, config, &pairs(&timesteps, schedule.len(), steps, config.prev_rule)?)
    }

    fn ddim_steps(schedule: &NoiseSchedule, prediction: Prediction, config: &DdimConfig, pairs: &[(i64, i64)]) -> Result<Self> {
        config.clip.check()?;
        if !(config.eta >= 0.0 && config.eta.is_finite()) {
            return Err(Error::invalid(format!("eta is {}; it must be finite and not negative", config.eta)));
        }
        let bars = &schedule.alphas_cumprod;
        let end = if config.set_alpha_to_one { 1.0 } else { bars[0] };
        let step = |&(t, next): &(i64, i64)| {
            // `check_pairs` has seen to it that both are in range.
            let bar = [bars[t as usize], if next < 0 { end } else { bars[next as usize] }];
            let split = noise_split(bar, config.eta, schedule.config.precision)?;
            let s = ddim_step(bar.map(Level::from_alpha_bar), split, prediction, config)?;
            let s = Step { t: t as f64, t_next: next as f64, ..s };
            Ok(s)
        };
        Self::new(pairs.len(), |i| step(&pairs[i]), config.clip)
    }

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

/// The factors of the predicted and of the fresh noise in a DDIM step between the given `abar`s: `sigma² = eta² (s_n/s_t)² (1 - a_t²/a_n²)` and
/// `direction² = s_n² - sigma²`, a difference that cancels near clean data: with float32 tables every operation is rounded as diffusers rounds it.
fn noise_split([from, to]: [f64; 2], eta: f64, p: Precision) -> Result<(f64, f64)> {
    if eta == 0.0 {
        return Ok(((1.0 - to).sqrt(), 0.0));
    }
    let r = |v: f64| p.round(v);
    let (beta_from, beta_to) = (r(1.0 - from), r(1.0 - to));
    let variance = r(r(beta_to / beta_from) * r(1.0 - r(from / to)));
    let fresh = r(r(eta) * r(variance.max(0.0).sqrt()));
    let rest = r(beta_to - r(fresh * fresh));
    // Rounding may leave a little less than nothing; more than that is a wrong eta.
    if rest < -1e-6 * beta_to.max(1e-3) {
        return Err(Error::invalid(format!("eta is {eta}: more noise than the next timestep holds; use 1 or less")));
    }
    Ok((rest.max(0.0).sqrt(), fresh))
}

/// One DDIM step: `x' = a_n x0 + direction e + fresh z`.
fn ddim_step([from, to]: [Level; 2], (direction, fresh): (f64, f64), prediction: Prediction, config: &DdimConfig) -> Result<Step> {
    let (data, noise) = (prediction.data(from)?, prediction.noise(from)?);
    let next = match (config.clip, config.use_clipped_model_output) {
        // Folded into x and the output: a small difference of large numbers near zero SNR is then taken here, in f64.
        (Clip::None, _) => Sum { x: to.alpha * data.x + direction * noise.x, out: to.alpha * data.out + direction * noise.out, ..Sum::default() },
        (_, false) => Sum { x: direction * noise.x, out: direction * noise.out, m0: to.alpha, ..Sum::default() },
        (_, true) => Sum { x: direction / from.sigma, m0: to.alpha - direction * from.alpha / from.sigma, ..Sum::default() },
    };
    Ok(Step::new((0.0, 0.0), data, next, fresh))
}

#[cfg(test)]
mod tests {
    use super::super::grid::trailing_pairs;
    use super::super::schedule::ScheduleConfig;
    use super::*;

    fn schedule() -> NoiseSchedule {
        NoiseSchedule::new(ScheduleConfig::default()).unwrap()
    }

    /// The amplification table of research/distillation.md, section 0: (t, n, B of epsilon, C of x0, sin D of v).
    #[test]
    fn amplification_of_the_output() {
        let rows = [(999, -1, 157.4, 1.0, 1.0), (999, 499, 43.2, 0.274, 0.274), (999, 749, 8.11, 0.0515, 0.0515), (249, -1, 0.953, 1.0, 0.690)];
        for (t, n, b, c, sin) in rows {
            for (prediction, expected) in [(Prediction::Epsilon, -b), (Prediction::Sample, c), (Prediction::VPrediction, -sin)] {
                let table = Table::from_pairs(&schedule(), prediction, &[(t, n)], 0.0, Clip::None).unwrap();
                assert!((table.steps[0].next.out - expected).abs() < 0.006 * expected.abs(), "{t}->{n} {prediction:?}: {}", table.steps[0].next.out);
                assert_eq!((table.steps[0].next.m0, table.memory), (0.0, 0));
            }
        }
    }

    /// With exact outputs every prediction type takes the same step, and a deterministic step keeps x on the same (data, noise) line.
    #[test]
    fn exact_outputs_stay_on_the_line() {
        let s = schedule();
        let (x0, e) = (0.7, -1.3);
        for prediction in [Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction] {
            let table = Table::from_pairs(&s, prediction, &trailing_pairs(1000, 4).unwrap(), 0.0, Clip::None).unwrap();
            let mut x = s.alpha(999) * x0 + s.sigma(999) * e;
            for step in &table.steps {
                let out = prediction.target(s.level(step.t as i64).unwrap()).apply(x0, e);
                x = step.next.x * x + step.next.out * out;
                let l = s.level(step.t_next as i64).unwrap();
                assert!((x - l.alpha * x0 - l.sigma * e).abs() < 1e-9);
            }
        }
    }

    /// The variance of a step's result does not depend on eta when data and noise are independent: s_n² is split, not enlarged.
    #[test]
    fn eta_splits_the_noise() {
        for eta in [0.0, 0.3, 1.0] {
            let clip = Clip::Range(1.0);
            let table = Table::from_pairs(&schedule(), Prediction::Epsilon, &[(499, 249)], eta, clip).unwrap();
            let s = table.steps[0];
            assert!((s.next.out * s.next.out + s.noise * s.noise - schedule().sigma(249).powi(2)).abs() < 1e-6);
            assert_eq!(table.is_stochastic(), eta > 0.0);
        }
    }

    #[test]
    fn bad_options_are_named() {
        let s = schedule();
        let of = |eta, clip| Table::from_pairs(&s, Prediction::Epsilon, &[(499, 249)], eta, clip).unwrap_err().message;
        assert!(of(-1.0, Clip::None).contains("eta is -1"));
        assert!(of(f64::NAN, Clip::None).contains("eta is NaN"));
        assert!(of(3.0, Clip::None).contains("eta is 3"));
        assert!(of(0.0, Clip::Range(0.0)).contains("clip_sample_range) is 0"));
        assert!(of(0.0, Clip::Range(1e-50)).contains("float32"));
        assert!(of(0.0, Clip::Dynamic { ratio: 1.5, max: 1.0 }).contains("dynamic_thresholding_ratio) is 1.5"));
        assert!(of(0.0, Clip::Dynamic { ratio: 0.5, max: f64::NAN }).contains("sample_max_value) is NaN"));
        assert!(of(0.0, Clip::Dynamic { ratio: 0.5, max: 1e-50 }).contains("float32"));
    }

    #[test]
    fn zero_snr_needs_another_prediction_type() {
        let s = NoiseSchedule::new(ScheduleConfig { rescale_betas_zero_snr: true, ..Default::default() }).unwrap();
        let config = SamplerConfig::Ddim(DdimConfig::default());
        assert!(Table::build(&s, Prediction::Epsilon, &config, 4).unwrap_err().message.contains("v_prediction"));
        Table::build(&s, Prediction::VPrediction, &config, 4).unwrap();
    }
}

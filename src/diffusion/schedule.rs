//! The noise schedule: how much signal and how much noise a sample holds at each training timestep.
//!
//! Notation of the whole room (DDPM, arXiv 2006.11239; DDIM, arXiv 2010.02502): `x_t = a_t x_0 + s_t e` with `a_t = sqrt(abar_t)`,
//! `s_t = sqrt(1 - abar_t)` and `abar_t = prod_{i<=t} (1 - beta_i)`. Time -1 stands for clean data: a = 1, s = 0.
//!
//! Hosts may make floating-point exceptions traps, so nothing in this room divides by zero, overflows or takes the logarithm of zero, to get an infinity that is meant:
//! the operand is changed (`nonzero`), for compilers may compute both sides of a condition, and the result chosen.

use crate::error::{Error, Result};
use crate::memory::{try_collect, try_vec};

/// Most training timesteps that a schedule may have.
pub const MAX_TRAIN_TIMESTEPS: usize = 100_000;

/// The timestep that stands for clean data (a = 1, s = 0), one past the end of every sampling run.
pub const CLEAN: i64 = -1;

/// How beta grows with time. The names are those of diffusers' `beta_schedule`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BetaSchedule {
    /// Equal steps of beta (DDPM, section 4).
    Linear,
    /// Equal steps of sqrt(beta) (latent diffusion, arXiv 2112.10752).
    ScaledLinear,
    /// `abar(u) = cos²((u + 0.008) / 1.008 · pi/2)`, beta at most 0.999 (improved DDPM, arXiv 2102.09672, equation 17).
    SquaredcosCapV2,
    /// Along a sigmoid from -6 to 6 (GeoDiff, arXiv 2203.02923).
    Sigmoid,
    /// `abar` from a Laplace distribution of ln snr, as diffusers writes it, beta at most 0.999.
    Laplace,
    /// `abar(u) = e^(-12 u)`.
    Exp,
}

/// In which precision betas and their products are made.
///
/// A teacher was trained with float32 tables, and near `abar = 0` their rounding is visible (cosine schedule: `abar[999]` differs by 6e-5 relative), so
/// [`Precision::Float32`] is the default: it repeats PyTorch's tables bit for bit. The two differ by about 1e-6 relative for linear betas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Precision {
    /// Float32 betas; products accumulated in float64 and stored as float32, as `torch.cumprod` does on a CPU.
    #[default]
    Float32,
    /// Everything in float64.
    Float64,
}

/// What a [`NoiseSchedule`] is made from; the fields carry diffusers' names.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleConfig {
    /// Number of training timesteps T, 1 ..= [`MAX_TRAIN_TIMESTEPS`].
    pub num_train_timesteps: usize,
    /// First beta, strictly between 0 and 1. Not read by the cosine schedule or with `trained_betas`.
    pub beta_start: f64,
    /// Last beta, strictly between 0 and 1.
    pub beta_end: f64,
    /// Shape of the betas in between.
    pub beta_schedule: BetaSchedule,
    /// Explicit betas, one for each timestep, instead of the three fields above.
    pub trained_betas: Option<Vec<f64>>,
    /// Shift and scale sqrt(abar) so that the last one is exactly 0 (arXiv 2305.08891, algorithm 1).
    pub rescale_betas_zero_snr: bool,
    /// Factor c of `1/snr`: `abar / (c + (1 - c) abar)` takes the place of `abar` (CogVideoX); 1 changes nothing.
    pub snr_shift_scale: f64,
    /// Precision of the tables.
    pub precision: Precision,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 1e-4,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            rescale_betas_zero_snr: false,
            snr_shift_scale: 1.0,
            precision: Precision::Float32,
        }
    }
}

/// Signal and noise amplitude at one time: `x = alpha x_0 + sigma e`, `alpha² + sigma² = 1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Amplitude of the data, 0 ..= 1.
    pub alpha: f64,
    /// Amplitude of the noise, 0 ..= 1.
    pub sigma: f64,
}

impl Level {
    /// Clean data.
    pub const CLEAN: Self = Self { alpha: 1.0, sigma: 0.0 };

    /// From `abar = alpha²`.
    pub fn from_alpha_bar(alpha_bar: f64) -> Self {
        Self { alpha: alpha_bar.sqrt(), sigma: (1.0 - alpha_bar).sqrt() }
    }

    /// From the ratio `sigma / alpha` that DPM-Solver++ calls sigma; finite and not negative.
    pub fn from_ratio(ratio: f64) -> Self {
        let alpha = 1.0 / (ratio * ratio + 1.0).sqrt();
        Self { alpha, sigma: ratio * alpha }
    }

    /// Signal-to-noise ratio `alpha² / sigma²`; +inf for clean data.
    pub fn snr(self) -> f64 {
        let clean = self.sigma == 0.0;
        let snr = (self.alpha / nonzero(self.sigma)).powi(2);
        if clean { f64::INFINITY } else { snr }
    }

    /// Half the log of the signal-to-noise ratio, `ln(alpha / sigma)`: the lambda of DPM-Solver; -inf for pure noise and +inf for clean data.
    pub fn lambda(self) -> f64 {
        let ln = |v: f64| nonzero(v).ln();
        match (self.alpha == 0.0, self.sigma == 0.0) {
            (true, _) => f64::NEG_INFINITY,
            (_, true) => f64::INFINITY,
            _ => ln(self.alpha) - ln(self.sigma),
        }
    }
}

/// A validated schedule with its table of `abar`.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseSchedule {
    /// `abar_t` for t = 0 ..= T-1, strictly falling, from 0 to 1. The last may be exactly 0 (zero terminal SNR), the first exactly 1 (a beta that float32's
    /// 1 - beta does not show), so that timestep 0 has no noise.
    pub alphas_cumprod: Vec<f64>,
    /// What it was made from.
    pub config: ScheduleConfig,
}

impl NoiseSchedule {
    /// Checks the configuration and makes the tables.
    pub fn new(config: ScheduleConfig) -> Result<Self> {
        let t = config.num_train_timesteps;
        if !(1..=MAX_TRAIN_TIMESTEPS).contains(&t) {
            return Err(Error::invalid(format!("num_train_timesteps is {t}; it must be between 1 and {MAX_TRAIN_TIMESTEPS}")));
        }
        let mut betas = betas(&config)?;
        check_betas(&betas)?;
        let shifted = config.snr_shift_scale != 1.0;
        if config.rescale_betas_zero_snr && !shifted {
            rescale_zero_terminal_snr(&mut betas, config.precision)?;
        }
        let mut alphas_cumprod = cumulative_product(&betas, config.precision)?;
        if shifted {
            shift_snr(&mut alphas_cumprod, &config)?;
        }
        if let Some(t) = alphas_cumprod.windows(2).position(|w| w[1] >= w[0]) {
            return Err(Error::numeric(format!(
                "alphas_cumprod does not fall between timesteps {t} and {}: the betas there are too small or too large",
                t + 1
            )));
        }
        Ok(Self { alphas_cumprod, config })
    }

    /// Whether the other schedule has the same noise levels, to what a betas' list keeps of them (1e-5).
    pub fn agrees_with(&self, other: &Self) -> bool {
        let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-5 * b.abs();
        self.len() == other.len() && self.alphas_cumprod.iter().zip(&other.alphas_cumprod).all(near)
    }

    /// The betas whose products these noise levels are: for a config that cannot say it otherwise.
    pub fn betas(&self) -> Result<Vec<f64>> {
        if self.config.snr_shift_scale == 1.0 && !self.config.rescale_betas_zero_snr {
            return betas(&self.config);
        }
        let before = |t: usize| if t == 0 { 1.0 } else { self.alphas_cumprod[t - 1] };
        try_collect(self.alphas_cumprod.iter().enumerate().map(|(t, a)| Ok(1.0 - a / before(t))), "betas")
    }

    /// Number of training timesteps T.
    pub fn len(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// Never true: a schedule has at least one timestep.
    pub fn is_empty(&self) -> bool {
        self.alphas_cumprod.is_empty()
    }

    /// True when the last timestep is pure noise (`abar = 0`), where epsilon tells nothing about the data.
    pub fn zero_terminal_snr(&self) -> bool {
        self.alphas_cumprod.last() == Some(&0.0)
    }

    /// Amplitudes at timestep `t`, or at clean data for t = -1; an error for any other t outside 0 .. T.
    pub fn level(&self, t: i64) -> Result<Level> {
        if t == CLEAN {
            return Ok(Level::CLEAN);
        }
        let index = usize::try_from(t).ok().filter(|i| *i < self.len());
        let index = index.ok_or_else(|| Error::invalid(format!("timestep is {t}; it must be between -1 (clean) and {}", self.len() - 1)))?;
        Ok(Level::from_alpha_bar(self.alphas_cumprod[index]))
    }

    /// `a_t`; NaN where [`NoiseSchedule::level`] is an error.
    pub fn alpha(&self, t: i64) -> f64 {
        self.level(t).map_or(f64::NAN, |l| l.alpha)
    }

    /// `s_t`; NaN where [`NoiseSchedule::level`] is an error.
    pub fn sigma(&self, t: i64) -> f64 {
        self.level(t).map_or(f64::NAN, |l| l.sigma)
    }

    /// Signal-to-noise ratio; +inf at t = -1, NaN where [`NoiseSchedule::level`] is an error.
    pub fn snr(&self, t: i64) -> f64 {
        self.level(t).map_or(f64::NAN, Level::snr)
    }

    /// `ln(a_t / s_t)`; +inf at t = -1, -inf at zero SNR, NaN where [`NoiseSchedule::level`] is an error.
    pub fn lambda(&self, t: i64) -> f64 {
        self.level(t).map_or(f64::NAN, Level::lambda)
    }
}

impl Precision {
    /// The nearest number that the tables can hold. One float64 operation on float32 values rounded once is the float32 operation (double rounding is harmless for + - * / sqrt).
    pub(crate) fn round(self, v: f64) -> f64 {
        const MAX: f64 = f32::MAX as f64;
        match self {
            // A cast that overflows raises a flag; see the module's words on traps.
            Precision::Float32 => {
                let within = f64::from(v.clamp(-MAX, MAX) as f32);
                if v.abs() > MAX { f64::INFINITY.copysign(v) } else { within }
            }
            Precision::Float64 => v,
        }
    }
}

/// The value, or 1 for 0: what may be divided by, whatever becomes of the quotient. The optimiser is not to know which of the two it is.
pub(super) fn nonzero(value: f64) -> f64 {
    std::hint::black_box(if value == 0.0 { 1.0 } else { value })
}

fn betas(config: &ScheduleConfig) -> Result<Vec<f64>> {
    let (t, p) = (config.num_train_timesteps, config.precision);
    if let Some(given) = &config.trained_betas {
        if given.len() != t {
            return Err(Error::invalid(format!("trained_betas has {} entries; num_train_timesteps is {t}", given.len())));
        }
        return try_collect(given.iter().take(t).map(|b| Ok(p.round(*b))), "betas");
    }
    if config.beta_schedule.reads_range() {
        check_beta("beta_start", config.beta_start)?;
        check_beta("beta_end", config.beta_end)?;
    }
    let (start, end) = (config.beta_start, config.beta_end);
    let mut values = match config.beta_schedule {
        BetaSchedule::Linear => return linspace(start, end, t, p),
        BetaSchedule::ScaledLinear => linspace(start.sqrt(), end.sqrt(), t, p)?,
        BetaSchedule::Sigmoid => linspace(-6.0, 6.0, t, p)?,
        _ => try_vec::<f64>(t, "betas")?,
    };
    let part = |i: usize| i as f64 / t as f64;
    for (i, v) in values.iter_mut().enumerate() {
        *v = match config.beta_schedule {
            BetaSchedule::Linear => *v,
            BetaSchedule::ScaledLinear => p.round(*v * *v),
            BetaSchedule::Sigmoid => p.round(p.round(p.round(1.0 / (1.0 + (-*v).exp())) * p.round(end - start)) + p.round(start)),
            BetaSchedule::SquaredcosCapV2 => p.round(beta_between(cosine_bar, part(i), part(i + 1))),
            BetaSchedule::Laplace => p.round(beta_between(laplace_bar, part(i), part(i + 1))),
            BetaSchedule::Exp => p.round(beta_between(|u| (u * -12.0).exp(), part(i), part(i + 1))),
        };
    }
    Ok(values)
}

impl BetaSchedule {
    /// Whether `beta_start` and `beta_end` mean something.
    fn reads_range(self) -> bool {
        matches!(self, Self::Linear | Self::ScaledLinear | Self::Sigmoid)
    }
}

/// The beta of a step between two parts of the whole, from `abar` as a function of the part; at most 0.999.
fn beta_between(bar: impl Fn(f64) -> f64, from: f64, to: f64) -> f64 {
    (1.0 - bar(to) / bar(from)).min(0.999)
}

fn cosine_bar(u: f64) -> f64 {
    ((u + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos().powi(2)
}

fn laplace_bar(u: f64) -> f64 {
    let lambda = -0.5 * (0.5 - u).signum() * (1.0 - 2.0 * (0.5 - u).abs() + 1e-6).ln();
    let snr = lambda.exp();
    (snr / (1.0 + snr)).sqrt()
}

fn check_beta(name: &str, beta: f64) -> Result<()> {
    if beta > 0.0 && beta < 1.0 {
        return Ok(());
    }
    Err(Error::invalid(format!("{name} is {beta}; it must be strictly between 0 and 1")))
}

/// Every beta strictly between 0 and 1; the last may be 1, which makes the terminal SNR zero.
fn check_betas(betas: &[f64]) -> Result<()> {
    let last = betas.len() - 1;
    for (t, &beta) in betas.iter().enumerate() {
        if !(t == last && t > 0 && beta == 1.0) {
            check_beta(&format!("beta at timestep {t}"), beta)?;
        }
    }
    Ok(())
}

/// `torch.linspace`: from the start in the first half and from the end in the second, each with one rounding (a fused multiply-add).
pub(super) fn linspace(start: f64, end: f64, n: usize, p: Precision) -> Result<Vec<f64>> {
    let mut v = try_vec::<f64>(n, "betas")?;
    let (start, end) = (p.round(start), p.round(end));
    let step = if n > 1 { p.round(p.round(end - start) / (n - 1) as f64) } else { 0.0 };
    for (i, o) in v.iter_mut().enumerate() {
        *o = p.round(if i < n / 2 || n == 1 { start + step * i as f64 } else { end - step * (n - 1 - i) as f64 });
    }
    Ok(v)
}

fn cumulative_product(betas: &[f64], p: Precision) -> Result<Vec<f64>> {
    let mut v = try_vec::<f64>(betas.len(), "alphas_cumprod")?;
    let mut product = 1.0;
    for (o, beta) in v.iter_mut().zip(betas) {
        product *= p.round(1.0 - beta);
        *o = p.round(product);
    }
    Ok(v)
}

/// arXiv 2305.08891, algorithm 1, operation for operation as diffusers does it: the differences of nearly equal numbers near T make the order of rounding visible.
fn rescale_zero_terminal_snr(betas: &mut [f64], p: Precision) -> Result<()> {
    let bars = zero_terminal_snr(cumulative_product(betas, p)?, p)?;
    let mut before = 1.0;
    for (beta, bar) in betas.iter_mut().zip(bars) {
        *beta = p.round(1.0 - p.round(bar / before));
        before = bar;
    }
    Ok(())
}

/// The `abar`s whose roots are shifted and scaled to end at zero and begin where they did.
fn zero_terminal_snr(mut bars: Vec<f64>, p: Precision) -> Result<Vec<f64>> {
    bars.iter_mut().for_each(|a| *a = p.round(a.sqrt()));
    let (first, last) = (bars[0], bars[bars.len() - 1]);
    if bars.len() < 2 {
        return Err(Error::invalid(format!("rescale_betas_zero_snr needs at least two timesteps; num_train_timesteps is {}", bars.len())));
    }
    if first <= last {
        return Err(Error::invalid(format!(
            "rescale_betas_zero_snr needs noise that grows, but sqrt(alphas_cumprod) is {first} at timestep 0 and {last} at the last: the betas are too small"
        )));
    }
    let scale = p.round(first / p.round(first - last));
    for bar in &mut bars {
        let shifted = p.round(p.round(*bar - last) * scale);
        *bar = p.round(shifted * shifted);
    }
    Ok(bars)
}

/// CogVideoX's change of the noise levels, after which zero terminal SNR is made from `abar` and not from betas.
fn shift_snr(bars: &mut Vec<f64>, config: &ScheduleConfig) -> Result<()> {
    let (p, c) = (config.precision, config.snr_shift_scale);
    if !(c > 0.0 && c.is_finite()) {
        return Err(Error::invalid(format!("snr_shift_scale is {c}; it must be above 0")));
    }
    for bar in bars.iter_mut() {
        *bar = p.round(*bar / p.round(c + p.round((1.0 - c) * *bar)));
    }
    if config.rescale_betas_zero_snr {
        *bars = zero_terminal_snr(std::mem::take(bars), p)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(change: impl FnOnce(&mut ScheduleConfig)) -> Result<NoiseSchedule> {
        let mut config = ScheduleConfig::default();
        change(&mut config);
        NoiseSchedule::new(config)
    }

    #[test]
    fn checkpoints_of_diffusers() {
        let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 2e-6, "{a} against {b}");
        let s = schedule(|_| ()).unwrap();
        near(s.alphas_cumprod[0], 0.99989998);
        near(s.alphas_cumprod[499], 0.0785872);
        near(s.alphas_cumprod[999], 4.03583e-5);
        let s = schedule(|c| (c.beta_schedule, c.beta_start, c.beta_end) = (BetaSchedule::ScaledLinear, 0.00085, 0.012)).unwrap();
        near(s.alphas_cumprod[999], 4.66010e-3);
        let s = schedule(|c| c.beta_schedule = BetaSchedule::SquaredcosCapV2).unwrap();
        assert!((s.alphas_cumprod[999] / 2.4287e-9 - 1.0).abs() < 1e-4);
    }

    #[test]
    fn both_precisions_agree_for_linear_betas() {
        let (a, b) = (schedule(|_| ()).unwrap(), schedule(|c| c.precision = Precision::Float64).unwrap());
        for (a, b) in a.alphas_cumprod.iter().zip(&b.alphas_cumprod) {
            assert!((a / b - 1.0).abs() < 5e-6, "{a} against {b}");
        }
    }

    #[test]
    fn zero_snr_ends_at_exactly_zero() {
        for p in [Precision::Float32, Precision::Float64] {
            let s = schedule(|c| (c.rescale_betas_zero_snr, c.precision) = (true, p)).unwrap();
            assert!(s.zero_terminal_snr());
            assert_eq!(s.snr(999), 0.0);
            assert!((s.alphas_cumprod[0] - 0.9999).abs() < 1e-6);
        }
    }

    #[test]
    fn levels_and_their_borders() {
        let s = schedule(|_| ()).unwrap();
        assert_eq!(s.level(-1).unwrap(), Level::CLEAN);
        assert_eq!(s.snr(-1), f64::INFINITY);
        for t in [0, 1, 500, 999] {
            let l = s.level(t).unwrap();
            assert!((l.alpha * l.alpha + l.sigma * l.sigma - 1.0).abs() < 1e-12);
            let back = Level::from_ratio(l.sigma / l.alpha);
            assert!((back.alpha - l.alpha).abs() < 1e-12 && (back.sigma - l.sigma).abs() < 1e-12);
            assert!((l.lambda() * 2.0 - l.snr().ln()).abs() < 1e-9);
        }
        for t in [-2, 1000, i64::MAX, i64::MIN] {
            assert!(s.level(t).unwrap_err().message.contains(&t.to_string()));
            assert!(s.alpha(t).is_nan());
        }
    }

    #[test]
    fn bad_configurations_are_named() {
        type Change = fn(&mut ScheduleConfig);
        let cases: &[(Change, &str)] = &[
            (|c| c.num_train_timesteps = 0, "num_train_timesteps is 0"),
            (|c| c.num_train_timesteps = 100_001, "num_train_timesteps is 100001"),
            (|c| c.beta_start = 0.0, "beta_start is 0"),
            (|c| c.beta_end = 1.0, "beta_end is 1"),
            (|c| c.beta_end = f64::NAN, "beta_end is NaN"),
            (|c| c.trained_betas = Some(vec![0.1; 3]), "trained_betas has 3 entries"),
            (|c| c.trained_betas = Some(vec![-0.1; 1000]), "beta at timestep 0 is -0.1"),
            (|c| c.trained_betas = Some(vec![0.9999; 1000]), "does not fall"),
            (|c| (c.num_train_timesteps, c.rescale_betas_zero_snr) = (1, true), "at least two timesteps"),
            (|c| (c.beta_start, c.beta_end, c.rescale_betas_zero_snr) = (1e-9, 1e-9, true), "the betas are too small"),
        ];
        for (change, part) in cases {
            let message = schedule(change).unwrap_err().message;
            assert!(message.contains(part), "{message}");
        }
    }
}

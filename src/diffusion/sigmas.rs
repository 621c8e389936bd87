//! The noise levels of a DPM-Solver++, UniPC or Euler run: the schedule's own, or the Karras, exponential, beta and Lu spreads over its range.
//!
//! Here sigma is the ratio `s_t / a_t` (the variance-exploding view of the same process). Formulas and rounding follow diffusers' `DPMSolverMultistepScheduler`.

use super::grid::{Spacing, check_chain, check_pairs, dpm_timesteps};
use super::schedule::{BetaSchedule, CLEAN, NoiseSchedule, Rounding, nonzero};
use crate::error::{Error, Result};
use crate::memory::{self, try_collect, try_vec};

pub use crate::names::FinalSigma;

/// How the sigmas of a run are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SigmaSpread {
    /// Those of the timesteps that the spacing chose.
    #[default]
    Schedule,
    /// Equal steps of sigma^(1/7) (EDM, arXiv 2206.00364, equation 5; `use_karras_sigmas`).
    Karras,
    /// Equal steps of ln sigma (`use_exponential_sigmas`).
    Exponential,
    /// Quantiles of the Beta(0.6, 0.6) distribution (arXiv 2407.12173; `use_beta_sigmas`).
    Beta,
    /// Equal steps of lambda (DPM-Solver, arXiv 2206.00927; `use_lu_lambdas`). The same numbers as [`SigmaSpread::Exponential`], but for the rounding of timesteps.
    Lu,
}

/// Timesteps (fed to the network) and sigmas of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct SigmaGrid {
    /// One timestep a step, falling; neighbours may be equal under a spread other than the schedule's, and the last may be -1 with trailing spacing.
    pub timesteps: Vec<i64>,
    /// One sigma more than there are timesteps: before each step, and after the last. See `check_falling`.
    pub sigmas: Vec<f64>,
    /// Where the last step lands, as a timestep.
    end: i64,
}

/// What a [`SigmaGrid`] is made from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SigmaOptions {
    /// Spread of the timesteps; also decides their number when `lambda_min_clipped` cuts a trailing list short.
    pub spacing: Spacing,
    /// Added to each timestep for [`Spacing::Leading`].
    pub steps_offset: i64,
    /// Spread of the sigmas.
    pub spread: SigmaSpread,
    /// Where the run ends.
    pub end: FinalSigma,
    /// Timesteps whose `ln(a/s)` is below this are not visited; -inf visits all. Only the schedule's own spread reads it.
    pub lambda_min_clipped: f64,
    /// Whose rules these are: the two differ in how they round timesteps, and in where a spread ends.
    pub rules: Rules,
    /// The smallest and the largest sigma of a spread other than the schedule's, instead of the schedule's.
    pub range: [Option<f64>; 2],
}

/// Whose rules a grid follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Rules {
    /// `DPMSolverMultistepScheduler`.
    #[default]
    Dpm,
    /// `UniPCMultistepScheduler`.
    UniPc,
}

impl SigmaGrid {
    /// The grid of a run of `steps` steps, 1 ..= T.
    pub fn new(schedule: &NoiseSchedule, options: &SigmaOptions, steps: usize) -> Result<Self> {
        let train = training_sigmas(schedule)?;
        let last = visited(schedule, options.lambda_min_clipped)?;
        let listed = dpm_timesteps(schedule.len(), last, options.spacing, options.steps_offset, steps)?;
        let (timesteps, mut sigmas) = match options.spread {
            SigmaSpread::Schedule => {
                let mut sigmas = try_vec::<f64>(listed.len(), "sigmas")?;
                sigmas.iter_mut().zip(&listed).for_each(|(s, t)| *s = train[(*t).max(0) as usize]);
                (listed, sigmas)
            }
            spread => spread_sigmas(schedule, &train, spread, options, steps)?,
        };
        let smallest = match (options.rules, options.spread, sigmas.last()) {
            // The spread's own, which in a run of one step is its largest.
            (Rules::UniPc, SigmaSpread::Karras | SigmaSpread::Exponential | SigmaSpread::Beta, Some(own)) => *own,
            _ => train[0],
        };
        sigmas.push(match options.end {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => smallest,
        });
        let p = schedule.config.precision;
        sigmas.iter_mut().for_each(|s| *s = p.round(*s));
        check_falling(&sigmas)?;
        let end = if options.end == FinalSigma::Zero { CLEAN } else { 0 };
        Ok(Self { timesteps, sigmas, end })
    }

    /// The grid of a run over pairs of timesteps, each of which begins where the one before ends.
    pub fn over(schedule: &NoiseSchedule, pairs: &[(i64, i64)]) -> Result<Self> {
        check_pairs(schedule.len(), pairs)?;
        check_chain(pairs)?;
        let (train, p) = (training_sigmas(schedule)?, schedule.config.precision);
        let timesteps = memory::collect(pairs.iter().map(|pair| pair.0), "timesteps")?;
        let end = pairs.last().map_or(CLEAN, |pair| pair.1);
        let sigma = |t: i64| usize::try_from(t).map_or(0.0, |t| p.round(train[t]));
        let sigmas = memory::collect(timesteps.iter().copied().chain([end]).map(sigma), "sigmas")?;
        check_falling(&sigmas)?;
        Ok(Self { timesteps, sigmas, end })
    }

    /// Where each step lands, as a timestep: the next step's, and at the end of a spread [`CLEAN`] for sigma 0 and timestep 0 for the smallest training sigma.
    pub fn next_timestep(&self, step: usize) -> i64 {
        self.timesteps.get(step + 1).copied().unwrap_or(self.end)
    }
}

/// sigma of every training timestep, rising. Zero terminal SNR would be infinite: like diffusers, the last `abar` is then 2^-24.
pub(super) fn training_sigmas(schedule: &NoiseSchedule) -> Result<Vec<f64>> {
    let p = schedule.config.precision;
    let ratio = |a: f64| {
        let finite = p.round(p.round(p.round(1.0 - a) / nonzero(a)).sqrt());
        if a == 0.0 { f64::INFINITY } else { finite }
    };
    let sigmas = try_collect(solver_alpha_bars(schedule).map(|a| Ok(ratio(a))), "sigmas")?;
    match sigmas.iter().position(|s| !(s.is_finite() && *s > 0.0)) {
        Some(t) => Err(Error::numeric(format!("the schedule has sigma/alpha = {} at timestep {t}; this sampler needs it positive and finite", sigmas[t]))),
        None => Ok(sigmas),
    }
}

fn solver_alpha_bars(schedule: &NoiseSchedule) -> impl Iterator<Item = f64> + '_ {
    let last = schedule.len() - 1;
    let floor = move |t: usize, a: f64| if t == last && (schedule.config.rescale_betas_zero_snr || a == 0.0) { 2f64.powi(-24) } else { a };
    schedule.alphas_cumprod.iter().enumerate().map(move |(t, a)| floor(t, *a))
}

/// T less the number of timesteps with lambda below the clip.
fn visited(schedule: &NoiseSchedule, clip: f64) -> Result<usize> {
    if clip.is_nan() {
        return Err(Error::invalid("lambda_min_clipped is NaN"));
    }
    let p = schedule.config.precision;
    let ln = |v: f64| p.round(p.round(v.sqrt()).ln());
    let below = solver_alpha_bars(schedule).filter(|a| p.round(ln(*a) - ln(p.round(1.0 - a))) < p.round(clip)).count();
    Ok(schedule.len() - below)
}

fn spread_sigmas(schedule: &NoiseSchedule, train: &[f64], spread: SigmaSpread, options: &SigmaOptions, steps: usize) -> Result<(Vec<i64>, Vec<f64>)> {
    let logs = Logarithms::new(schedule, train)?;
    let (low, high) = (options.range[0].unwrap_or(train[0]), options.range[1].unwrap_or(train[train.len() - 1]));
    let mut sigmas = match spread {
        SigmaSpread::Lu => exponential(logs.of[logs.of.len() - 1], logs.of[0], steps)?,
        spread => spread_between(spread, high, low, steps)?,
    };
    // diffusers rounds the timesteps of Karras and Lu, but not for the cosine schedule (UniPC: for all); whatever is left of a fraction is then cut off. So the
    // first timestep is T-1 or T-2 by the last bit of a logarithm, which is why the formula's value, and numpy's logarithm, are used here.
    let cosine = options.rules == Rules::Dpm && schedule.config.beta_schedule == BetaSchedule::SquaredcosCapV2;
    let rounds = matches!(spread, SigmaSpread::Karras | SigmaSpread::Lu) && !cosine;
    let timestep = |s: &f64| {
        let t = logs.timestep_of(*s);
        Ok((if rounds { t.round_ties_even() } else { t.trunc() }) as i64)
    };
    let timesteps = try_collect(sigmas.iter().map(timestep), "timesteps")?;
    // The ends are exact by definition.
    sigmas[steps - 1] = low;
    sigmas[0] = high;
    Ok((timesteps, sigmas))
}

/// `steps` sigmas from `high` to `low`, spread as diffusers does it in float64.
pub(super) fn spread_between(spread: SigmaSpread, high: f64, low: f64, steps: usize) -> Result<Vec<f64>> {
    let sigma = |r: f64| match spread {
        SigmaSpread::Karras => (high.powf(1.0 / 7.0) + r * (low.powf(1.0 / 7.0) - high.powf(1.0 / 7.0))).powf(7.0),
        _ => low + beta_quantile(1.0 - r) * (high - low),
    };
    match spread {
        SigmaSpread::Karras | SigmaSpread::Beta => try_collect((0..steps).map(|i| Ok(sigma(part(i, steps)))), "sigmas"),
        SigmaSpread::Schedule | SigmaSpread::Exponential | SigmaSpread::Lu => exponential(high.ln(), low.ln(), steps),
    }
}

/// Equal steps of ln sigma.
fn exponential(log_high: f64, log_low: f64, steps: usize) -> Result<Vec<f64>> {
    try_collect((0..steps).map(|i| Ok((log_high + part(i, steps) * (log_low - log_high)).exp())), "sigmas")
}

fn part(i: usize, steps: usize) -> f64 {
    i as f64 / (steps.max(2) - 1) as f64
}

/// ln sigma of every training timestep.
pub(super) struct Logarithms {
    of: Vec<f64>,
    /// The least from each timestep on. Rises, which the logarithms themselves need not: the last may be below the one before with zero terminal SNR, and
    /// neighbours by an ulp.
    least: Vec<f64>,
    p: Rounding,
}

impl Logarithms {
    pub fn new(schedule: &NoiseSchedule, train: &[f64]) -> Result<Self> {
        let p = schedule.config.precision;
        let of = try_collect(train.iter().map(|s| Ok(ln(p, *s))), "logarithms of sigmas")?;
        let mut least = memory::copy(&of, "logarithms of sigmas")?;
        for t in (1..least.len()).rev() {
            least[t - 1] = least[t - 1].min(least[t]);
        }
        Ok(Self { of, least, p })
    }

    /// The fractional timestep at which the training schedule has this sigma, by linear interpolation of ln sigma above the last timestep that has no more.
    pub fn timestep_of(&self, sigma: f64) -> f64 {
        let logs = &self.of;
        if logs.len() < 2 {
            return 0.0;
        }
        let log = sigma.max(1e-10).ln();
        let low = self.least.partition_point(|l| *l <= log).saturating_sub(1).min(logs.len() - 2);
        let w = ((logs[low] - log) / self.p.round(logs[low] - logs[low + 1])).clamp(0.0, 1.0);
        (1.0 - w) * low as f64 + w * (low + 1) as f64
    }
}

/// Natural logarithm of a positive number in the tables' precision; in float32 with the bits of numpy's vectorised `log` on x86 (a rational approximation that is
/// an ulp off here and there).
fn ln(p: Rounding, v: f64) -> f64 {
    /// Numerator and denominator, highest power first.
    const RATIONAL: [(f32, f32); 6] = [
        (2.589_979e-2, 5.875_095_4e-3),
        (3.808_837_8e-1, 1.546_476_4e-1),
        (1.480_000_6, 9.864_943e-1),
        (2.112_677_6, 2.453_006),
        (1.0, 2.612_677_6),
        (0.0, 1.0),
    ];
    if p == Rounding::Float64 {
        return v.ln();
    }
    let exponent = (v.to_bits() >> 52) as i64 - 1023;
    let mantissa = f64::from_bits((v.to_bits() & ((1 << 52) - 1)) | (1023 << 52));
    let (m, e) = if mantissa > std::f64::consts::SQRT_2 { (mantissa / 2.0, exponent + 1) } else { (mantissa, exponent) };
    let y = (m - 1.0) as f32;
    let (n, d) = RATIONAL.iter().skip(1).fold(RATIONAL[0], |(n, d), (a, b)| (n.mul_add(y, *a), d.mul_add(y, *b)));
    f64::from((e as f32).mul_add(std::f32::consts::LN_2, n / d))
}

/// An error unless the sigmas are positive and fall, but for an end at zero, or one that a spread with limits of its own has passed.
pub(super) fn check_falling(sigmas: &[f64]) -> Result<()> {
    for (i, w) in sigmas.windows(2).enumerate() {
        let last = i + 2 == sigmas.len();
        if !(w[0] > 0.0 && w[0].is_finite() && w[1] >= 0.0 && (w[1] < w[0] || last)) {
            return Err(Error::invalid(format!("sigma does not fall in sampler step {i} (from {} to {}); ask for fewer steps", w[0], w[1])));
        }
    }
    Ok(())
}

/// Quantile of Beta(0.6, 0.6) by bisection of its distribution function.
fn beta_quantile(q: f64) -> f64 {
    if q <= 0.0 || q >= 1.0 {
        return q.clamp(0.0, 1.0);
    }
    if q > 0.5 {
        return 1.0 - beta_quantile(1.0 - q);
    }
    // In ln x, so that the smallest quantiles keep their relative precision.
    let (mut low, mut high) = (-700.0_f64, 0.5_f64.ln());
    for _ in 0..70 {
        let middle = 0.5 * (low + high);
        if beta_cdf(middle.exp()) < q { low = middle } else { high = middle }
    }
    (0.5 * (low + high)).exp()
}

/// The regularised incomplete beta function I_x(0.6, 0.6) for x ≤ 1/2, by its power series: x^a / (a B) · (1 + a · sum_n prod_{j<=n} (j - b)/j · x^n / (a + n)).
fn beta_cdf(x: f64) -> f64 {
    /// Γ(0.6)² / Γ(1.2).
    const B: f64 = 2.415_344_208_002_471_4;
    let (a, b) = (0.6, 0.6);
    let (mut sum, mut term) = (1.0 / a, 1.0);
    for n in 1..80 {
        term *= (f64::from(n) - b) / f64::from(n) * x;
        sum += term / (a + f64::from(n));
    }
    x.powf(a) * sum / B
}

#[cfg(test)]
mod tests {
    use super::super::schedule::ScheduleConfig;
    use super::*;

    const PLAIN: SigmaOptions = SigmaOptions {
        spacing: Spacing::Linspace,
        steps_offset: 0,
        spread: SigmaSpread::Schedule,
        end: FinalSigma::Zero,
        lambda_min_clipped: f64::NEG_INFINITY,
        rules: Rules::Dpm,
        range: [None; 2],
    };

    #[test]
    fn karras_timesteps_of_diffusers() {
        let schedule = NoiseSchedule::new(ScheduleConfig::default()).unwrap();
        let grid = SigmaGrid::new(&schedule, &SigmaOptions { spread: SigmaSpread::Karras, ..PLAIN }, 8).unwrap();
        assert_eq!(grid.timesteps, [999, 917, 815, 681, 484, 205, 32, 0]);
        assert_eq!((grid.sigmas.len(), grid.next_timestep(0), grid.next_timestep(7)), (9, 917, -1));
    }

    /// The last timestep whose logarithm is not above, wherever the logarithms fall: what a search from the end finds.
    #[test]
    fn timesteps_are_found_where_logarithms_fall() {
        let p = Rounding::Float64;
        let of = vec![-3.0, -1.0, -1.5, 0.0, 2.0, 1.9];
        let logs = Logarithms { least: vec![-3.0, -1.5, -1.5, 0.0, 1.9, 1.9], of: of.clone(), p };
        for i in -400..300 {
            let sigma = (f64::from(i) * 0.01).exp();
            let low = of.iter().rposition(|l| *l <= sigma.ln()).unwrap_or(0).min(4);
            let w = ((of[low] - sigma.ln()) / (of[low] - of[low + 1])).clamp(0.0, 1.0);
            assert_eq!(logs.timestep_of(sigma), (1.0 - w) * low as f64 + w * (low + 1) as f64, "{sigma}");
        }
        let schedule = NoiseSchedule::new(ScheduleConfig { rescale_betas_zero_snr: true, ..Default::default() }).unwrap();
        let logs = Logarithms::new(&schedule, &training_sigmas(&schedule).unwrap()).unwrap();
        assert!(logs.least.is_sorted() && logs.least.iter().zip(&logs.of).all(|(a, b)| a <= b));
        assert_eq!(logs.least[..10], logs.of[..10]);
    }

    #[test]
    fn beta_distribution() {
        assert!((beta_cdf(0.5) - 0.5).abs() < 1e-12);
        for q in [1e-6, 0.01, 0.3, 0.5, 0.7, 0.99] {
            let x = beta_quantile(q);
            let back = if q <= 0.5 { beta_cdf(x) } else { 1.0 - beta_cdf(1.0 - x) };
            assert!((back - q).abs() < 1e-12, "{q}: {x} {back}");
        }
        assert_eq!((beta_quantile(0.0), beta_quantile(1.0)), (0.0, 1.0));
    }

    #[test]
    fn every_spread_runs_from_the_noisiest_to_the_cleanest() {
        let schedule = NoiseSchedule::new(ScheduleConfig::default()).unwrap();
        for spread in [SigmaSpread::Karras, SigmaSpread::Exponential, SigmaSpread::Beta, SigmaSpread::Lu] {
            for steps in [1, 2, 5, 40] {
                let grid = SigmaGrid::new(&schedule, &SigmaOptions { spread, end: FinalSigma::SigmaMin, ..PLAIN }, steps).unwrap();
                assert!(grid.timesteps[0] >= 998, "{spread:?}");
                assert!((grid.sigmas[0] - 157.407).abs() < 1e-2);
                assert_eq!(grid.next_timestep(steps - 1), 0);
            }
        }
    }

    #[test]
    fn float32_logarithms() {
        for i in 1..4000 {
            let v = f64::from((f64::from(i) * 0.01 - 20.0).exp() as f32);
            assert!((ln(Rounding::Float32, v) - v.ln()).abs() <= 2e-7 * v.ln().abs().max(1.0), "{v}");
        }
        assert_eq!(ln(Rounding::Float32, 1.0), 0.0);
    }

    #[test]
    fn clipped_lambda_and_its_errors() {
        let schedule = NoiseSchedule::new(ScheduleConfig { beta_schedule: BetaSchedule::SquaredcosCapV2, ..Default::default() }).unwrap();
        let grid = |clip| SigmaGrid::new(&schedule, &SigmaOptions { lambda_min_clipped: clip, ..PLAIN }, 10);
        assert!(grid(-5.1).unwrap().timesteps[0] < 999);
        assert!(grid(100.0).unwrap_err().message.contains("lambda_min_clipped"));
        assert!(grid(f64::NAN).is_err());
        let all = SigmaGrid::new(&schedule, &PLAIN, 1000).unwrap_err();
        assert!(all.message.contains("fewer steps"), "{}", all.message);
    }
}

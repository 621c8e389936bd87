//! DDIM (arXiv 2010.02502) as a table of constants, over a spread of timesteps or an explicit grid.

use super::grid::{PrevRule, Spacing, check_pairs, ddim_timesteps, pairs};
use super::parametrisation::Prediction;
use super::schedule::{Level, NoiseSchedule, Rounding};
use super::table::{Clip, Step, Sum, Table};
use crate::error::{Error, Result};

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

impl Table {
    /// DDIM steps over an explicit list of pairs, each with t in 0 .. T and a smaller t_next, -1 for clean data: the grid saved with a few-step student.
    pub fn from_pairs(schedule: &NoiseSchedule, prediction: Prediction, pairs: &[(i64, i64)], eta: f64, clip: Clip) -> Result<Self> {
        check_pairs(schedule.len(), pairs)?;
        let rule = DdimConfig { eta, clip, ..DdimConfig::default() };
        over(schedule, prediction, &rule, pairs)
    }
}

/// The table of a run of `steps` steps.
pub(super) fn table(schedule: &NoiseSchedule, prediction: Prediction, config: &DdimConfig, steps: usize) -> Result<Table> {
    let timesteps = ddim_timesteps(schedule.len(), config.spacing, config.steps_offset, steps)?;
    over(schedule, prediction, config, &pairs(&timesteps, schedule.len(), steps, config.prev_rule)?)
}

fn over(schedule: &NoiseSchedule, prediction: Prediction, config: &DdimConfig, pairs: &[(i64, i64)]) -> Result<Table> {
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
    Table::new(pairs.len(), |i| step(&pairs[i]), config.clip)
}

/// The factors of the predicted and of the fresh noise in a DDIM step between the given `abar`s: `sigma² = eta² (s_n/s_t)² (1 - a_t²/a_n²)` and
/// `direction² = s_n² - sigma²`, a difference that cancels near clean data: with float32 tables every operation is rounded as diffusers rounds it.
fn noise_split([from, to]: [f64; 2], eta: f64, p: Rounding) -> Result<(f64, f64)> {
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
        let config = DdimConfig::default();
        assert!(table(&s, Prediction::Epsilon, &config, 4).unwrap_err().message.contains("v_prediction"));
        table(&s, Prediction::VPrediction, &config, 4).unwrap();
    }
}

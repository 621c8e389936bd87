//! UniPC: a multistep predictor whose result the next evaluation corrects (arXiv 2302.04867, algorithms 1 and 2, the B(h) version), as diffusers'
//! `UniPCMultistepScheduler` takes it.
//!
//! With lambda = ln(a/s), h the step in lambda, hh = -h for predicted data (h for noise), and D_j the divided differences of predictions m_j:
//! `x' = (s'/s) x - a' (e^hh - 1) m - a' B sum_j rho_j D_j` (for noise a and s change places). The corrector is the same with the new prediction among the D_j.

use super::grid::Spacing;
use super::parametrisation::Prediction;
use super::sampler::{Clip, Step, Sum, Table};
use super::schedule::{Level, NoiseSchedule, Precision, nonzero};
use super::sigmas::{FinalSigma, Rules, SigmaGrid, SigmaOptions, SigmaSpread};
use crate::error::{Error, Result};

/// Options of a UniPC run.
#[derive(Clone, Debug, PartialEq)]
pub struct UniPcConfig {
    /// Spread of the timesteps.
    pub spacing: Spacing,
    /// Added to each timestep for [`Spacing::Leading`].
    pub steps_offset: i64,
    /// Order of predictor and corrector, 1 ..= [`HIGHEST`].
    pub order: usize,
    /// Predicted data is extrapolated (else predicted noise).
    pub predict_x0: bool,
    /// B(h) is h (`bh1`), else e^h - 1 (`bh2`).
    pub bh1: bool,
    /// Lower the order of the last steps.
    pub lower_order_final: bool,
    /// Steps whose result is not corrected.
    pub disable_corrector: Vec<usize>,
    /// Spread of the sigmas.
    pub sigmas: SigmaSpread,
    /// The smallest and the largest sigma of a spread other than the schedule's, instead of the schedule's.
    pub range: [Option<f64>; 2],
    /// Where the run ends.
    pub final_sigmas: FinalSigma,
    /// Clipping of predicted data; read with `predict_x0` only.
    pub clip: Clip,
}

/// The highest order.
pub const HIGHEST: usize = 3;

/// Places of what is kept: older predictions, newest first, and the corrected state of the step before.
const LAST: usize = 3;

/// Sigmas of a run with what follows from them.
struct Run<'a> {
    config: &'a UniPcConfig,
    grid: SigmaGrid,
    p: Precision,
}

/// The table of a run of `steps` steps.
pub(super) fn table(schedule: &NoiseSchedule, prediction: Prediction, config: &UniPcConfig, steps: usize) -> Result<Table> {
    check(config, steps)?;
    let options = SigmaOptions {
        spacing: config.spacing,
        steps_offset: config.steps_offset,
        spread: config.sigmas,
        end: config.final_sigmas,
        lambda_min_clipped: f64::NEG_INFINITY,
        rules: Rules::UniPc,
        range: config.range,
    };
    let run = Run { config, grid: SigmaGrid::new(schedule, &options, steps)?, p: schedule.config.precision };
    let clip = if config.predict_x0 { config.clip } else { Clip::None };
    Table::new(run.grid.timesteps.len(), |i| run.step(i, prediction), clip)
}

fn check(config: &UniPcConfig, steps: usize) -> Result<()> {
    config.clip.check()?;
    if !(1..=HIGHEST).contains(&config.order) {
        return Err(Error::unsupported(format!(
            "solver_order is {}; UniPC is supported up to {HIGHEST}: lower it in the scheduler's config, or sample with DDIM or DPM-Solver++",
            config.order
        )));
    }
    if config.final_sigmas == FinalSigma::Zero && !config.predict_x0 {
        return Err(Error::invalid("the final sigma (final_sigmas_type) is zero, which UniPC with predict_x0 false cannot reach; use sigma_min"));
    }
    if config.final_sigmas == FinalSigma::Zero && config.order.min(steps) > 1 && !config.lower_order_final {
        return Err(Error::invalid(
            "the final sigma (final_sigmas_type) is zero, which UniPC reaches at order 1 only; set lower_order_final, or use sigma_min",
        ));
    }
    Ok(())
}

impl Run<'_> {
    fn step(&self, i: usize, prediction: Prediction) -> Result<Step> {
        let level = self.level(i);
        let m0 = if self.config.predict_x0 { prediction.data(level)? } else { prediction.noise(level)? };
        let corrected = match i.checked_sub(1) {
            Some(before) if !self.config.disable_corrector.contains(&before) => self.corrected(i),
            _ => Sum::X,
        };
        let next = self.predicted(i, corrected);
        let times = (self.grid.timesteps[i] as f64, self.grid.next_timestep(i) as f64);
        let mut step = Step::new(times, m0, next, 0.0).push(Sum::M0, self.config.order);
        step.keep[LAST] = Some(corrected);
        Ok(step)
    }

    /// diffusers' order of step `i`: few predictions at the start, and lower orders at the end.
    fn order(&self, i: usize) -> usize {
        let left = if self.config.lower_order_final { self.grid.timesteps.len() - i } else { usize::MAX };
        self.config.order.min(left).min(i + 1)
    }

    /// The state that step `i` goes on from: its predecessor's result with this step's prediction. The predictions before are kept at places 0, 1, ...
    fn corrected(&self, i: usize) -> Sum {
        let order = self.order(i - 1);
        let h = Length::new(self, i - 1);
        let newest = Sum::kept(0);
        let mut rks = [0.0; HIGHEST];
        for (j, rk) in rks.iter_mut().enumerate().take(order - 1) {
            *rk = h.ratio(self, i - 2 - j);
        }
        rks[order - 1] = 1.0;
        let rhos = if order == 1 { [0.5, 0.0, 0.0] } else { h.weights(&rks[..order], order) };
        let mut differences = Sum::M0.plus(newest.times(-1.0)).times(rhos[order - 1]);
        for j in 0..order - 1 {
            differences = differences.plus(Sum::kept(j + 1).plus(newest.times(-1.0)).times(rhos[j] / rks[j]));
        }
        h.result(Sum::kept(LAST), newest, differences)
    }

    /// The result of step `i` from a state at its timestep.
    fn predicted(&self, i: usize, state: Sum) -> Sum {
        let order = self.order(i);
        let h = Length::new(self, i);
        let mut rks = [0.0; HIGHEST];
        for (j, rk) in rks.iter_mut().enumerate().take(order - 1) {
            *rk = h.ratio(self, i - 1 - j);
        }
        // A step of length zero (to a last sigma that is the one before) has no differences.
        let rhos = match order {
            1 => [0.0; HIGHEST],
            _ if h.hh == 0.0 => [0.0; HIGHEST],
            2 => [0.5, 0.0, 0.0],
            _ => h.weights(&rks[..order - 1], order - 1),
        };
        let mut differences = Sum::default();
        for j in (0..order - 1).filter(|j| rhos[*j] != 0.0) {
            differences = differences.plus(Sum::kept(j).plus(Sum::M0.times(-1.0)).times(rhos[j] / rks[j]));
        }
        h.result(state, Sum::M0, differences)
    }

    fn level(&self, i: usize) -> Level {
        let (sigma, r) = (self.grid.sigmas[i], |v: f64| self.p.round(v));
        let alpha = r(1.0 / r(r(r(sigma * sigma) + 1.0).sqrt()));
        Level { alpha, sigma: r(sigma * alpha) }
    }

    fn lambda(&self, i: usize) -> f64 {
        let (level, r) = (self.level(i), |v: f64| self.p.round(v));
        let finite = r(r(level.alpha.ln()) - r(nonzero(level.sigma).ln()));
        if level.sigma == 0.0 { f64::INFINITY } else { finite }
    }
}

/// The step from sigma `i` to the next, as its formulas read it.
struct Length {
    /// Factor of the state.
    state: f64,
    /// Factor of minus everything else: a', or s' for noise.
    scale: f64,
    /// Lambda at the start.
    start: f64,
    /// The step in lambda, and what goes into the exponentials.
    h: f64,
    hh: f64,
    /// e^hh - 1.
    growth: f64,
    /// B(h).
    b: f64,
    p: Precision,
}

impl Length {
    fn new(run: &Run, i: usize) -> Self {
        let (from, to, p) = (run.level(i), run.level(i + 1), run.p);
        let h = if to.sigma == 0.0 { f64::INFINITY } else { p.round(run.lambda(i + 1) - run.lambda(i)) };
        let hh = if run.config.predict_x0 { -h } else { h };
        let growth = p.round(hh.exp_m1());
        let (state, scale) = if run.config.predict_x0 { (to.sigma / from.sigma, to.alpha) } else { (to.alpha / from.alpha, to.sigma) };
        Self { state, scale, start: run.lambda(i), h, hh, growth, b: if run.config.bh1 { hh } else { growth }, p }
    }

    /// How far sigma `i` lies from the start, in steps.
    fn ratio(&self, run: &Run, i: usize) -> f64 {
        self.p.round(self.p.round(run.lambda(i) - self.start) / if self.h == 0.0 { 1.0 } else { self.h })
    }

    fn result(&self, state: Sum, prediction: Sum, differences: Sum) -> Sum {
        let sum = state.times(self.state).plus(prediction.times(-self.scale * self.growth));
        // B is infinite where bh1 reaches clean data, which has no differences.
        if differences == Sum::default() { sum } else { sum.plus(differences.times(-self.scale * self.b)) }
    }

    /// rho with `sum_j rho_j rk_j^(i-1) = b_i`, i = 1 ..= n, where `b_i = i! phi_{i+1}(hh) hh / B`, rounded as diffusers rounds it: the recursion of phi cancels.
    fn weights(&self, rks: &[f64], n: usize) -> [f64; HIGHEST] {
        let r = |v: f64| self.p.round(v);
        let mut phi = r(r(self.growth / self.hh) - 1.0);
        let (mut rows, mut factorial) = ([[0.0; HIGHEST + 1]; HIGHEST], 1.0);
        for (i, row) in rows.iter_mut().enumerate().take(n) {
            for (v, rk) in row.iter_mut().zip(rks) {
                *v = r(rk.powi(i as i32));
            }
            row[HIGHEST] = r(r(phi * factorial) / self.b);
            factorial *= (i + 2) as f64;
            phi = r(r(phi / self.hh) - r(1.0 / factorial));
        }
        solve(rows, n)
    }
}

/// Gauss' elimination with row pivots; the last column is the right side. The rks differ, so the matrix is regular.
fn solve(mut rows: [[f64; HIGHEST + 1]; HIGHEST], n: usize) -> [f64; HIGHEST] {
    for k in 0..n {
        let pivot = (k..n).max_by(|a, b| rows[*a][k].abs().total_cmp(&rows[*b][k].abs())).unwrap_or(k);
        rows.swap(k, pivot);
        for i in k + 1..n {
            let factor = rows[i][k] / rows[k][k];
            let above = rows[k];
            rows[i].iter_mut().zip(above).for_each(|(v, a)| *v -= factor * a);
        }
    }
    let mut x = [0.0; HIGHEST];
    for k in (0..n).rev() {
        let rest: f64 = (k + 1..n).map(|j| rows[k][j] * x[j]).sum();
        x[k] = (rows[k][HIGHEST] - rest) / rows[k][k];
    }
    x
}

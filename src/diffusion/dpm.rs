//! DPM-Solver++ (arXiv 2211.01095) and its relatives as tables of constants, with diffusers' rules for the order of each step.
//!
//! With lambda = ln(a/s), h = lambda_next - lambda and E(y) = e^y - 1, a step is `x' = cx x + c0 D0 + c1 D1 + c2 D2 + noise z`, where D0 is the newest
//! prediction m0 and D1, D2 are divided differences of the newest ones. The four algorithms differ in what m is and in the c's (function `terms`).

use super::grid::Spacing;
use super::parametrisation::Prediction;
use super::schedule::{Level, NoiseSchedule, nonzero};
use super::sigmas::{FinalSigma, Rules, SigmaGrid, SigmaOptions, SigmaSpread};
use super::table::{Clip, Step, Sum, Table};
use crate::error::{Error, Result};
use crate::names::Named;

pub use crate::names::{Algorithm, SolverType};

/// Options of a DPM-Solver++ run. The defaults are diffusers'.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DpmConfig {
    /// Spread of the timesteps.
    pub spacing: Spacing,
    /// Added to each timestep for [`Spacing::Leading`].
    pub steps_offset: i64,
    /// Order of the multistep method, 1 ..= 3; order 1 is DDIM.
    pub order: usize,
    /// Form of second-order steps.
    pub solver_type: SolverType,
    /// Which equation is solved.
    pub algorithm: Algorithm,
    /// Spread of the noise levels.
    pub sigmas: SigmaSpread,
    /// With fewer than 15 steps, lower the order of the last two.
    pub lower_order_final: bool,
    /// Take the last step at order 1, whatever the number of steps.
    pub euler_at_final: bool,
    /// Where the run ends.
    pub final_sigmas: FinalSigma,
    /// Timesteps with ln(a/s) below this are not visited; -inf visits all.
    pub lambda_min_clipped: f64,
    /// Clipping of predicted data; diffusers knows only [`Clip::None`] and [`Clip::Dynamic`] here.
    pub clip: Clip,
}

impl Default for DpmConfig {
    fn default() -> Self {
        Self {
            spacing: Spacing::Linspace,
            steps_offset: 0,
            order: 2,
            solver_type: SolverType::Midpoint,
            algorithm: Algorithm::DpmSolverPp,
            sigmas: SigmaSpread::Schedule,
            lower_order_final: true,
            euler_at_final: false,
            final_sigmas: FinalSigma::Zero,
            lambda_min_clipped: f64::NEG_INFINITY,
            clip: Clip::None,
        }
    }
}

impl Algorithm {
    /// Whether m0 is predicted noise, and not data.
    fn predicts_noise(self) -> bool {
        matches!(self, Algorithm::DpmSolver | Algorithm::SdeDpmSolver)
    }
}

impl Table {
    /// Multistep DPM-Solver++ of order 2 or 3 (arXiv 2211.01095, algorithm 2, and its third-order form; order 1 is DDIM) over an explicit list of pairs, each of
    /// which begins where the one before ends. Only a last step to clean data is taken at order 1, as it must be: its lambda is infinite.
    pub fn multistep(schedule: &NoiseSchedule, prediction: Prediction, pairs: &[(i64, i64)], order: usize, clip: Clip) -> Result<Self> {
        let grid = SigmaGrid::over(schedule, pairs)?;
        let final_sigmas = if grid.sigmas.last() == Some(&0.0) { FinalSigma::Zero } else { FinalSigma::SigmaMin };
        let config = DpmConfig { order, clip, final_sigmas, lower_order_final: false, ..DpmConfig::default() };
        check(&config)?;
        over(&grid, prediction, &config)
    }
}

/// The table of a run of `steps` steps.
pub(super) fn table(schedule: &NoiseSchedule, prediction: Prediction, config: &DpmConfig, steps: usize) -> Result<Table> {
    check(config)?;
    let options = SigmaOptions {
        spacing: config.spacing,
        steps_offset: config.steps_offset,
        spread: config.sigmas,
        end: config.final_sigmas,
        lambda_min_clipped: config.lambda_min_clipped,
        rules: Rules::Dpm,
        range: [None; 2],
    };
    over(&SigmaGrid::new(schedule, &options, steps)?, prediction, config)
}

/// The steps of a grid.
fn over(grid: &SigmaGrid, prediction: Prediction, config: &DpmConfig) -> Result<Table> {
    let count = grid.timesteps.len();
    let highest = (0..count).map(|i| order_of(i, count, config)).max().unwrap_or(1);
    if config.algorithm == Algorithm::SdeDpmSolver && highest == 3 {
        // Short runs never get to order 3, and diffusers accepts those.
        return Err(Error::unsupported("solver_order is 3, which the algorithm sde-dpmsolver does not have; use 1 or 2"));
    }
    Table::new(count, |i| step(grid, i, prediction, config, highest), config.clip)
}

fn check(config: &DpmConfig) -> Result<()> {
    config.clip.check()?;
    if !(1..=3).contains(&config.order) {
        return Err(Error::invalid(format!("solver_order is {}; it must be 1, 2 or 3", config.order)));
    }
    let name = config.algorithm.name();
    if config.algorithm.predicts_noise() {
        if config.final_sigmas == FinalSigma::Zero {
            return Err(Error::invalid(format!(
                "the final sigma (diffusers: final_sigmas_type) is zero, which the algorithm {name} cannot reach; use the smallest of the schedule (sigma_min)"
            )));
        }
        if config.clip != Clip::None {
            return Err(Error::unsupported(format!(
                "clipping (diffusers: thresholding) is asked for, which the algorithm {name} does not support; use {name}++"
            )));
        }
    }
    Ok(())
}

/// diffusers' order of step `i` of `count`: a multistep method needs older predictions to start, and few or noiseless last steps are taken at a lower order.
fn order_of(i: usize, count: usize, config: &DpmConfig) -> usize {
    let few = config.lower_order_final && count < 15;
    let last = i + 1 == count && (config.euler_at_final || few || config.final_sigmas == FinalSigma::Zero);
    let second_last = i + 2 == count && few;
    match config.order.min(i + 1) {
        1 => 1,
        _ if last => 1,
        3 if second_last => 2,
        order => order,
    }
}

fn step(grid: &SigmaGrid, i: usize, prediction: Prediction, config: &DpmConfig, highest: usize) -> Result<Step> {
    let (from, to) = (grid.sigmas[i], grid.sigmas[i + 1]);
    let level = Level::from_ratio(from);
    let m0 = if config.algorithm.predicts_noise() { prediction.noise(level)? } else { prediction.data(level)? };
    let order = order_of(i, grid.timesteps.len(), config);
    // lambda = -ln sigma, so a difference of lambdas is the log of a ratio of sigmas; to sigma 0 it is +inf, which the first-order terms stand.
    let h = if to == 0.0 { f64::INFINITY } else { (from / nonzero(to)).ln() };
    let back = |n: usize| if order > n { (grid.sigmas[i - n] / grid.sigmas[i + 1 - n]).ln() } else { f64::INFINITY };
    let terms = terms(config, order, h, level, Level::from_ratio(to));
    let m = terms.history_coefficients(order, h, back(1), back(2));
    let next = Sum { x: terms.x, m0: m[0], kept: [m[1], m[2], 0.0, 0.0, 0.0], ..Sum::default() };
    let times = (grid.timesteps[i] as f64, grid.next_timestep(i) as f64);
    Ok(Step::new(times, m0, next, terms.noise).push(Sum::M0, highest - 1))
}

/// Factors of x, of the divided differences D0, D1, D2, and of the noise.
struct Terms {
    x: f64,
    d: [f64; 3],
    noise: f64,
}

impl Terms {
    /// From factors of divided differences to factors of m0, m1, m2. `h0` and `h1` are the lengths in lambda of the two steps before.
    /// r0 = h0/h, r1 = h1/h; D1_0 = (m0 - m1)/r0, D1_1 = (m1 - m2)/r1; at order 2 D1 = D1_0, at order 3 D1 = D1_0 + r0/(r0+r1) (D1_0 - D1_1) and
    /// D2 = (D1_0 - D1_1)/(r0+r1).
    fn history_coefficients(&self, order: usize, h: f64, h0: f64, h1: f64) -> [f64; 3] {
        let [c0, c1, c2] = self.d;
        let both = h0 + h1;
        let (d10, d11) = match order {
            1 => return [c0, 0.0, 0.0],
            2 => (c1, 0.0),
            _ => (c1 * (1.0 + h0 / both) + c2 * h / both, -(c1 * h0 / both) - c2 * h / both),
        };
        let (a, b) = (d10 * h / h0, if order == 2 { 0.0 } else { d11 * h / h1 });
        [c0 + a, b - a, -b]
    }
}

/// The four families, orders 1 to 3, as diffusers writes them.
fn terms(config: &DpmConfig, order: usize, h: f64, from: Level, to: Level) -> Terms {
    let second = order == 2 && config.solver_type == SolverType::Midpoint;
    // Multiplying an infinite exponential by zero would be NaN: the terms of higher order are left out at order 1.
    let (first, third) = (order == 1, order == 3);
    let (a, s) = (to.alpha, to.sigma);
    let choose = |midpoint: f64, exact: &dyn Fn() -> f64| match (first, second) {
        (true, _) => 0.0,
        (_, true) => midpoint,
        _ => exact(),
    };
    let third = |c: &dyn Fn() -> f64| if third { c() } else { 0.0 };
    match config.algorithm {
        Algorithm::DpmSolverPp => {
            let e = (-h).exp_m1();
            let d = [-a * e, choose(-0.5 * a * e, &|| -a * phi1(-h)), third(&|| -a * phi2(-h))];
            Terms { x: s / from.sigma, d, noise: 0.0 }
        }
        Algorithm::SdeDpmSolverPp => {
            let g = -(-2.0 * h).exp_m1();
            // The last term does not vanish with h: a sign in diffusers' formula, kept since agreement is what is asked for.
            let d = [a * g, choose(0.5 * a * g, &|| -a * phi1(-2.0 * h)), third(&|| -a * (phi2(-2.0 * h) + 1.0))];
            Terms { x: s / from.sigma * (-h).exp(), d, noise: s * g.max(0.0).sqrt() }
        }
        Algorithm::DpmSolver => {
            let f = h.exp_m1();
            let d = [-s * f, choose(-0.5 * s * f, &|| -s * phi1(h)), third(&|| -s * phi2(h))];
            Terms { x: a / from.alpha, d, noise: 0.0 }
        }
        Algorithm::SdeDpmSolver => {
            let f = h.exp_m1();
            let d = [-2.0 * s * f, choose(-s * f, &|| -2.0 * s * phi1(h)), 0.0];
            Terms { x: a / from.alpha, d, noise: s * (2.0 * h).exp_m1().max(0.0).sqrt() }
        }
    }
}

/// (e^y - 1)/y - 1, by series where the difference would cancel.
fn phi1(y: f64) -> f64 {
    if y.abs() < 0.02 { y * (0.5 + y * (1.0 / 6.0 + y * (1.0 / 24.0 + y * (1.0 / 120.0 + y / 720.0)))) } else { y.exp_m1() / y - 1.0 }
}

/// (e^y - 1 - y)/y² - 1/2, by series where the difference would cancel.
fn phi2(y: f64) -> f64 {
    if y.abs() < 0.02 { y * (1.0 / 6.0 + y * (1.0 / 24.0 + y * (1.0 / 120.0 + y * (1.0 / 720.0 + y / 5040.0)))) } else { (y.exp_m1() - y) / (y * y) - 0.5 }
}

#[cfg(test)]
mod tests {
    use super::super::sampler::SamplerConfig;
    use super::super::schedule::ScheduleConfig;
    use super::*;

    fn build(change: impl FnOnce(&mut DpmConfig), steps: usize) -> Result<Table> {
        let mut config = DpmConfig::default();
        change(&mut config);
        SamplerConfig::DpmSolverPp(config).table(&NoiseSchedule::new(ScheduleConfig::default())?, Prediction::Epsilon, steps)
    }

    #[test]
    fn series_meet_their_closed_forms() {
        for y in [0.0199, -0.0199] {
            assert!((phi1(y) - (f64::exp_m1(y) / y - 1.0)).abs() < 1e-13);
            assert!((phi2(y) - ((f64::exp_m1(y) - y) / (y * y) - 0.5)).abs() < 1e-12);
        }
        assert_eq!((phi1(0.0), phi2(0.0)), (0.0, 0.0));
    }

    /// Predictions that do not change make a step of any order and type the same first-order step.
    #[test]
    fn constant_predictions_reduce_to_order_one() {
        let one = build(|c| c.order = 1, 10).unwrap();
        for order in [2, 3] {
            for solver_type in [SolverType::Midpoint, SolverType::Heun] {
                let table = build(|c| (c.order, c.solver_type) = (order, solver_type), 10).unwrap();
                assert_eq!(table.memory, order - 1);
                for (a, b) in table.steps.iter().zip(&one.steps) {
                    let sum = a.next.m0 + a.next.kept.iter().sum::<f64>();
                    assert!((sum - b.next.m0).abs() < 1e-12 && (a.next.x - b.next.x).abs() < 1e-15);
                }
            }
        }
    }

    /// Order 1 is DDIM: x' = s_n/s_t x + (a_n - s_n a_t/s_t) x0.
    #[test]
    fn order_one_is_ddim() {
        let schedule = NoiseSchedule::new(ScheduleConfig::default()).unwrap();
        for s in &build(|c| c.order = 1, 7).unwrap().steps {
            let (from, to) = (schedule.level(s.t as i64).unwrap(), schedule.level(s.t_next as i64).unwrap());
            assert!((s.next.x - to.sigma / from.sigma).abs() < 1e-6);
            assert!((s.next.m0 - (to.alpha - to.sigma * from.alpha / from.sigma)).abs() < 1e-6);
        }
    }

    /// The exact solution is linear in a prediction that is linear in lambda-exponential weight; a prediction equal to lambda is integrated exactly by Heun and order 3.
    #[test]
    fn linear_predictions_are_integrated_exactly() {
        let config = |c: &mut DpmConfig| (c.order, c.solver_type, c.final_sigmas) = (3, SolverType::Heun, FinalSigma::SigmaMin);
        let table = build(config, 20).unwrap();
        let schedule = NoiseSchedule::new(ScheduleConfig::default()).unwrap();
        let lambda = |t: f64| schedule.lambda(t as i64);
        for w in table.steps.windows(3) {
            let (l2, l1, l0, l) = (lambda(w[0].t), lambda(w[1].t), lambda(w[2].t), lambda(w[2].t_next));
            let a = schedule.alpha(w[2].t_next as i64);
            // a · integral of e^{u - l} u du over (l0, l), the exact contribution of m(u) = u.
            let exact = a * ((l - 1.0) - (l0 - l).exp() * (l0 - 1.0));
            let got = w[2].next.m0 * l0 + w[2].next.kept[0] * l1 + w[2].next.kept[1] * l2;
            assert!((got - exact).abs() < 1e-6, "{got} against {exact}");
        }
    }

    /// Over the timesteps of a spread, an explicit list of pairs gives the same steps; cut short it ends where it says.
    #[test]
    fn pairs_are_a_grid_like_any_other() {
        let schedule = NoiseSchedule::new(ScheduleConfig::default()).unwrap();
        for order in 1..=3 {
            let spread = build(|c| (c.order, c.lower_order_final) = (order, false), 12).unwrap();
            let pairs: Vec<_> = spread.steps.iter().map(|s| (s.t as i64, s.t_next as i64)).collect();
            let over = |pairs: &[(i64, i64)]| Table::multistep(&schedule, Prediction::Epsilon, pairs, order, Clip::None).unwrap();
            assert_eq!(over(&pairs), spread, "order {order}");
            assert_eq!(over(&pairs[..5]).steps[..], spread.steps[..5], "order {order}");
        }
        assert!(Table::multistep(&schedule, Prediction::Epsilon, &[(999, 499), (498, -1)], 2, Clip::None).is_err());
        assert!(Table::multistep(&schedule, Prediction::Epsilon, &[(999, -1)], 4, Clip::None).is_err());
    }

    #[test]
    fn orders_at_both_ends() {
        let orders = |c: &DpmConfig, n| (0..n).map(|i| order_of(i, n, c)).collect::<Vec<_>>();
        let third = DpmConfig { order: 3, ..DpmConfig::default() };
        assert_eq!(orders(&third, 6), [1, 2, 3, 3, 2, 1]);
        assert_eq!(orders(&third, 15)[12..], [3, 3, 1]);
        assert_eq!(orders(&DpmConfig { final_sigmas: FinalSigma::SigmaMin, ..third }, 15)[12..], [3, 3, 3]);
        assert_eq!(orders(&DpmConfig { lower_order_final: false, ..third }, 3), [1, 2, 1]);
        assert_eq!(orders(&third, 1), [1]);
    }

    #[test]
    fn impossible_options_are_named() {
        assert!(build(|c| c.order = 4, 5).unwrap_err().message.contains("solver_order is 4"));
        assert!(build(|c| c.algorithm = Algorithm::DpmSolver, 5).unwrap_err().message.contains("sigma_min"));
        let sde = |c: &mut DpmConfig| (c.algorithm, c.final_sigmas, c.order) = (Algorithm::SdeDpmSolver, FinalSigma::SigmaMin, 3);
        assert!(build(sde, 5).unwrap_err().message.contains("solver_order is 3"));
        assert!(build(|c| c.lambda_min_clipped = f64::NAN, 5).is_err());
    }
}

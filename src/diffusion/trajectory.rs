//! The algebra of distillation: teacher sub-steps between a student's timesteps, and every loss as one linear combination.
//!
//! Errors of states, noise, data and velocity differ only by a weight a step, so there is one loss: the mean over elements of
//! `norm( sqrt(w) (x0_student - x0_target) )`. Its argument is linear in what a training step has at hand, and the functions here give the three factors.
//! Sources: progressive distillation (arXiv 2202.00512, appendices D and G), and research/distillation.md section 0.

use super::grid::check_pairs;
use super::parametrisation::Prediction;
use super::schedule::{Level, NoiseSchedule, nonzero};
use crate::error::{Error, Result};
use crate::memory;

/// Weight w of the squared error of predicted data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// 1: the error of the data itself.
    Const,
    /// a²/s²: the error of predicted noise.
    Snr,
    /// max(a²/s², 1).
    TruncSnr,
    /// a²/s² + 1: the error of predicted velocity.
    V,
    /// C², C = a_n - s_n a_t/s_t: the error of the state that the step lands on.
    State,
}

impl Weight {
    /// Name in configurations and metadata.
    pub fn name(self) -> &'static str {
        match self {
            Weight::Const => "const",
            Weight::Snr => "snr",
            Weight::TruncSnr => "trunc_snr",
            Weight::V => "v",
            Weight::State => "state",
        }
    }

    /// From its name.
    pub fn from_name(name: &str) -> Result<Self> {
        let all = [Weight::Const, Weight::Snr, Weight::TruncSnr, Weight::V, Weight::State];
        let found = all.into_iter().find(|w| w.name() == name);
        found.ok_or_else(|| Error::invalid(format!("weight is \"{name}\"; it must be const, snr, trunc_snr, v or state")))
    }

    /// The square root of w at level `from`, for a step that lands on `to`; an error for [`Weight::State`] without `to`, and where there is no noise.
    fn root(self, from: Level, to: Option<Level>) -> Result<f64> {
        if self != Weight::Const && from.sigma == 0.0 {
            return Err(Error::numeric(format!("weight {} is infinite where there is no noise (sigma is 0); use const, or larger betas", self.name())));
        }
        Ok(match self {
            Weight::Const => 1.0,
            Weight::Snr => from.alpha / from.sigma,
            Weight::TruncSnr => (from.alpha / from.sigma).max(1.0),
            Weight::V => 1.0 / from.sigma,
            Weight::State => match to {
                Some(to) => Ddim::new(from, to).data,
                None => return Err(Error::invalid("weight is state, which needs the pair of timesteps of a step; use const, snr, trunc_snr or v here")),
            },
        })
    }

    /// w at timestep `t`, for a step to `next` (only [`Weight::State`] reads it).
    pub fn value(self, schedule: &NoiseSchedule, t: i64, next: Option<i64>) -> Result<f64> {
        Ok(self.root(noisy(schedule, t)?, landing(schedule, t, next)?)?.powi(2))
    }
}

/// A deterministic DDIM step in its data and velocity forms: `x_n = state x_t + data x_0 = cos x_t - sin v`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ddim {
    /// A' = s_n/s_t; 0 when the step lands on clean data.
    pub state: f64,
    /// C = a_n - s_n a_t/s_t, above 0 and at most 1.
    pub data: f64,
    /// cos D = a_n a_t + s_n s_t, where D is the angle between the two levels.
    pub cos: f64,
    /// sin D = a_n s_t - s_n a_t, above 0.
    pub sin: f64,
}

impl Ddim {
    /// From one level to a less noisy one.
    pub fn new(from: Level, to: Level) -> Self {
        let sin = to.alpha * from.sigma - to.sigma * from.alpha;
        Self { state: to.sigma / from.sigma, data: sin / from.sigma, cos: to.alpha * from.alpha + to.sigma * from.sigma, sin }
    }

    /// Factors of (x_t, output) in the result, for any kind of output. An error for epsilon at zero SNR. All terms are positive: nothing cancels.
    pub fn coefficients(&self, from: Level, prediction: Prediction) -> Result<[f64; 2]> {
        let data = prediction.data(from)?;
        Ok([self.state + self.data * data.x, self.data * data.out])
    }
}

/// Trajectory matching: c with `sqrt(w) (x0_student - x0_target) = c[0] x_t + c[1] student_output + c[2] target_state`, where x0_target is the data for which one
/// DDIM step over `pair` = (t, n) lands on the target state (the teacher's, after any number of its own steps).
pub fn loss_coefficients(schedule: &NoiseSchedule, pair: (i64, i64), prediction: Prediction, weight: Weight) -> Result<[f64; 3]> {
    let from = noisy(schedule, pair.0)?;
    let to = landing(schedule, pair.0, Some(pair.1))?;
    if from.sigma == 0.0 {
        return Err(Error::numeric(format!("timestep {} has no noise (sigma is 0), so no step starts there; use larger betas, or other pairs", pair.0)));
    }
    let step = Ddim::new(from, to.unwrap_or(Level::CLEAN));
    let [x, out] = step.coefficients(from, prediction)?;
    // A state error is C times a data error, so the state form needs no division at all.
    let scale = if weight == Weight::State { 1.0 } else { weight.root(from, to)? / step.data };
    Ok([scale * x, scale * out, -scale])
}

/// Output matching: c with `sqrt(w) (x0_student - x0_teacher) = c[0] x_t + c[1] student_output + c[2] teacher_output`, both evaluated at (x_t, t). `next` is where
/// the step would land, and only [`Weight::State`] needs it.
pub fn output_loss_coefficients(
    schedule: &NoiseSchedule,
    t: i64,
    next: Option<i64>,
    student: Prediction,
    teacher: Prediction,
    weight: Weight,
) -> Result<[f64; 3]> {
    let from = noisy(schedule, t)?;
    let root = weight.root(from, landing(schedule, t, next)?)?;
    let (s, d) = (student.data(from)?, teacher.data(from)?);
    Ok([root * difference_at_x(from, student, teacher)?, root * s.out, -root * d.out])
}

/// Training from data: c with `sqrt(w) (x0_student - x0) = c[0] x_t + c[1] student_output + c[2] x0`, x0 the data that x_t was made of. `next` as in
/// [`output_loss_coefficients`].
pub fn denoise_loss_coefficients(schedule: &NoiseSchedule, t: i64, next: Option<i64>, prediction: Prediction, weight: Weight) -> Result<[f64; 3]> {
    let from = noisy(schedule, t)?;
    let root = weight.root(from, landing(schedule, t, next)?)?;
    let data = prediction.data(from)?;
    Ok([root * data.x, root * data.out, -root])
}

/// The timesteps of a teacher's `count` DDIM steps inside a student's step (t, n): `floor(t - j (t - n) / count)` for j = 0 ..= count, both ends included.
/// `count` is 1 ..= t - n.
pub fn substeps(pair: (i64, i64), count: usize) -> Result<Vec<i64>> {
    let (t, n) = pair;
    let length = t.checked_sub(n).filter(|l| *l > 0 && n >= -1);
    let length = length.ok_or_else(|| Error::invalid(format!("a step from timestep {t} to {n} does not go to a smaller one, -1 at the least")))?;
    let parts = i64::try_from(count).ok().filter(|c| (1..=length).contains(c));
    let parts = parts.ok_or_else(|| Error::invalid(format!("teacher sub-steps are {count}; a step from timestep {t} to {n} holds 1 to {length}")))?;
    // In i128, since only the schedule bounds t.
    let at = |j: i64| t - ((i128::from(j) * i128::from(length) + i128::from(parts) - 1) / i128::from(parts)) as i64;
    memory::collect((0..=parts).map(at), "teacher timesteps")
}

/// [`substeps`] of every pair of a student's grid over T = `train` timesteps.
pub fn teacher_grid(train: usize, pairs: &[(i64, i64)], count: usize) -> Result<Vec<Vec<i64>>> {
    check_pairs(train, pairs)?;
    memory::try_collect(pairs.iter().map(|p| substeps(*p, count)), "teacher timesteps")
}

/// The same grid as one list of (t, t_next) pairs, in order: what the teacher's sampler runs through.
pub fn teacher_pairs(train: usize, pairs: &[(i64, i64)], count: usize) -> Result<Vec<(i64, i64)>> {
    let grid = teacher_grid(train, pairs, count)?;
    memory::collect(grid.iter().flat_map(|g| g.windows(2).map(|w| (w[0], w[1]))), "teacher timesteps")
}

/// Difference of the two predictions' factors of x, in forms without cancellation: 1/a - a = s²/a.
fn difference_at_x(level: Level, student: Prediction, teacher: Prediction) -> Result<f64> {
    use Prediction::{Epsilon, VPrediction};
    // Read with epsilon only, which there is none of at zero SNR.
    let gap = level.sigma * level.sigma / nonzero(level.alpha);
    Ok(match (student, teacher) {
        (a, b) if a == b => 0.0,
        (Epsilon, VPrediction) => gap,
        (VPrediction, Epsilon) => -gap,
        _ => student.data(level)?.x - teacher.data(level)?.x,
    })
}

/// The level a step starts from; clean data is not one.
fn noisy(schedule: &NoiseSchedule, t: i64) -> Result<Level> {
    if t < 0 {
        return Err(Error::invalid(format!("timestep is {t}; a loss needs one between 0 and {}", schedule.len() - 1)));
    }
    schedule.level(t)
}

fn landing(schedule: &NoiseSchedule, t: i64, next: Option<i64>) -> Result<Option<Level>> {
    let Some(next) = next else { return Ok(None) };
    check_pairs(schedule.len(), &[(t, next)])?;
    schedule.level(next).map(Some)
}

#[cfg(test)]
mod tests {
    use super::super::grid::trailing_pairs;
    use super::super::schedule::ScheduleConfig;
    use super::*;

    const PREDICTIONS: [Prediction; 3] = [Prediction::Epsilon, Prediction::Sample, Prediction::VPrediction];
    const WEIGHTS: [Weight; 5] = [Weight::Const, Weight::Snr, Weight::TruncSnr, Weight::V, Weight::State];

    fn schedule() -> NoiseSchedule {
        NoiseSchedule::new(ScheduleConfig::default()).unwrap()
    }

    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() <= 1e-9 * (1.0 + expected.abs()), "{got} against {expected}");
    }

    /// A beta that float32 does not show leaves timestep 0 without noise. Only what divides by it is refused.
    #[test]
    fn a_timestep_without_noise_is_refused_where_a_loss_divides_by_it() {
        let s = NoiseSchedule::new(ScheduleConfig { beta_start: 1e-9, ..Default::default() }).unwrap();
        assert_eq!((s.sigma(0), s.snr(0)), (0.0, f64::INFINITY));
        for prediction in PREDICTIONS {
            for weight in WEIGHTS {
                let denoise = |t, next| denoise_loss_coefficients(&s, t, Some(next), prediction, weight);
                let output = |t, next| output_loss_coefficients(&s, t, Some(next), prediction, Prediction::Epsilon, weight);
                assert!(denoise(1, 0).unwrap().iter().chain(&output(1, 0).unwrap()).all(|c| c.is_finite()));
                for found in [denoise(0, -1), output(0, -1)] {
                    match found {
                        Ok(c) => assert!(weight == Weight::Const && c.iter().all(|c| c.is_finite()), "{weight:?} {c:?}"),
                        Err(e) => assert!(weight != Weight::Const && e.message.contains(weight.name()), "{e}"),
                    }
                }
                assert!(loss_coefficients(&s, (1, 0), prediction, weight).unwrap().iter().all(|c| c.is_finite()));
                assert!(loss_coefficients(&s, (0, -1), prediction, weight).unwrap_err().message.contains("timestep 0"));
            }
        }
    }

    #[test]
    fn substeps_of_the_golden_batch() {
        let grid = teacher_grid(1000, &trailing_pairs(1000, 4).unwrap(), 4).unwrap();
        assert_eq!(grid, [[999, 936, 874, 811, 749], [749, 686, 624, 561, 499], [499, 436, 374, 311, 249], [249, 186, 124, 61, -1]]);
        assert_eq!(teacher_pairs(1000, &[(999, 749)], 2).unwrap(), [(999, 874), (874, 749)]);
    }

    #[test]
    fn substeps_always_fall() {
        for (t, n) in [(3, -1), (10, 3), (999, -1), (1, 0)] {
            for count in 1..=(t - n) as usize {
                let list = substeps((t, n), count).unwrap();
                assert_eq!((list[0], list[count]), (t, n));
                assert!(list.windows(2).all(|w| w[1] < w[0]), "{list:?}");
            }
            assert!(substeps((t, n), (t - n) as usize + 1).is_err());
            assert!(substeps((t, n), 0).is_err());
        }
        assert!(substeps((5, 5), 1).is_err() && substeps((5, -2), 1).is_err() && substeps((i64::MIN, i64::MAX), 1).is_err());
        assert_eq!(substeps((i64::MAX, 0), 2).unwrap()[2], 0);
    }

    /// Each kind of loss against its definition with plain numbers.
    #[test]
    fn losses_equal_their_definitions() {
        let s = schedule();
        let (x, out, other) = (0.83, -0.41, 1.27);
        for (t, n) in [(999, 749), (999, -1), (499, 249), (249, -1), (1, 0), (0, -1)] {
            let (from, to) = (s.level(t).unwrap(), s.level(n).unwrap());
            let c = to.alpha - to.sigma * from.alpha / from.sigma;
            for p in PREDICTIONS {
                let student = p.data(from).unwrap().apply(x, out);
                for w in WEIGHTS {
                    let root = w.value(&s, t, Some(n)).unwrap().sqrt();
                    let sum = |c: [f64; 3]| c[0] * x + c[1] * out + c[2] * other;
                    let implied = (other - to.sigma / from.sigma * x) / c;
                    close(sum(loss_coefficients(&s, (t, n), p, w).unwrap()), root * (student - implied));
                    close(sum(denoise_loss_coefficients(&s, t, Some(n), p, w).unwrap()), root * (student - other));
                    for q in PREDICTIONS {
                        let teacher = q.data(from).unwrap().apply(x, other);
                        close(sum(output_loss_coefficients(&s, t, Some(n), p, q, w).unwrap()), root * (student - teacher));
                    }
                }
            }
        }
    }

    /// A student whose output is exact has no trajectory loss, and its step lands on the target.
    #[test]
    fn exact_students_have_no_loss() {
        let s = schedule();
        let (x0, e) = (0.6, -1.1);
        for pair in trailing_pairs(1000, 4).unwrap() {
            let (from, to) = (s.level(pair.0).unwrap(), s.level(pair.1).unwrap());
            let (x, y) = (from.alpha * x0 + from.sigma * e, to.alpha * x0 + to.sigma * e);
            for p in PREDICTIONS {
                let out = p.target(from).apply(x0, e);
                let [cx, co] = Ddim::new(from, to).coefficients(from, p).unwrap();
                close(cx * x + co * out, y);
                for w in WEIGHTS {
                    let c = loss_coefficients(&s, pair, p, w).unwrap();
                    close(c[0] * x + c[1] * out + c[2] * y, 0.0);
                }
            }
        }
    }

    /// Const, Snr and V weights are plain differences of data, noise and velocity.
    #[test]
    fn weights_are_errors_of_the_other_parametrisations() {
        let s = schedule();
        for t in [0, 300, 999] {
            for (p, w) in [(Prediction::Epsilon, Weight::Snr), (Prediction::Sample, Weight::Const), (Prediction::VPrediction, Weight::V)] {
                let c = output_loss_coefficients(&s, t, None, p, p, w).unwrap();
                close(c[0], 0.0);
                close(c[1].abs(), 1.0);
                close(c[2], -c[1]);
            }
        }
        close(Weight::TruncSnr.value(&s, 999, None).unwrap(), 1.0);
    }

    #[test]
    fn zero_snr_works_with_v_and_not_with_epsilon() {
        let s = NoiseSchedule::new(ScheduleConfig { rescale_betas_zero_snr: true, ..Default::default() }).unwrap();
        for w in WEIGHTS {
            let c = loss_coefficients(&s, (999, 499), Prediction::VPrediction, w).unwrap();
            assert!(c.iter().all(|c| c.is_finite()));
            assert!(loss_coefficients(&s, (999, 499), Prediction::Epsilon, w).is_err());
        }
    }

    #[test]
    fn bad_requests_are_named() {
        let s = schedule();
        assert!(denoise_loss_coefficients(&s, 10, None, Prediction::Sample, Weight::State).unwrap_err().message.contains("weight is state"));
        assert!(loss_coefficients(&s, (-1, -1), Prediction::Sample, Weight::V).is_err());
        assert!(loss_coefficients(&s, (5, 5), Prediction::Sample, Weight::V).is_err());
        assert!(loss_coefficients(&s, (1000, 5), Prediction::Sample, Weight::V).is_err());
        assert!(Weight::from_name("min_snr").unwrap_err().message.contains("min_snr"));
        for w in WEIGHTS {
            assert_eq!(Weight::from_name(w.name()).unwrap(), w);
        }
    }
}

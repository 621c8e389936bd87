//! Which timesteps a sampler visits: diffusers' three spacings, and explicit lists of pairs (t, t_next).
//!
//! A pair list is what fewstep saves with a student; spacings only make one. The spacings are table 2 of arXiv 2305.08891, with diffusers' rounding.

use super::schedule::CLEAN;
use crate::error::{Error, Result};
use crate::memory::{collect, try_vec};

pub use crate::names::Spacing;

/// Where a DDIM step from t lands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PrevRule {
    /// On the next timestep of the list, and on clean data after the last.
    #[default]
    Schedule,
    /// On `t - T/N` (integer division), as diffusers' `DDIMScheduler` does whatever the list says: wrong for linspace, and for trailing when N does not divide T
    /// (huggingface/diffusers issues 9261, 12633). For agreement with diffusers, not for quality.
    Diffusers,
}

/// The N timesteps of a DDIM run, first to last (`DDIMScheduler.set_timesteps`). T is `train`, N is `steps`, 1 ..= T; `offset` is added for [`Spacing::Leading`] only.
pub fn ddim_timesteps(train: usize, spacing: Spacing, offset: i64, steps: usize) -> Result<Vec<i64>> {
    check_steps(train, steps)?;
    let list = match spacing {
        Spacing::Linspace => collect(rising_linspace(train as f64 - 1.0, steps)?.into_iter().rev(), "timesteps")?,
        Spacing::Leading => collect((0..steps).rev().map(|i| ((i * (train / steps)) as i64).saturating_add(offset)), "timesteps")?,
        Spacing::Trailing => {
            let mut list = trailing_timesteps(train, train, steps)?;
            // Here it would have the noise level of T-1, Python's element -1, which nobody means.
            list.retain(|t| *t >= 0);
            list
        }
    };
    check_range(train, &list)?;
    Ok(list)
}

/// The timesteps of a DPM-Solver++ run (`DPMSolverMultistepScheduler.set_timesteps`), which spreads N+1 points and drops the last. `last` (1 ..= T) is T less the
/// timesteps whose lambda is below `lambda_min_clipped`; with it below T the trailing list is shorter than N. See `trailing_timesteps` for when it is longer.
pub fn dpm_timesteps(train: usize, last: usize, spacing: Spacing, offset: i64, steps: usize) -> Result<Vec<i64>> {
    check_steps(train, steps)?;
    if last == 0 || last > train {
        return Err(Error::invalid(format!("lambda_min_clipped leaves {last} of {train} timesteps; at least one is needed")));
    }
    let list = match spacing {
        Spacing::Linspace => collect(rising_linspace(last as f64 - 1.0, steps + 1)?.into_iter().skip(1).rev(), "timesteps")?,
        Spacing::Leading => collect((1..=steps).rev().map(|i| ((i * (last / (steps + 1))) as i64).saturating_add(offset)), "timesteps")?,
        Spacing::Trailing => return trailing_timesteps(train, last, steps),
    };
    check_range(train, &list)?;
    Ok(list)
}

/// Pairs (t, t_next) of a list of timesteps; any t_next below 0 is [`CLEAN`].
pub fn pairs(timesteps: &[i64], train: usize, steps: usize, rule: PrevRule) -> Result<Vec<(i64, i64)>> {
    check_steps(train, steps)?;
    let stride = (train / steps) as i64;
    let next = |i: usize, t: i64| match rule {
        PrevRule::Schedule => timesteps.get(i + 1).copied().unwrap_or(CLEAN),
        PrevRule::Diffusers => (t - stride).max(CLEAN),
    };
    let list = collect(timesteps.iter().enumerate().map(|(i, &t)| (t, next(i, t))), "timestep pairs")?;
    check_pairs(train, &list)?;
    Ok(list)
}

/// The student's usual grid: N trailing steps from T-1 to clean data.
pub fn trailing_pairs(train: usize, steps: usize) -> Result<Vec<(i64, i64)>> {
    pairs(&ddim_timesteps(train, Spacing::Trailing, 0, steps)?, train, steps, PrevRule::Schedule)
}

/// An error unless every pair goes from a timestep in 0 .. T to a smaller one, at least -1, and there is a pair at all. Pairs need not join: each stands for itself.
pub fn check_pairs(train: usize, pairs: &[(i64, i64)]) -> Result<()> {
    if pairs.is_empty() {
        return Err(Error::invalid("the list of timestep pairs is empty"));
    }
    for (i, &(t, next)) in pairs.iter().enumerate() {
        if t < 0 || t >= train as i64 {
            return Err(Error::invalid(format!("pair {i} starts at timestep {t}; it must be between 0 and {}", train - 1)));
        }
        if next < CLEAN || next >= t {
            return Err(Error::invalid(format!("pair {i} goes from timestep {t} to {next}; it must go to a smaller one, -1 (clean) at the least")));
        }
    }
    Ok(())
}

/// An error unless each pair starts where the one before ended, so that the list is one sampling run.
pub fn check_chain(pairs: &[(i64, i64)]) -> Result<()> {
    for (i, w) in pairs.windows(2).enumerate() {
        if w[0].1 != w[1].0 {
            return Err(Error::invalid(format!("pair {i} ends at timestep {} but pair {} starts at {}", w[0].1, i + 1, w[1].0)));
        }
    }
    Ok(())
}

/// The longest grid: more steps than that nobody takes, and each is part of the plan.
pub const MAX_PAIRS: usize = 1000;

/// An error unless the list is one sampling run of at most [`MAX_PAIRS`] steps.
pub fn check(train: usize, pairs: &[(i64, i64)]) -> Result<()> {
    if pairs.len() > MAX_PAIRS {
        return Err(Error::invalid(format!("the list has {} timestep pairs; at most {MAX_PAIRS}", pairs.len())));
    }
    check_pairs(train, pairs)?;
    check_chain(pairs)
}

pub(super) fn check_steps(train: usize, steps: usize) -> Result<()> {
    if train == 0 || steps == 0 || steps > train {
        return Err(Error::invalid(format!("the number of sampler steps is {steps}; it must be between 1 and num_train_timesteps, {train}")));
    }
    Ok(())
}

fn check_range(train: usize, list: &[i64]) -> Result<()> {
    match list.iter().find(|t| **t < 0 || **t >= train as i64) {
        Some(t) => Err(Error::invalid(format!("steps_offset moves a timestep to {t}; it must stay between 0 and {}", train - 1))),
        None => Ok(()),
    }
}

/// `numpy.linspace(0, stop, n).round()`.
fn rising_linspace(stop: f64, n: usize) -> Result<Vec<i64>> {
    let mut v = try_vec::<i64>(n, "timesteps")?;
    let step = stop / (n.max(2) - 1) as f64;
    for (i, t) in v.iter_mut().enumerate() {
        let exact = if i > 0 && i + 1 == n { stop } else { i as f64 * step };
        *t = exact.round_ties_even() as i64;
    }
    Ok(v)
}

/// `numpy.round(numpy.arange(last, 0, -train / steps)) - 1`. For some N (61 and 122 at T = 1000) rounding makes numpy's list one longer, with a last timestep
/// of -1. The samplers that look sigmas up by timestep take the step, from the sigma of timestep 0.
pub(super) fn trailing_timesteps(train: usize, last: usize, steps: usize) -> Result<Vec<i64>> {
    let (start, step) = (last as f64, train as f64 / steps as f64);
    let delta = (start - step) - start;
    let count = (start / step).ceil() as usize;
    collect((0..count).map(|i| (start + i as f64 * delta).round_ties_even() as i64 - 1), "timesteps")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_recorded_with_diffusers() {
        let ddim = |s, n| ddim_timesteps(1000, s, 0, n).unwrap();
        assert_eq!(ddim(Spacing::Leading, 4), [750, 500, 250, 0]);
        assert_eq!(ddim(Spacing::Trailing, 4), [999, 749, 499, 249]);
        assert_eq!(ddim(Spacing::Linspace, 4), [999, 666, 333, 0]);
        assert_eq!((ddim(Spacing::Leading, 1), ddim(Spacing::Linspace, 1), ddim(Spacing::Trailing, 1)), (vec![0], vec![0], vec![999]));
        let dpm = |s, n| dpm_timesteps(1000, 1000, s, 0, n).unwrap();
        assert_eq!(dpm(Spacing::Linspace, 4), [999, 749, 500, 250]);
        assert_eq!(dpm(Spacing::Leading, 4), [800, 600, 400, 200]);
        assert_eq!(dpm(Spacing::Trailing, 4), [999, 749, 499, 249]);
        for (steps, last) in [(60, 16), (61, -1), (122, -1)] {
            let list = dpm(Spacing::Trailing, steps);
            assert_eq!((list.len(), list.last()), (steps + usize::from(last < 0), Some(&last)), "{steps}");
        }
        assert_eq!(ddim_timesteps(1000, Spacing::Leading, 1, 4).unwrap(), [751, 501, 251, 1]);
    }

    #[test]
    fn both_previous_rules() {
        let t = ddim_timesteps(1000, Spacing::Trailing, 0, 3).unwrap();
        assert_eq!(pairs(&t, 1000, 3, PrevRule::Schedule).unwrap(), [(999, 666), (666, 332), (332, -1)]);
        assert_eq!(pairs(&t, 1000, 3, PrevRule::Diffusers).unwrap(), [(999, 666), (666, 333), (332, -1)]);
        assert_eq!(trailing_pairs(1000, 2).unwrap(), [(999, 499), (499, -1)]);
    }

    #[test]
    fn every_count_makes_a_falling_list() {
        for train in [1usize, 2, 7, 50, 1000] {
            for steps in 1..=train {
                for spacing in [Spacing::Leading, Spacing::Trailing, Spacing::Linspace] {
                    let t = ddim_timesteps(train, spacing, 0, steps).unwrap();
                    assert_eq!(t.len(), steps);
                    pairs(&t, train, steps, PrevRule::Schedule).unwrap();
                    pairs(&t, train, steps, PrevRule::Diffusers).unwrap();
                }
            }
        }
    }

    #[test]
    fn bad_grids_are_named() {
        for steps in [0, 1001, usize::MAX] {
            assert!(ddim_timesteps(1000, Spacing::Trailing, 0, steps).unwrap_err().message.contains(&steps.to_string()));
            assert!(dpm_timesteps(1000, 1000, Spacing::Linspace, 0, steps).is_err());
        }
        assert!(ddim_timesteps(1000, Spacing::Leading, 1, 1000).unwrap_err().message.contains("moves a timestep to 1000"));
        assert!(ddim_timesteps(1000, Spacing::Leading, i64::MAX, 10).is_err());
        assert!(dpm_timesteps(1000, 0, Spacing::Linspace, 0, 4).is_err());
        for bad in [&[(1000, 3)][..], &[(5, 5)], &[(5, -2)], &[(-1, -1)], &[]] {
            assert!(check_pairs(1000, bad).is_err(), "{bad:?}");
        }
        assert!(check_chain(&[(9, 5), (4, -1)]).unwrap_err().message.contains("starts at 4"));
    }
}

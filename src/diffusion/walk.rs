//! A teacher's way through the steps of a student: its own solver, with a number of its own steps inside each of them.

use super::grid::check_chain;
use super::parametrisation::Prediction;
use super::schedule::NoiseSchedule;
use super::table::{Clip, Table};
use super::trajectory::teacher_pairs;
use crate::error::{Error, Result};

/// A teacher's way through a step of the student's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Walk {
    /// Order of its solver, 1 ..= 3: 1 is DDIM, 2 and 3 are multistep DPM-Solver++ (2M and 3M), which comes closer to the solution with as many evaluations.
    pub order: usize,
    /// Its steps there.
    pub substeps: usize,
    /// What is done to the data that it predicts in each.
    pub clip: Clip,
}

impl Walk {
    /// Teacher steps of a whole trajectory that cost little beside what a student of a few steps can reach, by order: on the bundled digits their ends are
    /// 0.014 (DDIM) and 0.022 (3M) from those of 50 and of 40 steps (research/distillation_2026.md, 2.1).
    const ENOUGH: [usize; 3] = [32, 24, 20];

    /// The most teacher steps of one trajectory.
    const MOST_STEPS: usize = 1000;

    /// An error for a solver that there is not.
    pub fn check(&self) -> Result<()> {
        match self.order {
            1..=3 => Ok(()),
            order => Err(Error::invalid(format!("the order of the teacher's solver is {order}; it must be 1 (DDIM), 2 or 3 (DPM-Solver++)"))),
        }
    }

    /// How many steps a teacher takes inside each of these pairs, when nobody says: as many as cost a student little (`ENOUGH`) in all, and no more than any pair
    /// holds.
    pub fn enough_substeps(order: usize, pairs: &[(i64, i64)]) -> usize {
        let enough = Self::ENOUGH[order.clamp(1, 3) - 1].div_ceil(pairs.len().max(1));
        let shortest = pairs.iter().map(|(t, next)| t.saturating_sub(*next)).min().and_then(|length| usize::try_from(length).ok());
        enough.min(shortest.unwrap_or(enough)).max(1)
    }

    /// As many steps inside each of these pairs as are given, or as are enough where 0 are; an error where a trajectory, which is one plan, has too many.
    pub fn substeps(given: usize, order: usize, pairs: &[(i64, i64)]) -> Result<usize> {
        let substeps = if given == 0 { Self::enough_substeps(order, pairs) } else { given };
        let all = pairs.len().saturating_mul(substeps);
        if all > Self::MOST_STEPS {
            return Err(Error::invalid(format!("{} steps of {substeps} substeps are {all} teacher steps; at most {}", pairs.len(), Self::MOST_STEPS)));
        }
        Ok(substeps)
    }

    /// One run through all of `pairs`, each of which begins where the one before ends: a multistep solver remembers what it saw in those before.
    pub fn table(&self, schedule: &NoiseSchedule, prediction: Prediction, pairs: &[(i64, i64)]) -> Result<Table> {
        self.check()?;
        check_chain(pairs)?;
        let grid = teacher_pairs(schedule.len(), pairs, self.substeps)?;
        match self.order {
            1 => Table::from_pairs(schedule, prediction, &grid, 0.0, self.clip),
            order => Table::multistep(schedule, prediction, &grid, order, self.clip),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::grid::trailing_pairs;
    use super::super::schedule::ScheduleConfig;
    use super::*;

    #[test]
    fn enough_steps_fit_any_grid() {
        for (order, steps, expected) in [(1, 2, 16), (1, 4, 8), (1, 3, 11), (3, 2, 10), (3, 1, 20), (2, 4, 6), (1, 100, 1)] {
            let pairs = trailing_pairs(1000, steps).unwrap();
            assert_eq!(Walk::enough_substeps(order, &pairs), expected, "order {order}, {steps} steps");
        }
        assert_eq!(Walk::enough_substeps(1, &[(9, 4), (4, 1), (1, -1)]), 2);
        assert_eq!((Walk::enough_substeps(1, &[]), Walk::enough_substeps(1, &[(i64::MIN, i64::MAX)])), (32, 32));
    }

    /// The steps of a run are those of the solver over the teacher's grid, whatever the student's; another grid of the student's changes nothing.
    #[test]
    fn multistep_solvers_remember_across_the_students_steps() {
        let schedule = NoiseSchedule::new(ScheduleConfig::default()).unwrap();
        let walk = |order, substeps| Walk { order, substeps, clip: Clip::None };
        for order in 1..=3 {
            let of = |steps: usize| walk(order, 12 / steps).table(&schedule, Prediction::VPrediction, &trailing_pairs(1000, steps).unwrap()).unwrap();
            assert_eq!(of(1), of(2), "order {order}");
            assert_eq!(of(2).memory, order - 1);
        }
        let error = walk(4, 1).table(&schedule, Prediction::Epsilon, &[(999, -1)]).unwrap_err();
        assert!(error.message.contains("order of the teacher's solver is 4"), "{error}");
        assert!(walk(1, 1).table(&schedule, Prediction::Epsilon, &[(999, 499), (300, -1)]).is_err());
    }
}

//! Names for what a student is mostly asked to match: pairs of a point and a target.

use super::points::Point;
use super::targets::Target;
use super::term::{NormKind, Term};
use crate::diffusion::Weight;
use crate::names::named_enum;

named_enum! {
    /// The pairs that have a name, here and in C; the words are those of checkpoints.
    Objective {
        /// The teacher's prediction at the same x_t, t, with x_t made from data.
        Output = "Output",
        /// The teacher's next cached state, from the teacher's own state.
        TeacherForced = "TeacherForced",
        /// The teacher's next cached state of the same noise, from the state that the student itself reaches (detached).
        OnPolicy = "OnPolicy",
        /// The data that x_t was made from: trains a teacher, needs none.
        Denoise = "Denoise",
        /// The state where the teacher arrives from the state that the student itself reaches (detached).
        Resolve = "Resolve",
        /// The state where the teacher arrives from noised data: progressive distillation (arXiv 2202.00512, algorithm 2), where the teacher is the student
        /// of twice as many steps and takes two of them.
        Progressive = "Progressive",
        /// The teacher's next cached states along the student's whole run, with gradient through all of its steps.
        Rollout = "Rollout",
        /// Where the student's own moving average lands from the teacher's next cached state, from the teacher's own state (TRACT).
        SelfTeacher = "SelfTeacher",
    }
}

/// What each of them names.
const PAIRS: [(Objective, Point, Target); 8] = [
    (Objective::Output, Point::Data, Target::TeacherOutput),
    (Objective::TeacherForced, Point::Cached, Target::NextState),
    (Objective::OnPolicy, Point::Own, Target::NextState),
    (Objective::Denoise, Point::Data, Target::Clean),
    (Objective::Resolve, Point::Own, Target::Resolved),
    (Objective::Progressive, Point::Noised, Target::Resolved),
    (Objective::Rollout, Point::Chain, Target::NextState),
    (Objective::SelfTeacher, Point::Cached, Target::SelfTeacher),
];

impl Objective {
    /// The name of a pair.
    pub fn of(point: Point, target: Target) -> Option<Self> {
        PAIRS.iter().find(|(_, p, t)| (*p, *t) == (point, target)).map(|(name, ..)| *name)
    }

    /// The pair.
    pub fn pair(self) -> (Point, Target) {
        PAIRS.iter().find(|(name, ..)| *name == self).map_or((Point::Data, Target::Clean), |(_, point, target)| (*point, *target))
    }

    /// A term of it, with factor 1.
    pub fn term(self, step_weight: Weight, norm: NormKind) -> Term {
        let (point, target) = self.pair();
        Term { point, target, norm, step_weight, weight: 1.0, linear_fit_steps: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Named;

    #[test]
    fn every_name_is_that_of_one_pair_that_fits() {
        for (word, objective) in Objective::NAMES {
            let (point, target) = objective.pair();
            assert!(target.fits(point), "{word}");
            assert_eq!(PAIRS.iter().filter(|(name, ..)| name == objective).count(), 1, "{word}");
            assert_eq!(Objective::of(point, target), Some(*objective), "{word}");
        }
        assert_eq!(Objective::of(Point::Own, Target::TeacherOutput), None);
    }
}

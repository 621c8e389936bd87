//! One term of a loss: where the student is evaluated, what it is to match there, and how the difference counts.

use super::context::Needs;
use super::points::Point;
use super::targets::Target;
use crate::diffusion::Weight;
use crate::error::{Error, Result};
use crate::names::Named;

/// Norm of the difference, element by element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormKind {
    /// |d|.
    L1,
    /// d^2.
    L2,
    /// d^2/2 inside |d| <= delta, delta (|d| - delta/2) outside.
    Huber(f32),
}

/// One term of the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// Where the student is evaluated. Terms with the same point share its draws and the student's evaluation.
    pub point: Point,
    /// What it is to match there.
    pub target: Target,
    /// Norm of the difference.
    pub norm: NormKind,
    /// Weight of each step, on the squared x0 error.
    pub step_weight: Weight,
    /// Factor on this term.
    pub weight: f32,
    /// Steps of a warm-up that begins with the best factor on the student's prediction granted, and ends with none ([`loss`](super::loss)); 0 for no warm-up.
    pub linear_fit_steps: u32,
}

impl Term {
    /// What it cannot be built without.
    pub fn needs(&self) -> Needs {
        self.point.kind().needs.or(self.target.needs())
    }

    /// Refuses a target that is not known at the point, and a factor that is not finite.
    pub fn check(&self) -> Result<()> {
        if !self.target.fits(self.point) {
            let fitting: Vec<_> = Target::NAMES.iter().filter(|(_, target)| target.fits(self.point)).map(|(name, _)| *name).collect();
            let (target, point) = (self.target.name(), self.point.name());
            return Err(Error::invalid(format!("a term's target is {target}, which is not known at its point, {point}; it can be {}", fitting.join(" or "))));
        }
        if !self.weight.is_finite() {
            return Err(Error::invalid(format!("a term's weight is {}; it must be finite", self.weight)));
        }
        if self.linear_fit_steps != 0 && self.target != Target::TeacherOutput {
            let (steps, target) = (self.linear_fit_steps, self.target.name());
            return Err(Error::invalid(format!("a term's linear_fit_steps is {steps}, but its target is {target}; only a teacher's output is fitted")));
        }
        Ok(())
    }

    /// How much of the best scale a step, counted from 0, lets the student have: 1, falling to 0.
    pub fn linear_fit(&self, step: u64) -> f32 {
        let steps = u64::from(self.linear_fit_steps);
        (steps.saturating_sub(step) as f64 / steps.max(1) as f64) as f32
    }
}

//! Dynamic loss scaling (Micikevicius et al. 2018, section 3.2): gradients in f16 are computed of a multiple of the loss, so that small ones do not vanish.
//! The multiple is a power of two, so that dividing by it loses nothing. Too large a one shows as a gradient that is not finite: the step is done again
//! with half of it.

use crate::backend::{Executable, as_bytes};
use crate::error::Result;
use crate::graph::{Graph, TensorType, ValueId};
use serde::{Deserialize, Serialize};

/// Steps without an overflow after which a larger factor is tried.
const GROWTH_INTERVAL: u32 = 2000;
/// Largest factor that is tried.
const LARGEST: f32 = (1u32 << 24) as f32;

/// Runtime inputs of a graph with a scaled loss.
#[derive(Clone, Copy, Debug)]
pub struct LossScaleInputs {
    /// What the loss is multiplied by before it is differentiated, f32 [1].
    pub factor: ValueId,
    /// One over that, f32 [1].
    pub inverse: ValueId,
}

impl LossScaleInputs {
    /// Declares them.
    pub fn declare(g: &mut Graph) -> Result<Self> {
        Ok(Self { factor: g.input("loss_scale", TensorType::f32(&[1]))?, inverse: g.input("loss_scale_inverse", TensorType::f32(&[1]))? })
    }
}

/// The factor, and how long it has been good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    factor: f32,
    good_steps: u32,
}

impl LossScale {
    /// Starts with this power of two.
    pub fn new(factor: f32) -> Self {
        Self { factor, good_steps: 0 }
    }

    /// False for what no run can have: a factor that is not a power of two, 1 or more.
    pub fn is_possible(&self) -> bool {
        self.factor.is_finite() && self.factor >= 1.0 && self.factor.to_bits().trailing_zeros() >= f32::MANTISSA_DIGITS - 1
    }

    /// The present factor.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// Puts it where the next step reads it.
    pub fn write(&self, exec: &mut dyn Executable, inputs: &LossScaleInputs) -> Result<()> {
        exec.write_bytes(inputs.factor, as_bytes(&[self.factor]))?;
        exec.write_bytes(inputs.inverse, as_bytes(&[1.0 / self.factor]))
    }

    /// After a step whose gradients were finite.
    pub fn step(&mut self) {
        self.good_steps = self.good_steps.saturating_add(1);
        if self.good_steps >= GROWTH_INTERVAL && self.factor < LARGEST {
            *self = Self::new(self.factor * 2.0);
        }
    }

    /// After gradients that were not finite: false if a smaller factor would not help.
    pub fn shrink(&mut self) -> bool {
        let can = self.factor > 1.0;
        *self = Self::new((self.factor / 2.0).max(1.0));
        can
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_after_good_steps_and_shrinks_at_once() {
        let mut scale = LossScale::new(8.0);
        (1..GROWTH_INTERVAL).for_each(|_| scale.step());
        assert_eq!(scale.factor(), 8.0);
        scale.step();
        assert_eq!(scale, LossScale::new(16.0));
        assert!(scale.shrink());
        assert_eq!(scale.factor(), 8.0);
        // A step before the overflow does not count after it.
        (1..GROWTH_INTERVAL).for_each(|_| scale.step());
        assert!(scale.shrink());
        scale.step();
        assert_eq!(scale.factor(), 4.0);
    }

    #[test]
    fn possible_factors_are_powers_of_two() {
        for (factor, possible) in [
            (1.0, true),
            (65536.0, true),
            (f32::MAX, false),
            (0.5, false),
            (0.0, false),
            (-2.0, false),
            (3.0, false),
            (65536.0f32.next_up(), false),
            (f32::INFINITY, false),
            (f32::NAN, false),
        ] {
            assert_eq!(LossScale::new(factor).is_possible(), possible, "{factor}");
        }
    }

    #[test]
    fn has_bounds() {
        let mut scale = LossScale::new(2.0);
        assert!(scale.shrink(), "1 is still to be tried");
        assert!(!scale.shrink());
        assert_eq!(scale.factor(), 1.0);
        let mut scale = LossScale::new(LARGEST);
        (0..2 * GROWTH_INTERVAL).for_each(|_| scale.step());
        assert_eq!(scale.factor(), LARGEST);
    }
}

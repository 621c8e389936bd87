//! Terms of features: what a block of the student gives is to agree with what a block of the teacher gives for the same x_t, after a 1x1 convolution that
//! learns with the student brings it to the teacher's channels (FitNets, Romero et al. 2015, equation 3). Each is divided by the variance of the teacher's
//! feature over the batch, or its root, so that one weight serves blocks of any scale.

use super::context::{Needs, STUDENT, TermContext};
use super::evaluations::Evaluations;
use super::loss::unary;
use super::points::Point;
use super::term::NormKind;
use crate::error::{Error, Result};
use crate::graph::ops::UnaryKind;
use crate::graph::{Graph, ValueId};
use crate::names::Named;
use crate::nn::Scope;
use crate::nn::scope::Parameter;

/// The least variance that a difference is divided by: a block that gives nearly the same everywhere is matched in thousandths, which still weighs much.
const LEAST_VARIANCE: f32 = 1e-6;
/// Before the names of what learns to align.
const ALIGN: &str = "align.";

/// Blocks of both networks whose hidden states are to agree.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureTerm {
    /// Where both are evaluated. Terms with the same point share its draws and evaluations.
    pub point: Point,
    /// Path of the student's block, such as `down_blocks.0` or `mid_block`.
    pub student: String,
    /// Path of the teacher's.
    pub teacher: String,
    /// L1 or L2, of the difference in standard deviations of the teacher's feature.
    pub norm: NormKind,
    /// Factor on this term.
    pub weight: f32,
    /// Steps over which the factor falls to 0, evenly; it stays where this is 0.
    pub decay_steps: u64,
}

/// A term in a program.
pub struct FeatureLoss {
    /// The loss [1], without the term's factor.
    pub loss: ValueId,
    /// Weight and bias of the convolution: `align.0.weight` and `.bias` among the student's own.
    pub parameters: Vec<Parameter>,
}

/// Whether a parameter that learns with the student is no part of it.
pub(super) fn is_alignment(name: &str) -> bool {
    name.starts_with(ALIGN)
}

impl FeatureTerm {
    /// What it cannot be built without.
    pub fn needs(&self) -> Needs {
        self.point.kind().needs.or(Needs { teacher: true, ..Needs::default() })
    }

    /// Refuses a point or norm that it is not made for, and a factor that is not finite.
    pub fn check(&self) -> Result<()> {
        if self.point.kind().chained {
            return Err(Error::invalid(format!("a feature's point is {}, where the teacher is not evaluated", self.point.name())));
        }
        if matches!(self.norm, NormKind::Huber(_)) {
            return Err(Error::invalid("a feature's norm is Huber; it can be L1 or L2"));
        }
        if !self.weight.is_finite() {
            return Err(Error::invalid(format!("a feature's weight is {}; it must be finite", self.weight)));
        }
        Ok(())
    }

    /// Its factor in a step, counted from 0.
    pub fn factor(&self, step: u64) -> f32 {
        if self.decay_steps == 0 {
            return self.weight;
        }
        let left = self.decay_steps.saturating_sub(step) as f64 / self.decay_steps as f64;
        (f64::from(self.weight) * left) as f32
    }

    /// Appends it, the `number`-th of a loss.
    pub fn loss(&self, g: &mut Graph, context: &TermContext, evaluations: &Evaluations, number: usize) -> Result<FeatureLoss> {
        let [own, target] = evaluations.features(g, context, [&self.student, &self.teacher])?;
        let [own_shape, shape] = [own, target].map(|value| g.shape(value).to_vec());
        let (Some((own_channels, own_places)), Some((channels, places))) = (own_shape.split_last(), shape.split_last()) else {
            return Err(Error::internal("a feature without channels"));
        };
        if own_places != places {
            return Err(Error::shape(format!(
                "the student's block '{}' gives {own_shape:?}, the teacher's '{}' gives {shape:?}; only channels, the last, may differ",
                self.student, self.teacher
            )));
        }
        let scope = Scope::new(STUDENT);
        let pixels = g.reshape(own, &[places[0], places[1..].iter().product(), 1, *own_channels])?;
        let aligned = scope.conv(g, pixels, &format!("{ALIGN}{number}"), *channels, 1, 1, [0; 4])?;
        let aligned = g.reshape(aligned, &shape)?;
        let difference = g.sub(aligned, target)?;
        let normed = g.unary(unary(self.norm), difference)?;
        let mean = g.mean(normed)?;
        let scale = self.scale(g, target)?;
        Ok(FeatureLoss { loss: g.mul(mean, scale)?, parameters: scope.into_parameters() })
    }

    /// 1 over the variance of all elements of the teacher's feature, or over its root, [1].
    fn scale(&self, g: &mut Graph, target: ValueId) -> Result<ValueId> {
        let mean = g.mean(target)?;
        let mean = g.reshape(mean, &vec![1; g.shape(target).len()])?;
        let centred = g.sub(target, mean)?;
        let squared = g.unary(UnaryKind::Square, centred)?;
        let variance = g.mean(squared)?;
        let variance = g.unary(UnaryKind::Clamp(LEAST_VARIANCE, f32::INFINITY), variance)?;
        let root = g.unary(UnaryKind::Rsqrt, variance)?;
        if self.norm == NormKind::L1 { Ok(root) } else { g.mul(root, root) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_fall_to_nothing() {
        let term = FeatureTerm { point: Point::Data, student: "a".into(), teacher: "a".into(), norm: NormKind::L2, weight: 0.5, decay_steps: 4 };
        assert_eq!([0, 1, 3, 4, 5, u64::MAX].map(|step| term.factor(step)), [0.5, 0.375, 0.125, 0.0, 0.0, 0.0]);
        assert_eq!([0, u64::MAX].map(|step| FeatureTerm { decay_steps: 0, ..term.clone() }.factor(step)), [0.5; 2]);
    }

    #[test]
    fn what_no_feature_can_be_is_named() {
        let term = FeatureTerm { point: Point::Data, student: "a".into(), teacher: "a".into(), norm: NormKind::L1, weight: 1.0, decay_steps: 0 };
        assert!(term.check().is_ok());
        for (bad, says) in [
            (FeatureTerm { point: Point::Chain, ..term.clone() }, "Chain"),
            (FeatureTerm { norm: NormKind::Huber(1.0), ..term.clone() }, "Huber"),
            (FeatureTerm { weight: f32::NAN, ..term }, "NaN"),
        ] {
            let error = bad.check().expect_err(says);
            assert!(error.message.contains(says), "{error}");
        }
    }
}

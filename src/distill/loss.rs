//! A term as nodes: d = c0 x_t + c1 student + c2 target with coefficients by the row's place, a norm and a mean. What terms share at a point is evaluated once.

use super::context::TermContext;
use super::points::At;
use super::targets::Target;
use super::term::{NormKind, Term};
use crate::diffusion::Weight;
use crate::diffusion::table::is_coefficient;
use crate::error::{Error, Result};
use crate::graph::ops::{Combine, StopGradient, UnaryKind};
use crate::graph::{Graph, ValueId};
use crate::io::json::shorten;
use crate::memory;
use crate::names::Named;
use crate::nn::{Feature, Predicted, When};
use crate::tensor::Tensor;

/// A point at which the student has been evaluated, for all terms there.
pub struct Evaluated {
    /// Where.
    pub(super) at: At,
    /// The student's output.
    pub student: ValueId,
    /// What its blocks have given.
    features: Vec<Feature>,
    /// The targets that some term has asked for.
    targets: Vec<(Target, ValueId)>,
    /// The rows' coefficients of some term's target and weight.
    coefficients: Vec<((Target, Weight), ValueId)>,
}

impl Evaluated {
    /// Evaluates the student.
    pub fn new(g: &mut Graph, context: &TermContext, at: At) -> Result<Self> {
        let Predicted { output: student, features } = context.student.network.predicted(g, at.x, When { t: at.t, step: at.step }, &at.conditions)?;
        Ok(Self { at, student, features, targets: vec![], coefficients: vec![] })
    }

    /// What a block of the student and one of the teacher give here.
    pub(super) fn features(&self, g: &mut Graph, context: &TermContext, [own, other]: [&str; 2]) -> Result<[ValueId; 2]> {
        let teacher = &self.at.teacher(g, context)?.features;
        Ok([find("student", &self.features, own)?, find("teacher", teacher, other)?])
    }

    /// A target here, [B,H,W,C].
    pub fn target(&mut self, g: &mut Graph, context: &TermContext, target: Target) -> Result<ValueId> {
        if let Some((_, value)) = self.targets.iter().find(|(t, _)| *t == target) {
            return Ok(*value);
        }
        let value = target.value(g, context, &self.at)?;
        memory::push(&mut self.targets, (target, value), "targets of a loss")?;
        Ok(value)
    }

    /// The coefficients of each row, [B, 3].
    fn coefficients(&mut self, g: &mut Graph, context: &TermContext, of: (Target, Weight)) -> Result<ValueId> {
        if let Some((_, value)) = self.coefficients.iter().find(|(known, _)| *known == of) {
            return Ok(*value);
        }
        let (target, weight) = of;
        let rows = self.at.places.iter().map(|place| (place.t, target.coefficients(context, *place, weight)));
        let coefficients = table(g, &format!("{}.coefficients", target.name()), weight, rows)?;
        let value = g.gather(coefficients, self.at.place)?;
        memory::push(&mut self.coefficients, (of, value), "coefficients of a loss")?;
        Ok(value)
    }

    /// Loss [1] of a term of this point, without the term's factor. `fit` [1] says how much of the best scale of the student's prediction is granted, if any.
    pub fn loss(&mut self, g: &mut Graph, context: &TermContext, term: &Term, fit: Option<ValueId>) -> Result<ValueId> {
        let target = self.target(g, context, term.target)?;
        let coefficients = self.coefficients(g, context, (term.target, term.step_weight))?;
        let mut d = g.push1(Combine { first: 0 }.into(), &[coefficients, self.at.x, self.student, target])?;
        if let Some(fit) = fit {
            let own = g.push1(Combine { first: 1 }.into(), &[coefficients, self.student])?;
            d = without(g, d, own, fit)?;
        }
        let normed = g.unary(unary(term.norm), d)?;
        g.mean(normed)
    }
}

/// d - fit share p, with p what the student's prediction adds to d, and 1 - share the factor of p for which the squares over the batch are the smallest: what is
/// left of the difference when that factor is granted. It is a constant to the gradient, which for squares at a fit of 1 is as it would be with it: at its minimum
/// a factor changes nothing. Inside of limits, since below 0 a student would learn the opposite, and at 0 nothing.
fn without(g: &mut Graph, d: ValueId, p: ValueId, fit: ValueId) -> Result<ValueId> {
    /// The smallest and the largest factor.
    const FACTORS: [f32; 2] = [0.1, 10.0];
    /// Beside <p, p>, for a network that predicts zeros as long as it is new.
    const LEAST: f32 = 1e-12;
    let one = vec![1; g.shape(d).len()];
    let mut dot = |a: ValueId| {
        let product = g.mul(a, p)?;
        g.reduce_sum(product, &one)
    };
    let (shared, own) = (dot(d)?, dot(p)?);
    let own = g.affine(own, 1.0, LEAST)?;
    let root = g.unary(UnaryKind::Rsqrt, own)?;
    let inverse = g.mul(root, root)?;
    let share = g.mul(shared, inverse)?;
    let share = g.unary(UnaryKind::Clamp(1.0 - FACTORS[1], 1.0 - FACTORS[0]), share)?;
    let fit = g.reshape(fit, &one)?;
    let share = g.mul(share, fit)?;
    let share = g.push1(StopGradient.into(), &[share])?;
    let explained = g.mul(p, share)?;
    g.sub(d, explained)
}

/// What a block gives; an error that names the blocks that there are.
fn find(whose: &str, features: &[Feature], path: &str) -> Result<ValueId> {
    let missing = || {
        let there: Vec<_> = features.iter().map(|feature| feature.path.as_str()).collect();
        Error::invalid(format!("the {whose} has no block '{}'; it has {}", shorten(path), there.join(", ")))
    };
    features.iter().find(|feature| feature.path == path).map(|feature| feature.value).ok_or_else(missing)
}

pub(super) fn unary(norm: NormKind) -> UnaryKind {
    match norm {
        NormKind::L1 => UnaryKind::Abs,
        NormKind::L2 => UnaryKind::Square,
        NormKind::Huber(delta) => UnaryKind::Huber(delta),
    }
}

/// The rows of a table of coefficients, each with the timestep that it is for; an error for one that float32 does not hold, whose batches would be NaN.
pub(super) fn table<const K: usize>(g: &mut Graph, name: &str, weight: Weight, rows: impl Iterator<Item = (i64, Result<[f64; K]>)>) -> Result<ValueId> {
    let mut data = memory::with_capacity::<f32>(rows.size_hint().0.saturating_mul(K), name)?;
    let mut count = 0;
    for (t, row) in rows {
        let at = || format!("timestep {t}");
        let row = row.map_err(|e| e.context(at()))?;
        if let Some(c) = row.iter().find(|c| !is_coefficient(**c)) {
            let name = weight.name();
            return Err(Error::numeric(format!(
                "{}: a coefficient of the loss with weight {name} is {c:e}, which float32 does not hold; use another weight",
                at()
            )));
        }
        memory::append(&mut data, &row.map(|c| c as f32), name)?;
        count += 1;
    }
    g.constant(name, Tensor::from_slice(&[count, K], &data)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_that_float32_does_not_hold_are_named() {
        let mut g = Graph::new();
        for (row, good) in [([1.0, 3e38], true), ([1.0, 4e38], false), ([f64::NAN, 0.0], false)] {
            let made = table(&mut g, "rows", Weight::TruncSnr, [(999, Ok([0.0, 1.0])), (7, Ok(row))].into_iter());
            assert_eq!(made.is_ok(), good, "{row:?}");
            let Err(error) = made else { continue };
            assert!(error.message.contains("timestep 7") && error.message.contains("trunc_snr"), "{error}");
        }
    }
}

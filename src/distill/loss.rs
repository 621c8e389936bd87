//! A term as nodes: d = c0 x_t + c1 student + c2 target with coefficients by the row's place, a norm and a mean. What terms share at a point is evaluated once.

use super::context::TermContext;
use super::points::At;
use super::targets::Target;
use super::term::{NormKind, Term};
use crate::diffusion::Weight;
use crate::diffusion::table::is_coefficient;
use crate::error::{Error, Result};
use crate::graph::ops::{Combine, UnaryKind};
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

    /// Loss [1] of a term of this point, without the term's factor.
    pub fn loss(&mut self, g: &mut Graph, context: &TermContext, term: &Term) -> Result<ValueId> {
        let target = self.target(g, context, term.target)?;
        let coefficients = self.coefficients(g, context, (term.target, term.step_weight))?;
        let d = g.push1(Combine { first: 0 }.into(), &[coefficients, self.at.x, self.student, target])?;
        let normed = g.unary(unary(term.norm), d)?;
        g.mean(normed)
    }
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

//! A group norm with what passes add to it.

use super::moments::check_moments;
use super::sources::{join, joined};
use super::{GroupNorm, NormOperands};
use crate::error::Result;
use crate::graph::TensorType;
use crate::graph::op::{Narrow, OpDef, arity, floats};
use crate::graph::reference::Array;
use std::ops::Range;

/// [`GroupNorm`] of an x that comes in several values, or with the moments of whose channels its statistics are made.
/// Operands: the `sources` of x [N,...,Ci], joined along the channels; gamma [C], beta [C]; the `moments` [N,Cj,2], mean and biased variance of every channel, C the
/// sum of the Cj. Results as of [`GroupNorm`].
#[derive(Clone, Debug, PartialEq)]
pub struct FusedGroupNorm {
    /// What is done.
    pub norm: GroupNorm,
    /// How many values x is joined of; set by the pass that spares concatenations.
    pub sources: usize,
    /// How many values the moments come in; 0 where the statistics are x's own to find. Set by the pass that absorbs norms.
    pub moments: usize,
}

impl From<GroupNorm> for FusedGroupNorm {
    fn from(norm: GroupNorm) -> Self {
        Self { norm, sources: 1, moments: 0 }
    }
}

impl FusedGroupNorm {
    /// Where the values that x is joined of stand, and the others.
    pub fn operands(&self) -> (Range<usize>, NormOperands) {
        let gamma = self.sources;
        let moments = gamma.saturating_add(2);
        (0..gamma, NormOperands { gamma, beta: gamma.saturating_add(1), moments: moments..moments.saturating_add(self.moments) })
    }

    /// The type of the joined x, from the operands' types.
    pub fn joined(&self, inputs: &[&TensorType]) -> Result<TensorType> {
        joined(inputs.get(self.operands().0).unwrap_or_default())
    }
}

impl OpDef for FusedGroupNorm {
    fn name(&self) -> &'static str {
        "fused_group_norm"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let (_, at) = self.operands();
        arity(inputs, at.moments.end..=at.moments.end)?;
        let x = self.joined(inputs)?;
        let results = self.norm.infer(&[&x, inputs[at.gamma], inputs[at.beta]])?;
        if self.moments > 0 {
            floats(&inputs[at.moments.clone()])?;
            check_moments(&inputs[at.moments], [x.shape[0], x.shape[x.shape.len() - 1]])?;
        }
        Ok(results)
    }

    fn narrow(&self) -> Narrow {
        Narrow::Operands(self.operands().0.collect())
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (sources, at) = self.operands();
        let x = join(&inputs[sources])?;
        let (gamma, beta) = (inputs[at.gamma], inputs[at.beta]);
        if self.moments == 0 { self.norm.reference(&[&x, gamma, beta]) } else { Ok(self.norm.of_moments(&x, [gamma, beta], &inputs[at.moments])?.into()) }
    }
}

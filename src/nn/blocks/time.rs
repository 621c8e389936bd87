//! How a timestep, or a label that is treated as one, becomes a vector.

use crate::error::Result;
use crate::graph::ops::{TimestepEmbedding, UnaryKind};
use crate::graph::{Graph, ValueId};
use crate::nn::scope::Scope;

/// The sinusoid of `t` f32 [B] and the two linear layers behind it, [B, width].
pub(in crate::nn) fn embedding(g: &mut Graph, scope: &Scope, t: ValueId, path: &str, sinusoid: TimestepEmbedding, width: usize) -> Result<ValueId> {
    let s = g.push1(sinusoid.into(), &[t])?;
    let h = scope.linear(g, s, &format!("{path}.linear_1"), width)?;
    // diffusers' TimestepEmbedding has an act_fn, silu by default, which UNet2DModel does not set.
    let h = g.unary(UnaryKind::Silu, h)?;
    scope.linear(g, h, &format!("{path}.linear_2"), width)
}

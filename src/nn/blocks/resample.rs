//! The resampling layers that stand between blocks.

use crate::error::Result;
use crate::graph::ops::Upsample2x;
use crate::graph::{Graph, ValueId};
use crate::nn::scope::Scope;

/// Downsample2D: a strided 3x3 convolution; padding 0 means one zero row and column at the right and bottom, as DDPM had it.
pub(in crate::nn) fn downsample(g: &mut Graph, scope: &Scope, x: ValueId, path: &str, padding: usize) -> Result<ValueId> {
    let channels = g.shape(x)[3];
    let pad = if padding == 0 { [0, 0, 1, 1] } else { [padding; 4] };
    scope.conv(g, x, &format!("{path}.conv"), channels, 3, 2, pad)
}

/// Upsample2D: nearest doubling, then a 3x3 convolution.
pub(in crate::nn) fn upsample(g: &mut Graph, scope: &Scope, x: ValueId, path: &str) -> Result<ValueId> {
    let channels = g.shape(x)[3];
    let up = g.push1(Upsample2x.into(), &[x])?;
    scope.conv(g, up, &format!("{path}.conv"), channels, 3, 1, [1; 4])
}

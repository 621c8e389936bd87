//! Spatial self-attention as diffusers' `Attention` with `residual_connection=True` does it.

use crate::error::Result;
use crate::graph::ops::Attention;
use crate::graph::{Graph, ValueId};
use crate::nn::scope::{Norm, Scope};

/// How an attention layer is made.
pub(in crate::nn) struct SelfAttention {
    /// Of the input; `None` leaves the norm out.
    pub norm: Option<Norm>,
    /// Number of heads and channels of each. Their product may be less than the channels there are: what whole heads do not fill is left out.
    pub heads: (usize, usize),
    /// `rescale_output_factor`: the sum is divided by it.
    pub rescale: f64,
}

impl SelfAttention {
    /// (x + to_out(attention(to_q(n), to_k(n), to_v(n)))) / rescale with n = group_norm(x), for x [N,H,W,C].
    pub fn build(&self, g: &mut Graph, scope: &Scope, x: ValueId, path: &str) -> Result<ValueId> {
        let [n, h, w, channels] = [g.shape(x)[0], g.shape(x)[1], g.shape(x)[2], g.shape(x)[3]];
        let (heads, head_dim) = self.heads;
        let normed = match self.norm {
            Some(norm) => scope.norm(g, x, &format!("{path}.group_norm"), norm, false)?,
            None => x,
        };
        let mut qkv = [normed; 3];
        for (v, name) in qkv.iter_mut().zip(["to_q", "to_k", "to_v"]) {
            let image = scope.pointwise(g, normed, &format!("{path}.{name}"), heads * head_dim)?;
            *v = g.reshape(image, &[n, h * w, heads * head_dim])?;
        }
        let op = Attention { heads, scale: (head_dim as f64).powf(-0.5) };
        let mixed = g.push(op.into(), &qkv)?[0];
        let mixed = g.reshape(mixed, &[n, h, w, heads * head_dim])?;
        let out = scope.pointwise(g, mixed, &format!("{path}.to_out.0"), channels)?;
        let sum = g.add(out, x)?;
        let out = g.affine(sum, (1.0 / self.rescale) as f32, 0.0)?;
        scope.feature(g, path, out)?;
        Ok(out)
    }
}

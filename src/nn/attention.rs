//! Spatial self-attention as diffusers' `Attention` with `residual_connection=True` does it.

use super::unet::UNet;
use crate::error::Result;
use crate::graph::ops::Attention;
use crate::graph::{Graph, ValueId};

impl UNet<'_> {
    /// (x + to_out(attention(to_q(n), to_k(n), to_v(n)))) / rescale with n = group_norm(x); `groups` None leaves the norm out.
    pub(super) fn attention(&self, g: &mut Graph, x: ValueId, path: &str, groups: Option<usize>, rescale: f64) -> Result<ValueId> {
        let [n, h, w, channels] = [g.shape(x)[0], g.shape(x)[1], g.shape(x)[2], g.shape(x)[3]];
        // What whole heads do not fill is left out (C = 64, 10 a head: 6 heads, inner width 60).
        let (heads, head_dim) = self.config.attention_heads(channels);
        let normed = match groups {
            Some(groups) => self.norm(g, x, &format!("{path}.group_norm"), groups, false)?,
            None => x,
        };
        let mut qkv = [normed; 3];
        for (v, name) in qkv.iter_mut().zip(["to_q", "to_k", "to_v"]) {
            let image = self.conv_named(g, normed, &format!("{path}.{name}"), heads * head_dim)?;
            *v = g.reshape(image, &[n, h * w, heads * head_dim])?;
        }
        let op = Attention { heads, scale: (head_dim as f64).powf(-0.5) };
        let mixed = g.push(op.into(), &qkv)?[0];
        let mixed = g.reshape(mixed, &[n, h, w, heads * head_dim])?;
        let out = self.conv_named(g, mixed, &format!("{path}.to_out.0"), channels)?;
        let sum = g.add(out, x)?;
        let out = g.affine(sum, (1.0 / rescale) as f32, 0.0)?;
        g.set_name(out, self.name(path));
        Ok(out)
    }
}

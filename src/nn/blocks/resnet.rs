//! ResnetBlock2D of diffusers.

use crate::error::Result;
use crate::graph::ops::{AvgPool2x, Slice, UnaryKind, Upsample2x};
use crate::graph::{Graph, ValueId};
use crate::nn::scope::{Norm, Scope};

/// Resampling inside a residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nn) enum Resample {
    None,
    Down,
    Up,
}

/// What all residual blocks of a network have in common.
#[derive(Clone, Copy)]
pub(in crate::nn) struct Style {
    pub norm: Norm,
    pub activation: UnaryKind,
    /// The time embedding scales and shifts after the second norm; else it is added before.
    pub scale_shift: bool,
}

/// What a residual block needs to know beside its input.
pub(in crate::nn) struct Block<'a> {
    pub path: &'a str,
    pub out_channels: usize,
    pub resample: Resample,
    /// `output_scale_factor`: the sum is divided by it.
    pub output_scale: f64,
}

impl Style {
    /// h = conv2(act(norm2(conv1(resample(act(norm1(x)))) + linear(time)))); (shortcut(resample(x)) + h) / scale.
    pub fn resnet(&self, g: &mut Graph, scope: &Scope, x: ValueId, time: ValueId, block: &Block) -> Result<ValueId> {
        let path = block.path;
        let in_channels = g.shape(x)[3];
        let mut h = self.norm_act(g, scope, x, &format!("{path}.norm1"))?;
        let mut skip = x;
        match block.resample {
            Resample::None => {}
            Resample::Down => (skip, h) = (g.push1(AvgPool2x.into(), &[skip])?, g.push1(AvgPool2x.into(), &[h])?),
            Resample::Up => (skip, h) = (g.push1(Upsample2x.into(), &[skip])?, g.push1(Upsample2x.into(), &[h])?),
        }
        h = scope.conv(g, h, &format!("{path}.conv1"), block.out_channels, 3, 1, [1; 4])?;
        h = self.join_time(g, scope, h, time, block)?;
        if in_channels != block.out_channels {
            skip = scope.conv(g, skip, &format!("{path}.conv_shortcut"), block.out_channels, 1, 1, [0; 4])?;
        }
        h = scope.conv(g, h, &format!("{path}.conv2"), block.out_channels, 3, 1, [1; 4])?;
        let sum = g.add(h, skip)?;
        let out = g.affine(sum, (1.0 / block.output_scale) as f32, 0.0)?;
        scope.feature(g, path, out)?;
        Ok(out)
    }

    /// The time embedding, the second norm and the activation.
    fn join_time(&self, g: &mut Graph, scope: &Scope, h: ValueId, time: ValueId, block: &Block) -> Result<ValueId> {
        let (path, channels) = (block.path, block.out_channels);
        let width = channels * if self.scale_shift { 2 } else { 1 };
        let te = scope.linear(g, time, &format!("{path}.time_emb_proj"), width)?;
        let batch = g.shape(te)[0];
        let te = g.reshape(te, &[batch, 1, 1, width])?;
        if !self.scale_shift {
            let h = g.add(h, te)?;
            return self.norm_act(g, scope, h, &format!("{path}.norm2"));
        }
        let h = scope.norm(g, h, &format!("{path}.norm2"), self.norm, false)?;
        let scale = g.push1(Slice { start: 0, len: channels }.into(), &[te])?;
        let shift = g.push1(Slice { start: channels, len: channels }.into(), &[te])?;
        let scale = g.affine(scale, 1.0, 1.0)?;
        let h = g.mul(h, scale)?;
        let h = g.add(h, shift)?;
        g.unary(self.activation, h)
    }

    /// Group norm and the activation, in one op where that is SiLU.
    fn norm_act(&self, g: &mut Graph, scope: &Scope, x: ValueId, path: &str) -> Result<ValueId> {
        let silu = self.activation == UnaryKind::Silu;
        let h = scope.norm(g, x, path, self.norm, silu)?;
        if silu { Ok(h) } else { g.unary(self.activation, h) }
    }
}

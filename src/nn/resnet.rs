//! ResnetBlock2D of diffusers, and the resampling layers that stand between blocks.

use super::unet::UNet;
use crate::error::Result;
use crate::graph::ops::{AvgPool2x, Slice, Upsample2x};
use crate::graph::{Graph, ValueId};
use crate::io::unet_config::TimeScaleShift;

/// Resampling inside a residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resample {
    None,
    Down,
    Up,
}

/// What a residual block needs to know beside its input.
pub(super) struct Block<'a> {
    pub path: &'a str,
    pub out_channels: usize,
    pub resample: Resample,
    /// `output_scale_factor`: the sum is divided by it.
    pub output_scale: f64,
}

impl UNet<'_> {
    /// h = conv2(act(norm2(conv1(resample(act(norm1(x)))) + linear(time)))); (shortcut(resample(x)) + h) / scale.
    pub(super) fn resnet(&self, g: &mut Graph, x: ValueId, time: ValueId, block: &Block) -> Result<ValueId> {
        let (c, path) = (self.config, block.path);
        let scale_shift = c.resnet_time_scale_shift == TimeScaleShift::ScaleShift;
        let in_channels = g.shape(x)[3];
        let mut h = self.norm_act(g, x, &format!("{path}.norm1"))?;
        let mut skip = x;
        match block.resample {
            Resample::None => {}
            Resample::Down => (skip, h) = (g.push1(AvgPool2x.into(), &[skip])?, g.push1(AvgPool2x.into(), &[h])?),
            Resample::Up => (skip, h) = (g.push1(Upsample2x.into(), &[skip])?, g.push1(Upsample2x.into(), &[h])?),
        }
        h = self.conv(g, h, &format!("{path}.conv1"), block.out_channels, 3, 1, [1; 4])?;
        let width = block.out_channels * if scale_shift { 2 } else { 1 };
        let te = self.linear(g, time, &format!("{path}.time_emb_proj"), width)?;
        let batch = g.shape(te)[0];
        let te = g.reshape(te, &[batch, 1, 1, width])?;
        h = if scale_shift {
            let h = self.norm(g, h, &format!("{path}.norm2"), c.norm_num_groups, false)?;
            let scale = g.push1(Slice { start: 0, len: block.out_channels }.into(), &[te])?;
            let shift = g.push1(Slice { start: block.out_channels, len: block.out_channels }.into(), &[te])?;
            let scale = g.affine(scale, 1.0, 1.0)?;
            let h = g.mul(h, scale)?;
            let h = g.add(h, shift)?;
            self.activation(g, h)?
        } else {
            let h = g.add(h, te)?;
            self.norm_act(g, h, &format!("{path}.norm2"))?
        };
        if in_channels != block.out_channels {
            skip = self.conv(g, skip, &format!("{path}.conv_shortcut"), block.out_channels, 1, 1, [0; 4])?;
        }
        h = self.conv(g, h, &format!("{path}.conv2"), block.out_channels, 3, 1, [1; 4])?;
        let sum = g.add(h, skip)?;
        let out = g.affine(sum, (1.0 / block.output_scale) as f32, 0.0)?;
        g.set_name(out, self.name(path));
        Ok(out)
    }

    /// Downsample2D: a strided 3x3 convolution; padding 0 means one zero row and column at the right and bottom, as DDPM had it.
    pub(super) fn downsample(&self, g: &mut Graph, x: ValueId, path: &str) -> Result<ValueId> {
        let channels = g.shape(x)[3];
        let p = self.config.downsample_padding;
        let pad = if p == 0 { [0, 0, 1, 1] } else { [p; 4] };
        self.conv(g, x, &format!("{path}.conv"), channels, 3, 2, pad)
    }

    /// Upsample2D: nearest doubling, then a 3x3 convolution.
    pub(super) fn upsample(&self, g: &mut Graph, x: ValueId, path: &str) -> Result<ValueId> {
        let channels = g.shape(x)[3];
        let up = g.push1(Upsample2x.into(), &[x])?;
        self.conv(g, up, &format!("{path}.conv"), channels, 3, 1, [1; 4])
    }
}

//! diffusers' `UNet2DModel` as a graph builder. The text follows the forward pass of the model line by line (research: diffusers
//! `models/unets/unet_2d.py`, `unet_2d_blocks.py`); tensor names are those of the file.

use super::config::{Activation, ClassEmbedding, Resampling, TimeScaleShift, UNetConfig};
use crate::error::{Error, Result};
use crate::graph::ops::{Cast, Concat, TimestepEmbedding, UnaryKind};
use crate::graph::{Graph, ValueId};
use crate::nn::blocks::attention::{Mixing, SelfAttention};
use crate::nn::blocks::resample::{downsample, upsample};
use crate::nn::blocks::resnet::{Block, Resample, Style};
use crate::nn::blocks::time::embedding;
use crate::nn::network::Inputs;
use crate::nn::scope::{Norm, Scope};
use crate::tensor::DType;

/// The prediction for x [B,H,W,C] at timesteps t f32 [B] and, where the model has classes, labels i32 [B].
pub(super) fn build(config: &UNetConfig, g: &mut Graph, scope: &Scope, at: &Inputs) -> Result<ValueId> {
    UNet { config, scope }.build(g, at.x, at.t, at.conditions.first().copied())
}

struct UNet<'a> {
    config: &'a UNetConfig,
    scope: &'a Scope<'a>,
}

impl UNet<'_> {
    fn build(&self, g: &mut Graph, x: ValueId, t: ValueId, labels: Option<ValueId>) -> Result<ValueId> {
        let c = self.config;
        self.check_image(g, x)?;
        // Every block begins with the activation of the embedding, which is the same for all.
        let time = self.time_embedding(g, t, labels)?;
        let time = g.unary(self.activation(), time)?;
        let x = if c.center_input_sample { g.affine(x, 2.0, -1.0)? } else { x };
        let mut h = self.scope.conv(g, x, "conv_in", c.block_out_channels[0], 3, 1, [1; 4])?;
        let mut skips = vec![h];
        for i in 0..c.block_out_channels.len() {
            h = self.down_block(g, h, time, i, &mut skips)?;
        }
        h = self.mid_block(g, h, time)?;
        for i in 0..c.block_out_channels.len() {
            h = self.up_block(g, h, time, i, &mut skips)?;
        }
        // conv_act is SiLU whatever act_fn says.
        let h = self.scope.norm(g, h, "conv_norm_out", self.norm(), true)?;
        let out = self.scope.conv(g, h, "conv_out", c.out_channels, 3, 1, [1; 4])?;
        g.set_name(out, self.scope.name("output"));
        Ok(out)
    }

    fn check_image(&self, g: &Graph, x: ValueId) -> Result<()> {
        let shape = g.shape(x);
        let divisor = self.config.size_multiple();
        if shape.len() != 4 || shape[3] != self.config.in_channels || !shape[1].is_multiple_of(divisor) || !shape[2].is_multiple_of(divisor) {
            return Err(Error::shape(format!(
                "the model takes images [N,H,W,{}] with H and W multiples of {divisor}, found {shape:?}",
                self.config.in_channels
            )));
        }
        Ok(())
    }

    fn time_embedding(&self, g: &mut Graph, t: ValueId, labels: Option<ValueId>) -> Result<ValueId> {
        let c = self.config;
        let width = c.time_embed_dim();
        let mut emb = self.sinusoid_mlp(g, t, "time_embedding", width)?;
        let class = match (c.class_embedding(), labels) {
            (ClassEmbedding::None, None) => return Ok(emb),
            (ClassEmbedding::None, Some(_)) => return Err(Error::invalid("class labels were given to a model without classes (num_class_embeds is null)")),
            (_, None) => return Err(Error::invalid("the model is class-conditional and needs class labels")),
            (ClassEmbedding::Table(classes), Some(labels)) => self.scope.embedding(g, labels, "class_embedding", classes, width)?,
            (ClassEmbedding::Timestep, Some(labels)) => {
                let labels = g.push1(Cast { to: DType::F32 }.into(), &[labels])?;
                self.sinusoid_mlp(g, labels, "class_embedding", width)?
            }
        };
        emb = g.add(emb, class)?;
        Ok(emb)
    }

    fn sinusoid_mlp(&self, g: &mut Graph, t: ValueId, path: &str, width: usize) -> Result<ValueId> {
        let c = self.config;
        let sinusoid = TimestepEmbedding { dim: c.block_out_channels[0], flip_sin_to_cos: c.flip_sin_to_cos, freq_shift: c.freq_shift };
        embedding(g, self.scope, t, path, sinusoid, width)
    }

    fn down_block(&self, g: &mut Graph, mut h: ValueId, time: ValueId, i: usize, skips: &mut Vec<ValueId>) -> Result<ValueId> {
        let c = self.config;
        let attention = c.down_block_types[i].attention();
        let path = format!("down_blocks.{i}");
        for j in 0..c.layers_per_block {
            h = self.resnet(g, h, time, &self.plain(&format!("{path}.resnets.{j}"), c.block_out_channels[i]))?;
            if let Some(mixing) = attention {
                h = self.attention(g, h, &format!("{path}.attentions.{j}"), (Some(c.norm_num_groups), mixing), 1.0)?;
            }
            skips.push(h);
        }
        if i + 1 < c.block_out_channels.len() {
            let path = format!("{path}.downsamplers.0");
            // Blocks without attention ignore downsample_type and always use the convolution.
            h = if attention.is_some() && c.downsample_type == Resampling::Resnet {
                self.resnet(g, h, time, &Block { resample: Resample::Down, ..self.plain(&path, c.block_out_channels[i]) })?
            } else {
                downsample(g, self.scope, h, &path, c.downsample_padding)?
            };
            skips.push(h);
        }
        self.scope.feature_of_all(&path, h)?;
        Ok(h)
    }

    fn mid_block(&self, g: &mut Graph, h: ValueId, time: ValueId) -> Result<ValueId> {
        let c = self.config;
        let Some(block) = c.mid_block_type else { return Ok(h) };
        let channels = g.shape(h)[3];
        let output_scale = c.mid_block_scale_factor;
        let resnet = |g: &mut Graph, h, j: usize| {
            let path = format!("mid_block.resnets.{j}");
            self.resnet(g, h, time, &Block { path: &path, out_channels: channels, resample: Resample::None, output_scale })
        };
        let mut h = resnet(g, h, 0)?;
        if c.add_attention {
            h = self.attention(g, h, "mid_block.attentions.0", (c.mid_attention_groups(), block.mixing()), output_scale)?;
        }
        let h = resnet(g, h, 1)?;
        self.scope.feature_of_all("mid_block", h)?;
        Ok(h)
    }

    fn up_block(&self, g: &mut Graph, mut h: ValueId, time: ValueId, i: usize, skips: &mut Vec<ValueId>) -> Result<ValueId> {
        let c = self.config;
        let attention = c.up_block_types[i].attention();
        let stages = c.block_out_channels.len();
        let channels = c.block_out_channels[stages - 1 - i];
        let path = format!("up_blocks.{i}");
        for j in 0..=c.layers_per_block {
            let skip = skips.pop().ok_or_else(|| Error::internal("skip connections ran out"))?;
            let joined = g.push1(Concat.into(), &[h, skip])?;
            h = self.resnet(g, joined, time, &self.plain(&format!("{path}.resnets.{j}"), channels))?;
            if let Some(mixing) = attention {
                h = self.attention(g, h, &format!("{path}.attentions.{j}"), (Some(c.norm_num_groups), mixing), 1.0)?;
            }
        }
        if i + 1 < stages {
            let path = format!("{path}.upsamplers.0");
            h = if attention.is_some() && c.upsample_type == Resampling::Resnet {
                self.resnet(g, h, time, &Block { resample: Resample::Up, ..self.plain(&path, channels) })?
            } else {
                upsample(g, self.scope, h, &path)?
            };
        }
        self.scope.feature_of_all(&path, h)?;
        Ok(h)
    }

    fn plain<'b>(&self, path: &'b str, out_channels: usize) -> Block<'b> {
        Block { path, out_channels, resample: Resample::None, output_scale: 1.0 }
    }

    fn norm(&self) -> Norm {
        Norm { groups: self.config.norm_num_groups, eps: self.config.norm_eps }
    }

    fn activation(&self) -> UnaryKind {
        match self.config.act_fn {
            Activation::Silu => UnaryKind::Silu,
            Activation::Gelu => UnaryKind::Gelu,
            Activation::Mish => UnaryKind::Mish,
            Activation::Relu => UnaryKind::Relu,
        }
    }

    fn resnet(&self, g: &mut Graph, x: ValueId, time: ValueId, block: &Block) -> Result<ValueId> {
        let scale_shift = self.config.resnet_time_scale_shift == TimeScaleShift::ScaleShift;
        Style { norm: self.norm(), activation: self.activation(), scale_shift }.resnet(g, self.scope, x, time, block)
    }

    /// `groups` of the norm before it; `None` leaves the norm out.
    fn attention(&self, g: &mut Graph, x: ValueId, path: &str, (groups, mixing): (Option<usize>, Mixing), rescale: f64) -> Result<ValueId> {
        let norm = groups.map(|groups| Norm { groups, ..self.norm() });
        SelfAttention { norm, heads: self.config.attention_heads(g.shape(x)[3]), rescale, mixing }.build(g, self.scope, x, path)
    }
}

//! A plain MLP-Mixer (Tolstikhin et al. 2021, equation 1) as a denoiser: pixels are tokens, and a block mixes all tokens of a channel, then all channels of a
//! token. It shows what a family needs, and is behind the cargo feature `mixer`.

use super::blocks::time::embedding;
use super::conditions::{Condition, ConditionKind};
use super::network::{Family, Inputs, Network, Signature, Unknown};
use super::scope::{Norm, Scope};
use crate::error::{Error, Result};
use crate::graph::ops::{TimestepEmbedding, UnaryKind};
use crate::graph::{Graph, ValueId};
use crate::io::DIFFUSERS_VERSION;
use crate::io::json::Fields;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The family.
pub static FAMILY: Family =
    Family { class: "MixerModel", read: |fields| Ok(Arc::new(Mixer::read(fields)?)), recognises: |config| config.get("tokens_mlp_dim").is_some() };

/// Its config.json.
#[derive(Debug)]
struct Mixer {
    /// Height and width of the images: there is a weight for each pair of pixels, so it takes no others.
    sample_size: usize,
    in_channels: usize,
    out_channels: usize,
    num_layers: usize,
    /// Channels of a token.
    hidden_size: usize,
    tokens_mlp_dim: usize,
    channels_mlp_dim: usize,
    num_class_embeds: Option<usize>,
    /// Numbers of the vector that each image comes with, if it does.
    vector_dim: Option<usize>,
    /// Tokens that each image comes with, and numbers of each: both or neither.
    num_context_tokens: Option<usize>,
    context_dim: Option<usize>,
    unknown: Unknown,
}

impl Mixer {
    fn read(mut f: Fields) -> Result<Self> {
        let [num_context_tokens, context_dim] = [f.opt_size("num_context_tokens", None, 1..=4096)?, f.opt_size("context_dim", None, 1..=4096)?];
        if num_context_tokens.is_some() != context_dim.is_some() {
            return Err(Error::invalid(format!("{}: num_context_tokens and context_dim go together, and one of them is null", f.file())));
        }
        Ok(Self {
            sample_size: f.size("sample_size", 8, 1..=64)?,
            in_channels: f.size("in_channels", 1, 1..=4096)?,
            out_channels: f.size("out_channels", 1, 1..=4096)?,
            num_layers: f.size("num_layers", 2, 1..=256)?,
            hidden_size: f.size("hidden_size", 32, 2..=4096)?,
            tokens_mlp_dim: f.size("tokens_mlp_dim", 64, 1..=4096)?,
            channels_mlp_dim: f.size("channels_mlp_dim", 64, 1..=4096)?,
            num_class_embeds: f.opt_size("num_class_embeds", None, 1..=1 << 24)?,
            vector_dim: f.opt_size("vector_dim", None, 1..=4096)?,
            num_context_tokens,
            context_dim,
            unknown: {
                let (other, warnings) = f.rest(&[], 64 << 10);
                Unknown { other, warnings }
            },
        })
    }

    fn block(&self, g: &mut Graph, scope: &Scope, x: ValueId, time: ValueId, path: &str) -> Result<ValueId> {
        let &[n, tokens, width] = g.shape(x) else { return Err(Error::internal("a mixer's state is [N,T,C]")) };
        let shift = scope.linear(g, time, &format!("{path}.time_emb_proj"), width)?;
        let shift = g.reshape(shift, &[n, 1, width])?;
        let x = g.add(x, shift)?;
        let h = layer_norm(g, scope, x, &format!("{path}.norm1"))?;
        let h = g.transpose(h)?;
        let h = mlp(g, scope, h, &format!("{path}.tokens"), self.tokens_mlp_dim, tokens)?;
        let h = g.transpose(h)?;
        let x = g.add(h, x)?;
        let h = layer_norm(g, scope, x, &format!("{path}.norm2"))?;
        let h = mlp(g, scope, h, &format!("{path}.channels"), self.channels_mlp_dim, width)?;
        let out = g.add(h, x)?;
        scope.feature(g, path, out)?;
        Ok(out)
    }
}

fn mlp(g: &mut Graph, scope: &Scope, x: ValueId, path: &str, hidden: usize, out: usize) -> Result<ValueId> {
    let h = scope.linear(g, x, &format!("{path}.linear_1"), hidden)?;
    let h = g.unary(UnaryKind::Gelu, h)?;
    scope.linear(g, h, &format!("{path}.linear_2"), out)
}

/// Tokens [N,T,W] as a sequence of other sizes, [N,tokens,width].
fn mix_context(g: &mut Graph, scope: &Scope, context: ValueId, [tokens, width]: [usize; 2]) -> Result<ValueId> {
    let h = scope.linear(g, context, "context_proj", width)?;
    let h = g.transpose(h)?;
    let h = scope.linear(g, h, "context_mix", tokens)?;
    g.transpose(h)
}

/// Over the channels of each token of x [N,T,C]: a group norm of one group over images of one pixel.
fn layer_norm(g: &mut Graph, scope: &Scope, x: ValueId, path: &str) -> Result<ValueId> {
    let shape = g.shape(x).to_vec();
    let rows = g.reshape(x, &[shape[0] * shape[1], 1, 1, shape[2]])?;
    let normed = scope.norm(g, rows, path, Norm { groups: 1, eps: 1e-6 }, false)?;
    g.reshape(normed, &shape)
}

impl Network for Mixer {
    fn family(&self) -> &'static Family {
        &FAMILY
    }

    fn signature(&self) -> Signature {
        let kinds = [
            ("labels", self.num_class_embeds.map(|classes| ConditionKind::Labels { classes })),
            ("vector", self.vector_dim.map(|width| ConditionKind::Vector { width })),
            ("tokens", self.num_context_tokens.zip(self.context_dim).map(|(length, width)| ConditionKind::Tokens { length, width })),
        ];
        let widths = [self.hidden_size, self.tokens_mlp_dim, self.channels_mlp_dim, self.in_channels, self.out_channels].map(Some);
        Signature {
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            size: Some([self.sample_size; 2]),
            size_multiple: self.sample_size,
            widest: widths.into_iter().chain([self.vector_dim, self.num_context_tokens, self.context_dim]).flatten().max().unwrap_or(1),
            conditions: kinds.into_iter().filter_map(|(name, kind)| Some(Condition { name: name.to_owned(), kind: kind? })).collect(),
        }
    }

    fn settings(&self) -> Map<String, Value> {
        let settings = json!({
            "_class_name": FAMILY.class, "_diffusers_version": DIFFUSERS_VERSION, "sample_size": self.sample_size, "in_channels": self.in_channels,
            "out_channels": self.out_channels, "num_layers": self.num_layers, "hidden_size": self.hidden_size, "tokens_mlp_dim": self.tokens_mlp_dim,
            "channels_mlp_dim": self.channels_mlp_dim, "num_class_embeds": self.num_class_embeds, "vector_dim": self.vector_dim,
            "num_context_tokens": self.num_context_tokens, "context_dim": self.context_dim
        });
        if let Value::Object(settings) = settings { settings } else { Map::new() }
    }

    fn unknown(&self) -> &Unknown {
        &self.unknown
    }

    fn outer_layers(&self) -> &'static [&'static str] {
        &["proj_in", "proj_out", "vector_embedding", "context_proj"]
    }

    fn build(&self, g: &mut Graph, scope: &Scope, at: &Inputs) -> Result<ValueId> {
        let &[n, h, w, c] = g.shape(at.x) else { return Err(Error::shape("the model takes images [N,H,W,C]")) };
        if [h, w, c] != [self.sample_size, self.sample_size, self.in_channels] {
            let (side, channels) = (self.sample_size, self.in_channels);
            return Err(Error::shape(format!("the model takes images of {side}x{side} with {channels} channels and no others, found {h}x{w} with {c}")));
        }
        let width = self.hidden_size;
        let sinusoid = TimestepEmbedding { dim: width, flip_sin_to_cos: true, freq_shift: 0.0 };
        let mut time = embedding(g, scope, at.t, "time_embedding", sinusoid, width)?;
        let conditions = self.signature().conditions;
        let given = |name: &str| conditions.iter().zip(at.conditions).find(|(c, _)| c.name == name).map(|(_, value)| *value);
        if let (Some(classes), Some(labels)) = (self.num_class_embeds, given("labels")) {
            let class = scope.embedding(g, labels, "class_embedding", classes, width)?;
            time = g.add(time, class)?;
        }
        if let Some(vector) = given("vector") {
            let vector = scope.linear(g, vector, "vector_embedding", width)?;
            time = g.add(time, vector)?;
        }
        let time = g.unary(UnaryKind::Silu, time)?;
        let image = scope.pointwise(g, at.x, "proj_in", width)?;
        let mut x = g.reshape(image, &[n, h * w, width])?;
        if let Some(tokens) = given("tokens") {
            let context = mix_context(g, scope, tokens, [h * w, width])?;
            x = g.add(x, context)?;
        }
        for i in 0..self.num_layers {
            x = self.block(g, scope, x, time, &format!("blocks.{i}"))?;
        }
        let x = layer_norm(g, scope, x, "norm_out")?;
        let out = scope.linear(g, x, "proj_out", self.out_channels)?;
        let out = g.reshape(out, &[n, h, w, self.out_channels])?;
        g.set_name(out, scope.name("output"));
        Ok(out)
    }
}

//! `config.json` of diffusers' `UNet2DModel`: every key with its default, and a refusal for what this version cannot do.

use crate::error::Result;
use crate::io::DIFFUSERS_VERSION;
use crate::io::json::{Fields, MAX_LIST, float, number};
use crate::names::{Named, named_enum};
use crate::nn::blocks::attention::Mixing;
use crate::nn::network::{Unknown, names};
use serde_json::{Map, Value, json};

named_enum! {
    /// A block on the way down.
    DownBlock {
        /// Resnets only.
        Plain = "DownBlock2D",
        /// An attention layer after every resnet.
        Attention = "AttnDownBlock2D",
        /// A layer of linear attention after every resnet; not of diffusers, which refuses the name.
        Linear = "LinearAttnDownBlock2D",
    }
}

named_enum! {
    /// A block on the way up.
    UpBlock {
        /// Resnets only.
        Plain = "UpBlock2D",
        /// An attention layer after every resnet.
        Attention = "AttnUpBlock2D",
        /// A layer of linear attention after every resnet; not of diffusers, which refuses the name.
        Linear = "LinearAttnUpBlock2D",
    }
}

/// What the kinds of blocks on both ways have in common.
macro_rules! attending {
    ($($block:ident),*) => {
        $(impl $block {
            /// The attention that follows every resnet.
            pub fn attention(self) -> Option<Mixing> {
                match self {
                    Self::Plain => None,
                    Self::Attention => Some(Mixing::Softmax),
                    Self::Linear => Some(Mixing::Linear),
                }
            }

            /// The same with linear attention where it has any.
            pub fn linear(self) -> Self {
                self.attention().map_or(self, |_| Self::Linear)
            }
        })*
    };
}

attending!(DownBlock, UpBlock);

named_enum! {
    /// The block at the lowest resolution.
    MidBlock {
        /// Resnet, attention (unless `add_attention` is false), resnet.
        UNetMid = "UNetMidBlock2D",
        /// The same with linear attention; not of diffusers, which refuses the name.
        Linear = "UNetMidBlock2DLinearAttn",
    }
}

impl MidBlock {
    /// How its attention mixes tokens.
    pub fn mixing(self) -> Mixing {
        match self {
            Self::UNetMid => Mixing::Softmax,
            Self::Linear => Mixing::Linear,
        }
    }
}

named_enum! {
    /// How attention blocks change the resolution. Blocks without attention always use a convolution, whatever the config says.
    Resampling {
        /// A convolution with stride 2, or nearest-neighbour enlargement and a convolution.
        Conv = "conv",
        /// A resnet that resamples inside.
        Resnet = "resnet",
    }
}

named_enum! {
    /// The activation in the resnets. The time embedding and the output always use SiLU.
    Activation {
        /// x·sigmoid(x).
        Silu = "silu" | "swish",
        /// x·Φ(x), exact.
        Gelu = "gelu",
        /// x·tanh(softplus(x)).
        Mish = "mish",
        /// max(x, 0).
        Relu = "relu",
    }
}

named_enum! {
    /// How the time embedding enters a resnet.
    TimeScaleShift {
        /// Added before the second norm.
        Default = "default",
        /// Scales and shifts after the second norm.
        ScaleShift = "scale_shift",
    }
}

named_enum! {
    /// A class embedding other than a table.
    ClassEmbedType {
        /// The label goes through the sinusoid and an MLP of its own.
        Timestep = "timestep",
    }
}

named_enum! {
    /// How the timestep becomes a vector.
    TimeEmbeddingType {
        /// Sines and cosines.
        Positional = "positional",
    }
}

/// What the model does with class labels: the meaning of `class_embed_type` and `num_class_embeds` together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassEmbedding {
    /// There are none.
    None,
    /// A table with this many rows, `class_embedding.weight`.
    Table(usize),
    /// The sinusoid and an MLP, `class_embedding.linear_1` and `linear_2`.
    Timestep,
}

/// The largest channel count, group count, image side or embedding width.
pub const MAX_CHANNELS: usize = 65536;
/// The most blocks on each way.
pub const MAX_BLOCKS: usize = 16;
/// The most resnets in a block.
pub const MAX_LAYERS: usize = 64;
/// Its `_class_name`.
pub(super) const CLASS: &str = "UNet2DModel";

/// The configuration of a `UNet2DModel`, field by field as diffusers names them.
#[derive(Clone, Debug, PartialEq)]
pub struct UNetConfig {
    /// Height and width of the images the model was made for.
    pub sample_size: Option<(usize, usize)>,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Whether the input is mapped from [0, 1] to [-1, 1] first.
    pub center_input_sample: bool,
    /// How the timestep becomes a vector.
    pub time_embedding_type: TimeEmbeddingType,
    /// Width of the time embedding; see [`UNetConfig::time_embed_dim`].
    pub time_embedding_dim: Option<usize>,
    /// Shift in the sinusoid's frequencies.
    pub freq_shift: f64,
    /// Whether the cosines come first.
    pub flip_sin_to_cos: bool,
    /// Blocks on the way down, highest resolution first.
    pub down_block_types: Vec<DownBlock>,
    /// The block at the lowest resolution, if there is one.
    pub mid_block_type: Option<MidBlock>,
    /// Blocks on the way up, lowest resolution first.
    pub up_block_types: Vec<UpBlock>,
    /// Channels of each down block; the up blocks have them in reverse.
    pub block_out_channels: Vec<usize>,
    /// Resnets in a down block; up blocks have one more.
    pub layers_per_block: usize,
    /// Divides the outputs of the mid block's layers.
    pub mid_block_scale_factor: f64,
    /// Padding of the downsampling convolution; 0 pads right and bottom only.
    pub downsample_padding: usize,
    /// How attention blocks go down.
    pub downsample_type: Resampling,
    /// How attention blocks go up.
    pub upsample_type: Resampling,
    /// Dropout probability in the resnets while training.
    pub dropout: f64,
    /// The resnets' activation.
    pub act_fn: Activation,
    /// Channels of one attention head; none means one head over all channels.
    pub attention_head_dim: Option<usize>,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Groups of the mid attention's norm; see [`UNetConfig::mid_attention_groups`].
    pub attn_norm_num_groups: Option<usize>,
    /// Epsilon of every group norm.
    pub norm_eps: f64,
    /// How the time embedding enters a resnet.
    pub resnet_time_scale_shift: TimeScaleShift,
    /// Whether the mid block has attention.
    pub add_attention: bool,
    /// A class embedding other than a table.
    pub class_embed_type: Option<ClassEmbedType>,
    /// Rows of the class table.
    pub num_class_embeds: Option<usize>,
    /// Kept for the file; only learned time embeddings would use it.
    pub num_train_timesteps: Option<usize>,
    /// What else the file said; of its unknown keys at most `MAX_OTHER` bytes are kept.
    pub unknown: Unknown,
}

/// The most bytes of unknown keys and values that a config keeps.
pub const MAX_OTHER: usize = 64 << 10;

impl Default for UNetConfig {
    /// What diffusers assumes for keys that are missing.
    fn default() -> Self {
        use {DownBlock as D, UpBlock as U};
        Self {
            sample_size: None,
            in_channels: 3,
            out_channels: 3,
            center_input_sample: false,
            time_embedding_type: TimeEmbeddingType::Positional,
            time_embedding_dim: None,
            freq_shift: 0.0,
            flip_sin_to_cos: true,
            down_block_types: vec![D::Plain, D::Attention, D::Attention, D::Attention],
            mid_block_type: Some(MidBlock::UNetMid),
            up_block_types: vec![U::Attention, U::Attention, U::Attention, U::Plain],
            block_out_channels: vec![224, 448, 672, 896],
            layers_per_block: 2,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            downsample_type: Resampling::Conv,
            upsample_type: Resampling::Conv,
            dropout: 0.0,
            act_fn: Activation::Silu,
            attention_head_dim: Some(8),
            norm_num_groups: 32,
            attn_norm_num_groups: None,
            norm_eps: 1e-5,
            resnet_time_scale_shift: TimeScaleShift::Default,
            add_attention: true,
            class_embed_type: None,
            num_class_embeds: None,
            num_train_timesteps: None,
            unknown: Unknown::default(),
        }
    }
}

impl UNetConfig {
    /// Parses and validates a `config.json`; `file` is its name in errors.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let mut f = Fields::parse(text, file)?;
        f.take("_class_name");
        f.take("_diffusers_version");
        Self::from_fields(f)
    }

    /// The same from all but the class and version.
    pub(super) fn from_fields(mut f: Fields) -> Result<Self> {
        let config = Self::read(&mut f)?;
        config.validate().map_err(|e| e.context(f.file()))?;
        let (other, warnings) = f.rest(&[], MAX_OTHER);
        Ok(Self { unknown: Unknown { other, warnings }, ..config })
    }

    fn read(f: &mut Fields) -> Result<Self> {
        let d = Self::default();
        Ok(Self {
            sample_size: read_sample_size(f)?,
            in_channels: f.size("in_channels", d.in_channels, 1..=MAX_CHANNELS)?,
            out_channels: f.size("out_channels", d.out_channels, 1..=MAX_CHANNELS)?,
            center_input_sample: f.bool("center_input_sample", d.center_input_sample)?,
            time_embedding_type: f.choice("time_embedding_type", d.time_embedding_type)?,
            // Zero is false in `time_embedding_dim or 4 * channels`.
            time_embedding_dim: f.opt_size("time_embedding_dim", None, 0..=MAX_CHANNELS * 4)?.filter(|n| *n > 0),
            freq_shift: f.finite("freq_shift", d.freq_shift, "a finite number", |_| true)?,
            flip_sin_to_cos: f.bool("flip_sin_to_cos", d.flip_sin_to_cos)?,
            down_block_types: read_blocks(f, "down_block_types", d.down_block_types)?,
            mid_block_type: f.opt_choice("mid_block_type", d.mid_block_type)?,
            up_block_types: read_blocks(f, "up_block_types", d.up_block_types)?,
            block_out_channels: f.sizes("block_out_channels", &d.block_out_channels, 1..=MAX_CHANNELS)?,
            layers_per_block: f.size("layers_per_block", d.layers_per_block, 1..=MAX_LAYERS)?,
            mid_block_scale_factor: f.finite("mid_block_scale_factor", d.mid_block_scale_factor, "a finite number", |_| true)?,
            downsample_padding: f.size("downsample_padding", d.downsample_padding, 0..=MAX_CHANNELS)?,
            downsample_type: f.opt_choice("downsample_type", Some(d.downsample_type))?.unwrap_or(Resampling::Conv),
            upsample_type: f.opt_choice("upsample_type", Some(d.upsample_type))?.unwrap_or(Resampling::Conv),
            dropout: f.finite("dropout", d.dropout, "a finite number", |_| true)?,
            act_fn: read_activation(f, d.act_fn)?,
            attention_head_dim: f.opt_size("attention_head_dim", d.attention_head_dim, 1..=MAX_CHANNELS)?,
            norm_num_groups: f.size("norm_num_groups", d.norm_num_groups, 1..=MAX_CHANNELS)?,
            attn_norm_num_groups: f.opt_size("attn_norm_num_groups", None, 1..=MAX_CHANNELS)?,
            norm_eps: f.finite("norm_eps", d.norm_eps, "a finite number", |_| true)?,
            resnet_time_scale_shift: f.choice("resnet_time_scale_shift", d.resnet_time_scale_shift)?,
            add_attention: f.bool("add_attention", d.add_attention)?,
            class_embed_type: f.opt_choice("class_embed_type", None)?,
            num_class_embeds: f.opt_size("num_class_embeds", None, 1..=1 << 24)?,
            num_train_timesteps: f.opt_size("num_train_timesteps", None, 1..=1 << 24)?,
            unknown: Unknown::default(),
        })
    }

    /// Width of the time embedding.
    pub fn time_embed_dim(&self) -> usize {
        self.time_embedding_dim.unwrap_or_else(|| 4 * self.block_out_channels.first().copied().unwrap_or(0))
    }

    /// What the model does with class labels.
    pub fn class_embedding(&self) -> ClassEmbedding {
        match (self.class_embed_type, self.num_class_embeds) {
            (Some(ClassEmbedType::Timestep), _) => ClassEmbedding::Timestep,
            (None, Some(rows)) => ClassEmbedding::Table(rows),
            (None, None) => ClassEmbedding::None,
        }
    }

    /// Whether the mid block has attention.
    pub fn mid_attention(&self) -> bool {
        self.mid_block_type.is_some() && self.add_attention
    }

    /// The same with linear attention wherever there is attention.
    pub fn with_linear_attention(&self) -> Self {
        Self {
            down_block_types: self.down_block_types.iter().map(|block| block.linear()).collect(),
            mid_block_type: self.mid_block_type.map(|block| if self.add_attention { MidBlock::Linear } else { block }),
            up_block_types: self.up_block_types.iter().map(|block| block.linear()).collect(),
            ..self.clone()
        }
    }

    /// Groups of the mid attention's norm; `None` when it has no norm, which is so with scale_shift and no number given.
    pub fn mid_attention_groups(&self) -> Option<usize> {
        let default = (self.resnet_time_scale_shift == TimeScaleShift::Default).then_some(self.norm_num_groups);
        self.attn_norm_num_groups.or(default)
    }

    /// Number of heads and channels of each for an attention layer over so many channels. Their product may be less than `channels`.
    pub fn attention_heads(&self, channels: usize) -> (usize, usize) {
        let dim = self.attention_head_dim.unwrap_or(channels).max(1);
        (channels / dim, dim)
    }

    /// A height or width must be a multiple of this.
    pub fn size_multiple(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1).min(MAX_BLOCKS)
    }

    /// Every key of a `config.json` that diffusers opens.
    pub(super) fn to_settings(&self) -> Map<String, Value> {
        let mut map = Map::new();
        let mut put = |key: &str, value: Value| drop(map.insert(key.to_string(), value));
        put("_class_name", json!(CLASS));
        put("_diffusers_version", json!(DIFFUSERS_VERSION));
        put("sample_size", self.sample_size.map_or(Value::Null, |(h, w)| if h == w { json!(h) } else { json!([h, w]) }));
        put("in_channels", json!(self.in_channels));
        put("out_channels", json!(self.out_channels));
        put("center_input_sample", json!(self.center_input_sample));
        put("time_embedding_type", json!(self.time_embedding_type.name()));
        put("time_embedding_dim", json!(self.time_embedding_dim));
        put("freq_shift", number(self.freq_shift));
        put("flip_sin_to_cos", json!(self.flip_sin_to_cos));
        put("down_block_types", names(&self.down_block_types));
        put("mid_block_type", json!(self.mid_block_type.map(Named::name)));
        put("up_block_types", names(&self.up_block_types));
        put("block_out_channels", json!(self.block_out_channels));
        put("layers_per_block", json!(self.layers_per_block));
        put("mid_block_scale_factor", number(self.mid_block_scale_factor));
        put("downsample_padding", json!(self.downsample_padding));
        put("downsample_type", json!(self.downsample_type.name()));
        put("upsample_type", json!(self.upsample_type.name()));
        put("dropout", float(self.dropout));
        put("act_fn", json!(self.act_fn.name()));
        put("attention_head_dim", json!(self.attention_head_dim));
        put("norm_num_groups", json!(self.norm_num_groups));
        put("attn_norm_num_groups", json!(self.attn_norm_num_groups));
        put("norm_eps", float(self.norm_eps));
        put("resnet_time_scale_shift", json!(self.resnet_time_scale_shift.name()));
        put("add_attention", json!(self.add_attention));
        put("class_embed_type", json!(self.class_embed_type.map(Named::name)));
        put("num_class_embeds", json!(self.num_class_embeds));
        put("num_train_timesteps", json!(self.num_train_timesteps));
        map
    }
}

fn read_sample_size(f: &mut Fields) -> Result<Option<(usize, usize)>> {
    let side = |f: &Fields, value: &Value| f.to_size("sample_size", value, 1..=MAX_CHANNELS);
    match f.take("sample_size") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(sides)) if sides.len() == 2 => Ok(Some((side(f, &sides[0])?, side(f, &sides[1])?))),
        Some(value @ Value::Number(_)) => side(f, &value).map(|s| Some((s, s))),
        Some(other) => Err(f.invalid("sample_size", "a number, [height, width] or null", &other)),
    }
}

fn read_blocks<E: Named>(f: &mut Fields, key: &str, default: Vec<E>) -> Result<Vec<E>> {
    let value = match f.take(key) {
        None => return Ok(default),
        Some(value) => value,
    };
    let list = value.as_array().ok_or_else(|| f.invalid(key, "a list of block types", &value))?;
    let read = |item: &Value| {
        let name = item.as_str().ok_or_else(|| f.invalid(key, "a block type", item))?;
        // Very old files wrote "UNetResDownBlock2D".
        f.to_choice(key, name.strip_prefix("UNetRes").unwrap_or(name))
    };
    f.list(key, list, MAX_LIST, read)
}

/// Diffusers looks the name up in small letters.
fn read_activation(f: &mut Fields, default: Activation) -> Result<Activation> {
    match f.opt_text("act_fn", Some(default.name()))? {
        Some(name) => f.to_choice("act_fn", &name.to_lowercase()),
        None => Err(f.invalid("act_fn", "the name of an activation", &Value::Null)),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;

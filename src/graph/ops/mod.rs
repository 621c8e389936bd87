//! One file an op family: attributes, shape rule, gradient rule, meaning in f64.

mod attention;
mod combine;
mod conv2d;
mod elementwise;
mod fused_conv2d;
mod fused_group_norm;
mod gather;
mod group_norm;
mod moments;
mod muon;
mod optimizer;
mod quantize;
mod random;
mod reduce;
mod resample;
mod shape;
mod sources;
mod timestep_embedding;
mod transpose;

pub use attention::{Attention, AttentionGrad};
pub use combine::{Combine, DynamicThreshold};
pub use conv2d::{Conv2d, Conv2dInputGrad, Conv2dWeightGrad, ConvGeometry, PackConv, PackFor};
pub use elementwise::{Affine, Binary, BinaryKind, Cast, Unary, UnaryGrad, UnaryKind};
pub use fused_conv2d::{ConvOperands, FusedConv2d, MOST_PRODUCTS, NormByMoments, NormOperands, NumberOperands};
pub use fused_group_norm::FusedGroupNorm;
pub use gather::{Gather, GatherGrad, IntAffine};
pub use group_norm::{GroupNorm, GroupNormGrad};
pub use muon::{Descend, Momentum, Orthogonalize, matrix};
pub use optimizer::{AdamW, Assign, ClipScale, Ema, GlobalNorm};
pub use quantize::{Codes, Dequantize, FakeQuantize, FakeQuantizeGrad, Quantize};
pub use random::{RandomInt, RandomNormal};
pub use reduce::ReduceSum;
pub use resample::{AvgPool2x, Upsample2x};
pub use shape::{Concat, Pad, Reshape, Slice, StopGradient};
pub use timestep_embedding::TimestepEmbedding;
pub use transpose::Transpose;

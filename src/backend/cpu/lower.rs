//! From a node to its kernel: the one place where the CPU backend meets the op table.

use super::kernel::CpuKernel;
use super::target::Target;
use super::{
    attention, bf16_conv2d, combine, conv2d, elementwise, gather, group_norm, head_product, muon, optimizer, quantize, quantized_conv2d, random, reduce,
    resample, shape, timestep_embedding, transpose,
};
use crate::error::{Error, Result};
use crate::graph::ops::PackFor;
use crate::graph::{Graph, Node, Op, OpDef, ValueId};
use crate::tensor::DType;

/// The elements of each value.
fn sizes(graph: &Graph, values: &[ValueId]) -> impl Iterator<Item = usize> {
    values.iter().map(|v| graph.value(*v).ty.numel())
}

/// Builds the kernel of a node.
pub(super) fn lower(graph: &Graph, node: &Node, target: Target) -> Result<Box<dyn CpuKernel>> {
    let isa = target.isa;
    // What is packed is the kernels' own.
    if !matches!(node.op, Op::PackConv(_)) && node.outputs.iter().any(|o| matches!(graph.value(*o).ty.dtype, DType::F16 | DType::Bf16)) {
        return Err(Error::unsupported("the CPU backend keeps values in f32: values in half precision need a CUDA device"));
    }
    let ty = |i: usize| &graph.value(node.inputs[i]).ty;
    let types = || node.inputs.iter().map(|i| &graph.value(*i).ty).collect::<Vec<_>>();
    let out = |i: usize| &graph.value(node.outputs[i]).ty;
    Ok(match &node.op {
        Op::Conv2d(op) => conv2d::forward(&(*op).into(), &types(), isa)?,
        Op::FusedConv2d(op) => match op.quantized {
            Some(codes) => quantized_conv2d::forward(op, codes, &types(), target)?,
            None if op.bf16 => bf16_conv2d::forward(op, &types(), target)?,
            None => conv2d::forward(op, &types(), isa)?,
        },
        Op::Conv2dInputGrad(op) if op.bf16 => bf16_conv2d::input_grad(op, ty(0), target)?,
        Op::Conv2dInputGrad(op) => conv2d::input_grad(op, ty(0), isa)?,
        Op::Conv2dWeightGrad(op) if op.bf16 => bf16_conv2d::weight_grad(op, &types(), target)?,
        Op::Conv2dWeightGrad(op) => conv2d::weight_grad(op, ty(0), ty(1), isa)?,
        Op::PackConv(op) => match op.purpose {
            _ if op.packed.ty.dtype == DType::Bf16 => bf16_conv2d::pack(op, ty(0), target)?,
            PackFor::Numbers(most) => quantized_conv2d::pack(op, most, ty(0))?,
            PackFor::Forward | PackFor::InputGrad => conv2d::pack(op, ty(0), isa)?,
        },
        Op::GroupNorm(op) => group_norm::forward(&(*op).into(), &types())?,
        Op::FusedGroupNorm(op) => group_norm::forward(op, &types())?,
        Op::GroupNormGrad(op) => group_norm::grad(op, ty(0)),
        Op::Attention(op) => attention::forward(op, ty(0), target),
        Op::AttentionGrad(op) => attention::grad(op, ty(0), target),
        Op::HeadProduct(op) => head_product::head_product(op, ty(0), ty(1), target)?,
        Op::Unary(op) => elementwise::unary(op.kind),
        Op::UnaryGrad(op) => elementwise::unary_grad(op.kind),
        Op::Affine(op) => elementwise::affine(op),
        Op::Binary(op) => elementwise::binary(op.kind, ty(0), ty(1), out(0)),
        Op::Cast(_) => elementwise::cast(ty(0).dtype, out(0).dtype)?,
        Op::Combine(op) => combine::combine(op, ty(0), ty(1)),
        Op::DynamicThreshold(op) => combine::dynamic_threshold(op, ty(0)),
        Op::Upsample2x(_) => resample::upsample(ty(0)),
        Op::AvgPool2x(_) => resample::avg_pool(ty(0)),
        Op::Concat(_) => shape::concat(&types()),
        Op::Slice(op) => shape::slice(op, ty(0)),
        Op::Pad(op) => shape::pad(op, ty(0)),
        Op::Transpose(_) => transpose::transpose(ty(0)),
        Op::ReduceSum(op) => reduce::reduce_sum(op, ty(0))?,
        Op::Quantize(op) => quantize::quantize(op, ty(0))?,
        Op::Dequantize(op) => quantize::dequantize(op, ty(0))?,
        Op::FakeQuantize(op) => quantize::fake_quantize(op, ty(0))?,
        Op::FakeQuantizeGrad(op) => quantize::fake_quantize_grad(op, ty(0))?,
        Op::TimestepEmbedding(op) => timestep_embedding::timestep_embedding(op),
        Op::Gather(_) => gather::gather(ty(0))?,
        Op::GatherGrad(op) => gather::gather_grad(op, ty(0)),
        Op::RandomNormal(op) => random::normal(op),
        Op::RandomInt(op) => random::integers(op),
        Op::IntAffine(op) => gather::int_affine(op),
        Op::GlobalNorm(_) => optimizer::global_norm(sizes(graph, &node.inputs))?,
        Op::ClipScale(op) => optimizer::clip_scale(op),
        Op::AdamW(op) => optimizer::adamw(op, sizes(graph, &node.outputs))?,
        Op::Momentum(op) => muon::momentum(op, sizes(graph, &node.outputs))?,
        Op::Orthogonalize(_) => muon::orthogonalize(&types(), isa)?,
        Op::Descend(op) => muon::descend(op, &types())?,
        Op::Ema(op) => optimizer::ema(op, sizes(graph, &node.outputs))?,
        Op::Assign(_) => shape::assign(out(0)),
        Op::Reshape(_) | Op::StopGradient(_) => return Err(Error::internal(format!("{} is a view and has no kernel", node.op.name()))),
    })
}

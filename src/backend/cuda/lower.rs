//! From a node to its launches: the one place where the CUDA backend meets the op table.

use super::launch::Lowered;
use super::site::Site;
use super::target::{BF16_CAPABILITY, Target};
use super::{
    attention, combine, conv2d, elementwise, gather, group_norm, head_product, muon, optimizer, quantize, quantized_conv2d, random, reduce, resample, shape,
    timestep_embedding, transpose,
};
use crate::error::{Error, Result};
use crate::graph::ops::{Cast, Conv2dInputGrad, Conv2dWeightGrad, FusedConv2d, PackFor};
use crate::graph::{Graph, Node, Op, OpDef};
use crate::tensor::DType;

/// The launches of a node.
pub(super) fn lower(graph: &Graph, node: &Node, target: Target) -> Result<Lowered> {
    let types = |ids: &[crate::graph::ValueId]| ids.iter().map(|i| &graph.value(*i).ty).collect::<Vec<_>>();
    let site = Site { inputs: types(&node.inputs), outputs: types(&node.outputs), target };
    check_types(&node.op, &site)?;
    lower_op(&node.op, &site).map_err(|e| e.context(node.op.name()))
}

/// Refuses what the GPU has no instructions for. To widen bf16, as it is stored in some files, takes none.
fn check_types(op: &Op, site: &Site) -> Result<()> {
    if matches!(op, Op::Cast(Cast { to: DType::F32 })) {
        return Ok(());
    }
    let bf16 = site.inputs.iter().chain(&site.outputs).any(|ty| ty.dtype == DType::Bf16);
    if bf16 && site.target.capability < BF16_CAPABILITY {
        let found = site.target.capability;
        return Err(Error::unsupported(format!("bf16 needs a GPU of compute capability 8.0; this one has {}.{}: use f16", found / 10, found % 10)));
    }
    Ok(())
}

fn lower_op(op: &Op, site: &Site) -> Result<Lowered> {
    match op {
        Op::FusedConv2d(FusedConv2d { bf16: true, .. })
        | Op::Conv2dInputGrad(Conv2dInputGrad { bf16: true, .. })
        | Op::Conv2dWeightGrad(Conv2dWeightGrad { bf16: true, .. }) => {
            Err(Error::unsupported(format!("{} of f32 whose factors are rounded: the CUDA backend narrows activations", op.name())))
        }
        Op::Unary(op) => elementwise::unary(op.kind, site),
        Op::UnaryGrad(op) => elementwise::unary_grad(op.kind, site),
        Op::Affine(op) => elementwise::affine(op, site),
        Op::Binary(op) => elementwise::binary(op.kind, site),
        Op::Cast(_) => elementwise::cast(site),
        Op::Conv2d(op) => conv2d::conv2d(&(*op).into(), site),
        Op::FusedConv2d(op) => op.quantized.map_or_else(|| conv2d::conv2d(op, site), |codes| quantized_conv2d::forward(op, codes, site)),
        Op::Conv2dInputGrad(op) => conv2d::input_grad(op, site),
        Op::Conv2dWeightGrad(op) => conv2d::weight_grad(op, site),
        Op::PackConv(op) if matches!(op.purpose, PackFor::Numbers(_)) => quantized_conv2d::pack(op, site),
        Op::PackConv(op) => conv2d::pack_conv(op, site),
        Op::Combine(op) => combine::combine(op, site),
        Op::DynamicThreshold(op) => combine::dynamic_threshold(op, site),
        Op::Upsample2x(_) => resample::upsample(site),
        Op::AvgPool2x(_) => resample::avg_pool(site),
        Op::Concat(_) => shape::concat(site),
        Op::Slice(op) => shape::slice(op, site),
        Op::Pad(op) => shape::pad(op, site),
        Op::Transpose(_) => transpose::transpose(site),
        Op::ReduceSum(op) => reduce::reduce_sum(op, site),
        Op::Quantize(op) => quantize::quantize(op, site),
        Op::Dequantize(op) => quantize::dequantize(op, site),
        Op::FakeQuantize(op) => quantize::fake_quantize(op, site),
        Op::FakeQuantizeGrad(op) => quantize::fake_quantize_grad(op, site),
        Op::TimestepEmbedding(op) => timestep_embedding::timestep_embedding(op, site),
        Op::Gather(_) => gather::gather(site),
        Op::GatherGrad(op) => gather::gather_grad(op, site),
        Op::RandomNormal(op) => random::normal(op, site),
        Op::RandomInt(op) => random::integers(op),
        Op::IntAffine(op) => gather::int_affine(op, site),
        Op::GlobalNorm(_) => optimizer::global_norm(site),
        Op::ClipScale(op) => optimizer::clip_scale(op, site),
        Op::AdamW(op) => optimizer::adamw(op, site),
        Op::Momentum(op) => muon::momentum(op, site),
        Op::Orthogonalize(_) => muon::orthogonalize(site),
        Op::Descend(op) => muon::descend(op, site),
        Op::Ema(op) => optimizer::ema(op, site),
        Op::Assign(_) => shape::assign(site),
        Op::GroupNorm(op) => group_norm::forward(&(*op).into(), site),
        Op::FusedGroupNorm(op) => group_norm::forward(op, site),
        Op::GroupNormGrad(op) => group_norm::grad(op, site),
        Op::Attention(op) => attention::forward(op, site),
        Op::AttentionGrad(op) => attention::grad(op, site),
        Op::HeadProduct(op) => head_product::head_product(op, site),
        Op::Reshape(_) | Op::StopGradient(_) => Err(Error::internal(format!("{} is a view and has no kernel", op.name()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::TensorType;

    /// Files of bf16 open for every GPU; to compute in it takes one that can.
    #[test]
    fn every_gpu_widens_bf16() {
        let mut g = Graph::new();
        let stored = g.state("w", TensorType::new(DType::Bf16, &[5])).expect("a state");
        let wide = g.cast(stored, DType::F32).expect("a cast");
        g.cast(wide, DType::Bf16).expect("a cast");
        for (capability, narrows) in [(75, false), (80, true)] {
            let lowered = |at: usize| lower(&g, &g.nodes()[at], Target { capability, multiprocessors: 1 });
            assert!(lowered(0).is_ok(), "{capability}");
            let error = lowered(1).err().map(|e| e.message);
            assert_eq!(error.as_ref().is_none_or(|message| !message.contains("bf16 needs")), narrows, "{capability}: {error:?}");
        }
    }
}

//! A program of the graph in ONNX's operators, as a backend lowers it to kernels: one file an op, of the op's name.

use super::lowering::Lowering;
use super::writer::WHAT;
use super::{attention, combine, conv2d, elementwise, gather, group_norm, head_product, quantize, reduce, resample, shape, timestep_embedding, transpose};
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::graph::{Node, Op, OpDef, ValueId};
use crate::memory;

/// Appends the nodes that `outputs` need.
pub(super) fn lower(l: &mut Lowering, outputs: &[ValueId], stop: Stop) -> Result<()> {
    let mut needed = memory::filled(false, l.graph.values().len(), WHAT)?;
    outputs.iter().for_each(|v| needed[v.0 as usize] = true);
    for node in l.graph.nodes().iter().rev() {
        if node.outputs.iter().any(|v| needed[v.0 as usize]) {
            node.inputs.iter().for_each(|v| needed[v.0 as usize] = true);
        }
    }
    for node in l.graph.nodes() {
        let used = node.outputs.iter().any(|v| needed[v.0 as usize] && !l.is_constant(*v));
        if !used {
            continue;
        }
        stop.check()?;
        if let Some(beyond) = node.outputs.iter().skip(1).find(|v| needed[v.0 as usize]) {
            let name = &l.graph.value(*beyond).name;
            return Err(Error::unsupported(format!("'{name}', a further result of {}, has no form in ONNX", node.op.name())));
        }
        node_of(l, node).map_err(|e| e.context(format!("'{}'", l.graph.value(node.outputs[0]).name)))?;
    }
    Ok(())
}

/// One op. Exhaustive: an op that nobody thought about must not compile.
fn node_of(l: &mut Lowering, node: &Node) -> Result<()> {
    let y = node.outputs[0];
    match &node.op {
        Op::Conv2d(op) => conv2d::lower(l, op, &node.inputs, y),
        Op::GroupNorm(op) => group_norm::lower(l, op, &node.inputs, y),
        Op::Attention(op) => attention::lower(l, op, &node.inputs, y),
        Op::HeadProduct(op) => head_product::lower(l, op, &node.inputs, y),
        Op::Unary(op) => elementwise::unary(l, op, node.inputs[0], y),
        Op::Affine(op) => elementwise::affine(l, op, node.inputs[0], y),
        Op::Binary(op) => elementwise::binary(l, op, [node.inputs[0], node.inputs[1]], y),
        Op::Cast(op) => elementwise::cast(l, op, node.inputs[0], y),
        Op::Combine(op) => combine::lower(l, op, &node.inputs, y),
        Op::Upsample2x(_) => resample::upsample(l, node.inputs[0], y),
        Op::AvgPool2x(_) => resample::avg_pool(l, node.inputs[0], y),
        Op::Concat(_) => shape::concat(l, &node.inputs, y),
        Op::Slice(op) => shape::slice(l, op, node.inputs[0], y),
        Op::Pad(op) => shape::pad(l, op, node.inputs[0], y),
        Op::Transpose(_) => transpose::lower(l, node.inputs[0], y),
        Op::Reshape(_) | Op::StopGradient(_) => Ok(()), // a view: see `root`
        Op::ReduceSum(op) => reduce::lower(l, op, node.inputs[0], y),
        Op::FakeQuantize(op) => quantize::lower(l, op, &node.inputs, y),
        Op::TimestepEmbedding(op) => timestep_embedding::lower(l, op, node.inputs[0], y),
        Op::Gather(_) => gather::lower(l, [node.inputs[0], node.inputs[1]], y),
        Op::IntAffine(op) => gather::int_affine(l, op, [node.inputs[0], node.inputs[1]], y),
        // Of plans and of training, or without operators that all runtimes have.
        Op::FusedConv2d(_)
        | Op::Conv2dInputGrad(_)
        | Op::Conv2dWeightGrad(_)
        | Op::PackConv(_)
        | Op::FusedGroupNorm(_)
        | Op::GroupNormGrad(_)
        | Op::AttentionGrad(_)
        | Op::UnaryGrad(_)
        | Op::DynamicThreshold(_)
        | Op::Quantize(_)
        | Op::Dequantize(_)
        | Op::FakeQuantizeGrad(_)
        | Op::GatherGrad(_)
        | Op::RandomNormal(_)
        | Op::RandomInt(_)
        | Op::GlobalNorm(_)
        | Op::ClipScale(_)
        | Op::AdamW(_)
        | Op::Momentum(_)
        | Op::Orthogonalize(_)
        | Op::Descend(_)
        | Op::Ema(_)
        | Op::Assign(_) => Err(Error::unsupported(format!("the op {} has no form in ONNX", node.op.name()))),
    }
}

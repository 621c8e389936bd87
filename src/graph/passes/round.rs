//! Large products of rounded factors: where a backend has products of bf16 and all else in f32, convolutions, linear layers and their gradients round what they
//! multiply, those that the backend takes. A convolution that alone reads a norm normalises what it rounds itself: nobody else would see the normalised value.

use super::dead::eliminate_dead;
use super::precision::is_narrow;
use super::{Rewrite, WHAT, as_conv, norm_before, source_shape};
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::graph::analysis::{Readers, updates_so_far};
use crate::graph::ops::{Conv2dInputGrad, Conv2dWeightGrad, FusedConv2d, NormByMoments};
use crate::graph::{Graph, Narrowing, Node, Op, OpDef, Target, TensorType, ValueId};
use crate::memory;
use crate::tensor::DType;

/// Rewrites the convolutions, and their gradients, whose factors the target rounds to `dtype`.
pub fn round_products<'s>(old: &Graph, dtype: DType, target: &dyn Target, stop: Stop<'s>) -> Result<Option<Rewrite<'s>>> {
    if !is_narrow(dtype) || target.narrowing(dtype)? != Narrowing::Products {
        return Ok(None);
    }
    if dtype != DType::Bf16 {
        return Err(Error::internal(format!("products of {dtype:?}, which no op is of")));
    }
    let (updates, readers) = (updates_so_far(old)?, Readers::of(old)?);
    let mut rewrite = Rewrite::start(old, stop)?;
    for (at, node) in old.nodes().iter().enumerate() {
        match Rounded::taken(old, at, &updates, &readers, target) {
            Some(rounded) => {
                let mut operands = memory::with_capacity(rounded.operands.len(), WHAT)?;
                for (value, shape) in &rounded.operands {
                    let operand = rewrite.get(*value)?;
                    operands.push(rewrite.beside(node).reshape(operand, shape)?);
                }
                rewrite.emit(old, node, rounded.op, &operands)?;
            }
            None => rewrite.copy(old, node)?,
        }
    }
    // Norms that nobody reads any more.
    rewrite.finish(old)?.then(|graph, stop| eliminate_dead(graph, stop).map(Some)).map(Some)
}

/// An op that rounds its factors.
struct Rounded {
    op: Op,
    /// Old values, and the shapes in which it reads them.
    operands: Vec<(ValueId, Vec<usize>)>,
}

impl Rounded {
    /// What the target takes in place of a node.
    fn taken(graph: &Graph, at: usize, updates: &[usize], readers: &Readers, target: &dyn Target) -> Option<Self> {
        let node = &graph.nodes()[at];
        let takes = |this: &Self| {
            let typed = |(value, shape): &(ValueId, Vec<usize>)| TensorType::new(graph.value(*value).ty.dtype, shape);
            let operands: Vec<TensorType> = this.operands.iter().map(typed).collect();
            let operands: Vec<&TensorType> = operands.iter().collect();
            this.op.infer(&operands).is_ok() && target.accepts(&this.op, &operands)
        };
        let normed = || Self::with_norm(graph, at, updates, readers).filter(takes);
        normed().or_else(|| Some(Self { op: rounded(&node.op)?, operands: as_they_are(graph, &node.inputs) }).filter(takes))
    }

    /// The convolution with the norm before it, if nobody else reads any result of that.
    fn with_norm(graph: &Graph, at: usize, updates: &[usize], readers: &Readers) -> Option<Self> {
        let node = &graph.nodes()[at];
        let op = as_conv(&node.op).filter(|op| op.sources == 1 && op.norm.is_none() && op.quantized.is_none())?;
        let (from, norm) = norm_before(graph, at, node.inputs[0], updates)?;
        let Node { inputs, outputs, .. } = &graph.nodes()[from];
        let alone = readers.read_once(graph, node.inputs[0]) && outputs[1..].iter().all(|other| readers.none(*other));
        let x = graph.shape(node.inputs[0]);
        if !alone {
            return None;
        }
        let (sources, parameters) = inputs.split_at(norm.sources);
        let x = sources.iter().map(|source| (*source, source_shape(graph, x, *source, sources.len())));
        let op = FusedConv2d { sources: norm.sources, bf16: true, norm: Some(NormByMoments { norm: norm.norm, moments: norm.moments }), ..op };
        Some(Self { op: op.into(), operands: x.chain(as_they_are(graph, &node.inputs[1..])).chain(as_they_are(graph, parameters)).collect() })
    }
}

fn as_they_are(graph: &Graph, values: &[ValueId]) -> Vec<(ValueId, Vec<usize>)> {
    values.iter().map(|value| (*value, graph.shape(*value).to_vec())).collect()
}

/// The op that rounds its factors, if it is one of those that can and there are floats among them to round.
fn rounded(op: &Op) -> Option<Op> {
    match op {
        Op::Conv2dInputGrad(op) => Some(Conv2dInputGrad { bf16: true, ..op.clone() }.into()),
        Op::Conv2dWeightGrad(op) => Some(Conv2dWeightGrad { bf16: true, ..op.clone() }.into()),
        op => as_conv(op).filter(|op| op.quantized.is_none()).map(|op| FusedConv2d { bf16: true, ..op }.into()),
    }
}

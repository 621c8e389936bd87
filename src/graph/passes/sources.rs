//! Spares concatenations along the channels: where all that read one can read its parts, nobody writes the whole. A U-Net's up path joins what comes from below
//! with what comes from beside before each of its blocks.

use super::{Rewrite, WHAT, as_conv, as_norm, types};
use crate::cancel::Stop;
use crate::error::Result;
use crate::graph::analysis::hoistable;
use crate::graph::ops::{FusedConv2d, FusedGroupNorm};
use crate::graph::{Graph, Node, Op, Origin, Target, TensorType, ValueId};
use crate::memory;

/// Rewrites concat → conv2d, group_norm into ops of several sources where the concatenation has no other reader and the backend takes all of them.
pub fn read_sources<'s>(old: &Graph, target: &dyn Target, stop: Stop<'s>) -> Result<Option<Rewrite<'s>>> {
    let joined = Joined::of(old, target)?;
    if joined.gone.iter().all(|gone| !gone) {
        return Ok(None);
    }
    let mut rewrite = Rewrite::start(old, stop)?;
    for (i, node) in old.nodes().iter().enumerate() {
        let Some(concat) = node.inputs.first().and_then(|x| joined.producer(old, *x)).filter(|concat| joined.gone[*concat]) else {
            if !joined.gone[i] {
                rewrite.copy(old, node)?;
            }
            continue;
        };
        // Views of what is not there are not there either.
        let (Some(op), parts) = (reading(&node.op, old.nodes()[concat].inputs.len()), &old.nodes()[concat].inputs) else { continue };
        let mut operands = vec![];
        for part in parts {
            let value = rewrite.get(*part)?;
            operands.push(rewrite.beside(node).reshape(value, &part_shape(old, node.inputs[0], *part))?);
        }
        for other in &node.inputs[1..] {
            operands.push(rewrite.get(*other)?);
        }
        rewrite.emit(old, node, op, &operands)?;
    }
    rewrite.finish(old).map(Some)
}

/// The op with so many sources in place of its first operand, if it is one of those that can have them.
fn reading(op: &Op, sources: usize) -> Option<Op> {
    let conv = as_conv(op).filter(|op| op.sources == 1).map(|op| FusedConv2d { sources, ..op }.into());
    conv.or_else(|| as_norm(op).filter(|op| op.sources == 1).map(|op| FusedGroupNorm { sources, ..op }.into()))
}

/// A part of a concatenation in the shape that a view of the whole has.
fn part_shape(graph: &Graph, view: ValueId, part: ValueId) -> Vec<usize> {
    let (whole, own) = (graph.shape(view), graph.shape(part));
    [&whole[..whole.len() - 1], &own[own.len() - 1..]].concat()
}

/// Which concatenations go.
struct Joined {
    roots: Vec<ValueId>,
    /// By node.
    gone: Vec<bool>,
}

impl Joined {
    fn of(graph: &Graph, target: &dyn Target) -> Result<Self> {
        let once = hoistable(graph)?;
        let roots = graph.roots()?;
        // A state may have another version where the concatenation is read; what is joined once costs nothing.
        let fixed = |v: &ValueId| graph.value(roots[v.0 as usize]).storage.is_none();
        let goes = |(i, node): (usize, &Node)| matches!(node.op, Op::Concat(_)) && !once[i] && node.inputs.iter().all(fixed);
        let gone = memory::collect(graph.nodes().iter().enumerate().map(goes), WHAT)?;
        let mut this = Self { roots, gone };
        for node in graph.nodes() {
            for (k, value) in node.inputs.iter().enumerate() {
                if let Some(concat) = this.producer(graph, *value)
                    && this.gone[concat]
                    && !reads(graph, node, k, concat, target)
                {
                    this.gone[concat] = false;
                }
            }
        }
        for tap in graph.outputs() {
            if let Some(concat) = this.producer(graph, *tap) {
                this.gone[concat] = false;
            }
        }
        Ok(this)
    }

    /// The node whose result a value is, or is a view of.
    fn producer(&self, graph: &Graph, value: ValueId) -> Option<usize> {
        let Origin::Node { node, .. } = graph.value(self.roots[value.0 as usize]).origin else { return None };
        Some(node.0 as usize)
    }
}

/// Whether a node can read the parts of a concatenation in place of its operand `k`; or is a view of the whole that they can be seen through.
fn reads(graph: &Graph, node: &Node, k: usize, concat: usize, target: &dyn Target) -> bool {
    let concat = &graph.nodes()[concat];
    if graph.shape(node.inputs[k]).last() != graph.shape(concat.outputs[0]).last() {
        return false;
    }
    if node.is_view() {
        return true;
    }
    let Some(op) = reading(&node.op, concat.inputs.len()).filter(|_| k == 0) else { return false };
    let part = |part: &ValueId| TensorType::new(graph.value(*part).ty.dtype, &part_shape(graph, node.inputs[0], *part));
    let parts: Vec<TensorType> = concat.inputs.iter().map(part).collect();
    let operands: Vec<&TensorType> = parts.iter().chain(types(graph, &node.inputs[1..])).collect();
    target.accepts(&op, &operands)
}

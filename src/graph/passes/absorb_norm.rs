//! Spares a group norm the sums over its input, where that is convolutions' results: those give the moments of their channels as they write them. With them
//! the convolution behind normalises its input on the way in, and the normalised activation is never written; or, where it would not be worth the
//! convolution's while or others read the norm too, the norm stays and only scales and shifts.

use super::{Rewrite, WHAT, as_conv, as_norm, types};
use crate::cancel::Stop;
use crate::error::Result;
use crate::graph::analysis::Readers;
use crate::graph::ops::{FusedConv2d, FusedGroupNorm, NormByMoments};
use crate::graph::{Graph, Node, Op, OpDef, Target, TensorType, ValueId};
use crate::memory;
use std::collections::HashMap;

/// The most values that a normalised one is joined of.
const MOST_SOURCES: usize = 2;

/// A norm that goes.
struct Absorbed {
    norm: usize,
    /// The convolutions whose results it normalised, side by side.
    sources: Vec<usize>,
}

/// Rewrites conv2d (→ concat) → group_norm → conv2d where nothing else reads the norm's results and the backend takes it, else conv2d (→ concat) →
/// group_norm where the backend does.
pub fn absorb_norms<'s>(old: &Graph, target: &dyn Target, stop: Stop<'s>) -> Result<Option<Rewrite<'s>>> {
    let readers = Readers::of(old)?;
    let mut absorbed: HashMap<usize, Absorbed> = HashMap::new(); // by the reading convolution
    for (i, node) in old.nodes().iter().enumerate() {
        if let Some(found) = absorbable(old, &readers, node, target) {
            memory::insert(&mut absorbed, i, found, WHAT)?;
        }
    }
    let mut gone = memory::filled(false, old.nodes().len(), WHAT)?;
    absorbed.values().for_each(|a| gone[a.norm] = true);
    let mut staying: HashMap<usize, Vec<usize>> = HashMap::new(); // by the norm
    for (i, node) in old.nodes().iter().enumerate().filter(|(i, _)| !gone[*i]) {
        if let Some(found) = helped(old, node, target) {
            memory::insert(&mut staying, i, found, WHAT)?;
        }
    }
    if absorbed.is_empty() && staying.is_empty() {
        return Ok(None);
    }
    let mut measured = memory::filled(false, old.nodes().len(), WHAT)?;
    absorbed.values().flat_map(|a| &a.sources).chain(staying.values().flatten()).for_each(|i| measured[*i] = true);
    let mut rewrite = Rewrite::start(old, stop)?;
    let mut moments = HashMap::new();
    for (i, node) in old.nodes().iter().enumerate() {
        // What only views of the norm's result were for has no value to view any more.
        if gone[i] || (node.is_view() && rewrite.map[node.inputs[0].0 as usize].is_none()) {
            continue;
        }
        if let (Some(op), Some(sources)) = (as_norm(&node.op), staying.get(&i)) {
            let mut operands = rewrite.operands(node)?;
            operands.extend(sources.iter().map(|s| moments[s]));
            rewrite.emit(old, node, FusedGroupNorm { moments: sources.len(), ..op }.into(), &operands)?;
            continue;
        }
        let Some(op) = as_conv(&node.op).filter(|_| measured[i] || absorbed.contains_key(&i)) else {
            rewrite.copy(old, node)?;
            continue;
        };
        let mut op = FusedConv2d { moments: measured[i], ..op };
        let operands = match absorbed.get(&i) {
            Some(absorbed) => with_norm(&mut rewrite, old, node, &mut op, absorbed, &moments)?,
            None => rewrite.operands(node)?,
        };
        rewrite.emit(old, node, op.into(), &operands)?;
        if let Some(last) = rewrite.graph.nodes().last()
            && measured[i]
        {
            memory::insert(&mut moments, i, last.outputs[1], WHAT)?;
        }
    }
    rewrite.finish(old).map(Some)
}

/// The convolution's operands with what was the norm's.
fn with_norm(
    rewrite: &mut Rewrite,
    old: &Graph,
    node: &Node,
    op: &mut FusedConv2d,
    absorbed: &Absorbed,
    moments: &HashMap<usize, ValueId>,
) -> Result<Vec<ValueId>> {
    let norm = &old.nodes()[absorbed.norm];
    let Op::GroupNorm(what) = norm.op else { return rewrite.operands(node) };
    op.norm = Some(NormByMoments { norm: what, moments: absorbed.sources.len() });
    let x = rewrite.get(norm.inputs[0])?;
    let mut operands = vec![rewrite.beside(node).reshape(x, old.shape(node.inputs[0]))?];
    for v in node.inputs[1..].iter().chain(&norm.inputs[1..]) {
        operands.push(rewrite.get(*v)?);
    }
    operands.extend(absorbed.sources.iter().map(|s| moments[s]));
    Ok(operands)
}

/// The norms that read their input twice, each with the reason.
pub(super) fn why_not(graph: &Graph) -> Result<Vec<String>> {
    let mut notes = vec![];
    for node in graph.nodes() {
        let Some(op) = as_norm(&node.op).filter(|op| op.moments == 0) else { continue };
        let x = &node.inputs[op.operands().0];
        let parts = if let [x] = x { parts(graph, *x) } else { Some(x.to_vec()) };
        let found = parts.and_then(|parts| convolutions(graph, &parts, graph.shape(x[0])[0]));
        let reason = match found {
            Some(_) => "the backend takes no moments there".to_string(),
            None => {
                let from = graph.origin(x[0]).map_or("a value that is given", |(at, _)| graph.nodes()[at].op.name());
                format!("its input comes from {from}, which gives no moments of its channels")
            }
        };
        notes.push(format!("group_norm '{}' sums over its input: {reason}", graph.value(node.outputs[0]).name));
    }
    Ok(notes)
}

fn absorbable(graph: &Graph, readers: &Readers, node: &Node, target: &dyn Target) -> Option<Absorbed> {
    let op = as_conv(&node.op).filter(|op| op.norm.is_none() && op.sources == 1)?;
    let (norm_at, 0) = graph.origin(node.inputs[0])? else { return None };
    let norm = &graph.nodes()[norm_at];
    let Op::GroupNorm(what) = norm.op else { return None };
    let unread = norm.outputs[1..].iter().all(|v| readers.none(*v));
    let x = &graph.value(node.inputs[0]).ty;
    let ([n, .., c], shape) = (x.shape.as_slice(), graph.shape(norm.inputs[0])) else { return None };
    if !unread || !readers.read_once(graph, node.inputs[0]) || shape[0] != *n || shape.last() != Some(c) {
        return None;
    }
    let sources = measurable(graph, norm.inputs[0], *n, target)?;
    let fused = FusedConv2d { norm: Some(NormByMoments { norm: what, moments: sources.len() }), ..op };
    let moments = moments_types(graph, &sources);
    let operands = [x].into_iter().chain(types(graph, &node.inputs[1..])).chain(types(graph, &norm.inputs[1..])).chain(&moments);
    target.accepts(&fused.into(), &operands.collect::<Vec<_>>()).then_some(Absorbed { norm: norm_at, sources })
}

/// The convolutions whose moments spare a norm its sums.
fn helped(graph: &Graph, node: &Node, target: &dyn Target) -> Option<Vec<usize>> {
    let op = as_norm(&node.op).filter(|op| op.moments == 0 && op.sources == 1)?;
    let sources = measurable(graph, node.inputs[0], graph.shape(node.inputs[0])[0], target)?;
    let moments = moments_types(graph, &sources);
    let operands: Vec<&TensorType> = types(graph, &node.inputs).into_iter().chain(&moments).collect();
    target.accepts(&FusedGroupNorm { moments: sources.len(), ..op }.into(), &operands).then_some(sources)
}

/// Types of the moments that convolutions would give.
fn moments_types(graph: &Graph, convolutions: &[usize]) -> Vec<TensorType> {
    let of = |at: &usize| graph.shape(graph.nodes()[*at].outputs[0]);
    convolutions.iter().map(of).map(|y| TensorType::f32(&[y[0], y[y.len() - 1], 2])).collect()
}

/// The convolutions that a value of `n` samples comes from, if all can give their moments.
fn measurable(graph: &Graph, value: ValueId, n: usize, target: &dyn Target) -> Option<Vec<usize>> {
    let sources = convolutions(graph, &parts(graph, value)?, n)?;
    let gives = |at: &usize| {
        let node = &graph.nodes()[*at];
        as_conv(&node.op).is_some_and(|op| target.accepts(&FusedConv2d { moments: true, ..op }.into(), &types(graph, &node.inputs)))
    };
    sources.iter().all(gives).then_some(sources)
}

/// What a value is joined of along the channels: itself, if nothing joins it.
fn parts(graph: &Graph, value: ValueId) -> Option<Vec<ValueId>> {
    let (at, _) = graph.origin(value)?;
    let node = &graph.nodes()[at];
    if !matches!(node.op, Op::Concat(_)) {
        return Some(vec![value]);
    }
    // A view with other channels is of no use.
    (graph.shape(value).last() == graph.shape(node.outputs[0]).last()).then(|| node.inputs.clone())
}

/// The convolutions of `n` samples that all of these are the results of.
fn convolutions(graph: &Graph, parts: &[ValueId], n: usize) -> Option<Vec<usize>> {
    let conv = |part: &ValueId| {
        let (at, output) = graph.origin(*part)?;
        let y = graph.shape(graph.nodes()[at].outputs[0]);
        let whole = as_conv(&graph.nodes()[at].op).is_some_and(|op| op.parts.is_empty()) && output == 0;
        (whole && y[0] == n && graph.shape(*part).last() == y.last()).then_some(at)
    };
    let found: Option<Vec<usize>> = parts.iter().map(conv).collect();
    found.filter(|found| found.len() <= MOST_SOURCES)
}

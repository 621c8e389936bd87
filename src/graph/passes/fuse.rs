//! Moves the additions after a convolution into its epilogue: the time term, the residual and the output scale.

use super::{Rewrite, WHAT, as_conv};
use crate::cancel::Stop;
use crate::error::Result;
use crate::graph::analysis::{Readers, hoistable, updates_so_far};
use crate::graph::ops::BinaryKind;
use crate::graph::{Graph, Node, Op, OpDef, ValueId};
use crate::memory;

/// What a convolution swallows, in the order in which the epilogue applies it.
enum Step {
    Residual(ValueId),
    Addend(ValueId),
    Scale(f32),
}

/// A node that goes, and the views that led to it, which go with it.
struct Link {
    step: Step,
    node: usize,
    views: Vec<usize>,
}

/// Rewrites conv2d → add([N,1,1,O]) → add([N,P,Q,O]) → scale into one node where the intermediate results have no other reader. Views may stand between: a
/// linear layer over tokens [N,T,C] is a convolution of single pixels, seen as tokens again.
pub fn fuse<'s>(old: &Graph, stop: Stop<'s>) -> Result<Option<Rewrite<'s>>> {
    let (readers, places) = (Readers::of(old)?, Places::of(old)?);
    let mut gone = memory::filled(false, old.nodes().len(), WHAT)?;
    // By the node that a chain ends in: the fused node stands there, so that every operand is computed by then.
    let mut ending: Vec<Option<(usize, Vec<Link>)>> = memory::collect((0..old.nodes().len()).map(|_| None), WHAT)?;
    for (i, node) in old.nodes().iter().enumerate() {
        // A convolution that has an epilogue already has no room for these.
        if !matches!(node.op, Op::Conv2d(_)) {
            continue;
        }
        let mut links = chain_after(old, &readers, &places, i);
        // Another convolution may have taken the sum that this chain ends in: the first taker wins, this one keeps what comes before.
        let free = links.iter().position(|link| gone[link.node]).unwrap_or(links.len());
        links.truncate(free);
        let Some(last) = links.last().map(|link| link.node) else { continue };
        gone[i] = true;
        links.iter().flat_map(|link| link.views.iter().chain([&link.node])).for_each(|node| gone[*node] = true);
        ending[last] = Some((i, links));
    }
    let mut rewrite = Rewrite::start(old, stop)?;
    for (i, node) in old.nodes().iter().enumerate() {
        match &ending[i] {
            Some((conv, links)) => emit_fused(&mut rewrite, old, &old.nodes()[*conv], node, links)?,
            None if gone[i] => {}
            None => rewrite.copy(old, node)?,
        }
    }
    rewrite.finish(old).map(Some)
}

/// Where nodes stand, and when they run.
struct Places {
    updates: Vec<usize>,
    once: Vec<bool>,
}

impl Places {
    fn of(graph: &Graph) -> Result<Self> {
        Ok(Self { updates: updates_so_far(graph)?, once: hoistable(graph)? })
    }

    /// Why a convolution cannot run where node `at` does, as the fused node would.
    fn why_apart(&self, graph: &Graph, conv: usize, at: usize) -> Option<&'static str> {
        if graph.nodes()[at].segment != graph.nodes()[conv].segment {
            Some("it is in another segment")
        } else if self.updates[at] != self.updates[conv] {
            Some("a state is overwritten between them, perhaps one of its operands")
        } else if self.once[conv] && !self.once[at] {
            Some("the convolution runs once, and this in every run")
        } else {
            None
        }
    }
}

/// The additions and the scale that follow convolution `start`.
fn chain_after(graph: &Graph, readers: &Readers, places: &Places, start: usize) -> Vec<Link> {
    let (mut links, mut views) = (vec![], vec![]);
    let mut value = graph.nodes()[start].outputs[0];
    while let Some(at) = readers.only(value) {
        let node = &graph.nodes()[at];
        if places.why_apart(graph, start, at).is_some() {
            break;
        }
        if node.is_view() {
            views.push(at);
        } else {
            let Some(step) = absorbable(graph, node, value, &links, views.is_empty()) else { break };
            links.push(Link { step, node: at, views: std::mem::take(&mut views) });
        }
        value = node.outputs[0];
    }
    links
}

/// The additions and scales that no convolution took, each with the reason.
pub(super) fn why_not(graph: &Graph) -> Result<Vec<String>> {
    let (readers, places) = (Readers::of(graph)?, Places::of(graph)?);
    let mut notes = vec![];
    for (at, node) in graph.nodes().iter().enumerate() {
        if !matches!(&node.op, Op::Binary(b) if b.kind == BinaryKind::Add) && !matches!(&node.op, Op::Affine(a) if a.shift == 0.0) {
            continue;
        }
        for input in &node.inputs {
            let Some((conv, 0)) = graph.origin(*input) else { continue };
            let from = &graph.nodes()[conv];
            let Some(op) = as_conv(&from.op) else { continue };
            let reason = if !readers.read_once(graph, *input) {
                "others read the convolution's result too"
            } else if let Some(reason) = places.why_apart(graph, conv, at) {
                reason
            } else if op.residual || op.scale != 1.0 || op.norm.is_some() || op.moments || !op.parts.is_empty() {
                "the convolution's epilogue is full"
            } else {
                "its shape is none that the epilogue has"
            };
            let name = |value: ValueId| &graph.value(value).name;
            notes.push(format!("{} '{}' is not part of the convolution '{}': {reason}", node.op.name(), name(node.outputs[0]), name(from.outputs[0])));
        }
    }
    Ok(notes)
}

/// What a node that reads `value` adds to it, if the epilogue can do so. Where no view came before (`plain`), `value` has the convolution's shape.
fn absorbable(graph: &Graph, node: &Node, value: ValueId, before: &[Link], plain: bool) -> Option<Step> {
    let has = |f: fn(&Step) -> bool| before.iter().any(|link| f(&link.step));
    let shape = graph.shape(value);
    match &node.op {
        Op::Binary(b) if b.kind == BinaryKind::Add && node.inputs[0] != node.inputs[1] => {
            let other = if node.inputs[0] == value { node.inputs[1] } else { node.inputs[0] };
            let added = graph.shape(other);
            if has(|s| matches!(s, Step::Scale(_))) {
                None
            } else if added == shape && !has(|s| matches!(s, Step::Residual(_))) {
                Some(Step::Residual(other))
            } else if plain && before.is_empty() && added == [shape[0], 1, 1, shape[3]] {
                Some(Step::Addend(other))
            } else {
                None
            }
        }
        Op::Affine(a) if a.shift == 0.0 && !has(|s| matches!(s, Step::Scale(_))) => Some(Step::Scale(a.scale)),
        _ => None,
    }
}

/// The convolution with all of them, in the shape that its result has behind the last.
fn emit_fused(rewrite: &mut Rewrite, old: &Graph, conv: &Node, last: &Node, links: &[Link]) -> Result<()> {
    let Some(mut op) = as_conv(&conv.op) else { return rewrite.copy(old, last) };
    let out = old.shape(conv.outputs[0]);
    let mut operands = rewrite.operands(conv)?;
    // Behind the bias come the addend, then the residual.
    for link in links {
        if let Step::Addend(value) = link.step {
            op.addend = true;
            let flat = rewrite.get(value)?;
            operands.push(rewrite.beside(last).reshape(flat, &[out[0], out[3]])?);
        }
    }
    for link in links {
        match link.step {
            Step::Residual(value) => {
                op.residual = true;
                let value = rewrite.get(value)?;
                operands.push(rewrite.beside(last).reshape(value, out)?);
            }
            Step::Scale(scale) => op.scale = scale,
            Step::Addend(_) => {}
        }
    }
    let graph = rewrite.beside(last);
    let y = graph.push1(op.into(), &operands)?;
    graph.set_name(y, old.value(last.outputs[0]).name.clone());
    let y = graph.reshape(y, old.shape(last.outputs[0]))?;
    rewrite.replace(old, last.outputs[0], y);
    Ok(())
}

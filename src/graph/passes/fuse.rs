//! Moves the additions after a convolution into its epilogue: the time term, the residual and the output scale.

use super::{Rewrite, WHAT};
use crate::cancel::Stop;
use crate::error::Result;
use crate::graph::ops::BinaryKind;
use crate::graph::{Alias, Graph, Node, Op, OpDef, ValueId};
use crate::memory;

/// What a convolution swallows, in the order in which the epilogue applies it.
enum Step {
    Residual(ValueId),
    Addend(ValueId),
    Scale(f32),
}

/// Rewrites conv2d → add([N,1,1,O]) → add([N,P,Q,O]) → scale into one node where the intermediate results have no other reader.
pub fn fuse<'s>(old: &Graph, stop: Stop<'s>) -> Result<Option<Rewrite<'s>>> {
    let readers = Readers::of(old)?;
    let mut into: Vec<Option<usize>> = memory::filled(None, old.nodes().len(), WHAT)?; // node -> the last node of its chain, for convolutions
    let mut absorbed = memory::filled(false, old.nodes().len(), WHAT)?;
    let mut chains: Vec<Vec<Step>> = memory::collect((0..old.nodes().len()).map(|_| vec![]), WHAT)?;
    for (i, node) in old.nodes().iter().enumerate() {
        // A convolution that has an epilogue already has no room for these.
        if let Op::Conv2d(c) = &node.op
            && c.is_plain()
        {
            let (mut steps, mut members) = chain_after(old, &readers, i);
            // Another convolution may have taken the sum that this chain ends in: the first taker wins, this one keeps what comes before.
            let free = members.iter().position(|m| absorbed[*m]).unwrap_or(members.len());
            members.truncate(free);
            steps.truncate(free);
            for m in &members {
                absorbed[*m] = true;
            }
            into[i] = members.last().copied();
            chains[i] = steps;
        }
    }
    emit(old, &into, &absorbed, &chains, stop).map(Some)
}

/// Who reads what.
struct Readers {
    /// For each value its only reader, unless it is tapped or read elsewhere too.
    only: Vec<Option<usize>>,
    /// For each node, how many nodes up to it (included) overwrite a state.
    updates: Vec<usize>,
}

impl Readers {
    fn of(graph: &Graph) -> Result<Self> {
        let mut uses = memory::filled(0usize, graph.values().len(), WHAT)?;
        let mut only = memory::filled(None, graph.values().len(), WHAT)?;
        let mut updates = memory::with_capacity(graph.nodes().len(), WHAT)?;
        let mut seen = 0;
        for (i, node) in graph.nodes().iter().enumerate() {
            for v in &node.inputs {
                uses[v.0 as usize] += 1;
                only[v.0 as usize] = Some(i);
            }
            seen += usize::from(matches!(node.op.alias(), Alias::Updates(_)));
            updates.push(seen);
        }
        graph.outputs().iter().for_each(|o| uses[o.0 as usize] += 2);
        only.iter_mut().zip(uses).filter(|(_, uses)| *uses != 1).for_each(|(only, _)| *only = None);
        Ok(Self { only, updates })
    }
}

/// The additions and the scale that follow convolution `start`, and the nodes that they are.
fn chain_after(graph: &Graph, readers: &Readers, start: usize) -> (Vec<Step>, Vec<usize>) {
    let (mut steps, mut members) = (vec![], vec![]);
    let mut value = graph.nodes()[start].outputs[0];
    let out = graph.shape(value).to_vec();
    while let Some(at) = readers.only[value.0 as usize] {
        let node = &graph.nodes()[at];
        // The fused node runs where its last member ran: it stays in its segment, and never behind an update that may overwrite its operands.
        if node.segment != graph.nodes()[start].segment || readers.updates[at] != readers.updates[start] {
            break;
        }
        let Some(step) = absorbable(graph, node, value, &out, &steps) else { break };
        steps.push(step);
        members.push(at);
        value = node.outputs[0];
    }
    (steps, members)
}

fn absorbable(graph: &Graph, node: &Node, value: ValueId, out: &[usize], before: &[Step]) -> Option<Step> {
    let has = |f: fn(&Step) -> bool| before.iter().any(f);
    match &node.op {
        Op::Binary(b) if b.kind == BinaryKind::Add && node.inputs[0] != node.inputs[1] => {
            let other = if node.inputs[0] == value { node.inputs[1] } else { node.inputs[0] };
            let shape = graph.shape(other);
            let scaled = has(|s| matches!(s, Step::Scale(_)));
            if scaled {
                None
            } else if shape == out && !has(|s| matches!(s, Step::Residual(_))) {
                Some(Step::Residual(other))
            } else if shape == [out[0], 1, 1, out[3]] && before.is_empty() {
                Some(Step::Addend(other))
            } else {
                None
            }
        }
        Op::Affine(a) if a.shift == 0.0 && !has(|s| matches!(s, Step::Scale(_))) => Some(Step::Scale(a.scale)),
        _ => None,
    }
}

fn emit<'s>(old: &Graph, into: &[Option<usize>], absorbed: &[bool], chains: &[Vec<Step>], stop: Stop<'s>) -> Result<Rewrite<'s>> {
    let mut rewrite = Rewrite::start(old, stop)?;
    // The fused node stands where its last member stood, so that every operand is computed by then.
    let mut at = memory::filled(None, old.nodes().len(), WHAT)?;
    for (conv, last) in into.iter().enumerate() {
        if let Some(last) = last {
            at[*last] = Some(conv);
        }
    }
    for (i, node) in old.nodes().iter().enumerate() {
        if into[i].is_some() || (absorbed[i] && at[i].is_none()) {
            continue;
        }
        match at[i] {
            None => rewrite.copy(old, node)?,
            Some(conv) => emit_fused(&mut rewrite, old, &old.nodes()[conv], node, &chains[conv])?,
        }
    }
    rewrite.finish(old)
}

fn emit_fused(rewrite: &mut Rewrite, old: &Graph, conv: &Node, last: &Node, steps: &[Step]) -> Result<()> {
    let Op::Conv2d(mut op) = conv.op.clone() else { return rewrite.copy(old, last) };
    let mut operands = rewrite.operands(conv)?;
    // Operand order is fixed by Conv2d: bias, addend, residual.
    for step in steps {
        if let Step::Addend(value) = step {
            op.addend = true;
            let shape = [old.shape(*value)[0], op.out_channels];
            let flat = rewrite.get(*value)?;
            operands.push(rewrite.graph.reshape(flat, &shape)?);
            if let Some(node) = rewrite.graph.nodes.last_mut() {
                node.segment = last.segment;
            }
        }
    }
    for step in steps {
        match step {
            Step::Residual(value) => {
                op.residual = true;
                operands.push(rewrite.get(*value)?);
            }
            Step::Scale(scale) => op.scale = *scale,
            Step::Addend(_) => {}
        }
    }
    rewrite.emit(old, last, op.into(), &operands)
}

//! Linear layers that read one value (an attention's q, k and v; the time projections of all blocks) become one product with several results: small
//! products are launches and little else.

use super::{Rewrite, WHAT, types};
use crate::cancel::Stop;
use crate::error::Result;
use crate::graph::ops::{Concat, Conv2d, ConvGeometry, FusedConv2d};
use crate::graph::{Graph, Node, Op, Origin, Target, TensorType, ValueId};
use crate::memory;
use std::collections::HashMap;

/// The most products of one.
const MOST: usize = 16;
/// The most values that one concatenation joins.
const MOST_JOINED: usize = 8;

/// Merges the linear layers whose weights never change (joined weights are made once), if the backend takes the product.
pub fn merge_products<'s>(old: &Graph, target: &dyn Target, stop: Stop<'s>) -> Result<Option<Rewrite<'s>>> {
    let roots = old.roots()?;
    let mut groups = groups(old, &roots)?;
    groups.retain(|group| is_accepted(old, group, target));
    if groups.is_empty() {
        return Ok(None);
    }
    let mut rewrite = Rewrite::start(old, stop)?;
    let mut group_of = HashMap::new();
    for group in &groups {
        for (place, member) in group.iter().enumerate() {
            memory::insert(&mut group_of, *member, (place, group), WHAT)?;
        }
    }
    let waiting = waiting(old, &roots)?;
    for (i, node) in old.nodes().iter().enumerate().filter(|(i, _)| !waiting[*i]) {
        match group_of.get(&i) {
            None => {
                bring(&mut rewrite, old, &roots, node, node)?;
                rewrite.copy(old, node)?;
            }
            // Where the first stood all operands are there: they are the same value, and weights.
            Some((0, group)) => {
                let members: Vec<&Node> = group.iter().map(|m| &old.nodes()[*m]).collect();
                members.iter().try_for_each(|member| bring(&mut rewrite, old, &roots, member, node))?;
                emit(&mut rewrite, old, &roots, &members)?;
            }
            Some(_) => {}
        }
    }
    rewrite.finish(old).map(Some)
}

/// By node: the casts of weights that are stored narrower. They are written where somebody needs them, which for a product's later members is before they
/// stood.
fn waiting(old: &Graph, roots: &[ValueId]) -> Result<Vec<bool>> {
    let waits = |node: &Node| {
        let [output] = node.outputs[..] else { return false };
        let fixed = old.state_behind(roots, output).is_some_and(|state| state.first == state.current);
        fixed && old.stored(output).is_some() && !old.outputs().contains(&output)
    };
    memory::collect(old.nodes().iter().map(waits), WHAT)
}

/// Writes those that `node` reads beside `reader`, if nobody has yet.
fn bring(rewrite: &mut Rewrite, old: &Graph, roots: &[ValueId], node: &Node, reader: &Node) -> Result<()> {
    for input in &node.inputs {
        let root = roots[input.0 as usize];
        let Origin::Node { node: cast, .. } = old.value(root).origin else { continue };
        if rewrite.map[root.0 as usize].is_none() {
            let cast = &old.nodes()[cast.0 as usize];
            rewrite.emit(old, &Node { segment: reader.segment, ..cast.clone() }, cast.op.clone(), &[rewrite.get(cast.inputs[0])?])?;
        }
    }
    Ok(())
}

/// Nodes that can be one, two or more together.
fn groups(old: &Graph, roots: &[ValueId]) -> Result<Vec<Vec<usize>>> {
    let fixed = |v: ValueId| old.state_behind(roots, v).is_some_and(|state| state.first == state.current);
    let mut groups: Vec<Vec<usize>> = vec![];
    let mut open: HashMap<_, usize> = HashMap::new();
    for (i, node) in old.nodes().iter().enumerate() {
        let Op::Conv2d(op) = &node.op else { continue };
        // A state may have another version at another place.
        let x = node.inputs[0];
        if !is_linear(op) || !node.inputs[1..].iter().all(|v| fixed(*v)) || old.state_behind(roots, x).is_some() {
            continue;
        }
        let key = (roots[x.0 as usize], old.shape(x), op.bias, node.segment);
        match open.get(&key) {
            Some(at) if groups[*at].len() < MOST => groups[*at].push(i),
            _ => {
                memory::insert(&mut open, key, groups.len(), WHAT)?;
                memory::push(&mut groups, vec![i], WHAT)?;
            }
        }
    }
    groups.retain(|group| group.len() > 1);
    Ok(groups)
}

/// The product of these nodes.
fn merged(old: &Graph, members: &[&Node]) -> Option<FusedConv2d> {
    let Op::Conv2d(first) = members.first()?.op else { return None };
    let parts: Vec<usize> = members.iter().map(|m| old.shape(m.outputs[0])[3]).collect();
    Some(FusedConv2d { parts: parts.clone(), ..Conv2d { out_channels: parts.iter().sum(), ..first }.into() })
}

fn is_accepted(old: &Graph, group: &[usize], target: &dyn Target) -> bool {
    let members: Vec<&Node> = group.iter().map(|m| &old.nodes()[*m]).collect();
    let Some(op) = merged(old, &members) else { return false };
    // Weights and bias have the channels of all.
    let given = types(old, &members[0].inputs);
    let joined = |ty: &TensorType| TensorType::new(ty.dtype, &[&[op.conv.out_channels], &ty.shape[1..]].concat());
    let rest: Vec<TensorType> = given[1..].iter().map(|ty| joined(ty)).collect();
    let all: Vec<&TensorType> = given[..1].iter().copied().chain(&rest).collect();
    target.accepts(&op.clone().into(), &all)
}

/// Kernels hand out four channels at a time, all to one result.
fn is_linear(op: &Conv2d) -> bool {
    op.geometry == ConvGeometry::POINTWISE && op.out_channels.is_multiple_of(4)
}

fn emit(rewrite: &mut Rewrite, old: &Graph, roots: &[ValueId], members: &[&Node]) -> Result<()> {
    let Some(op) = merged(old, members) else { return Ok(()) };
    rewrite.beside(members[0]);
    let out_channels = op.conv.out_channels;
    let in_channels = old.shape(members[0].inputs[0])[3];
    let mut operands = vec![rewrite.get(members[0].inputs[0])?];
    for k in 1..members[0].inputs.len() {
        let mut flat = vec![];
        for m in members {
            // The state itself: a view of it may only come behind the first member.
            let value = rewrite.get(roots[m.inputs[k].0 as usize])?;
            flat.push(rewrite.graph.reshape(value, &[old.shape(m.inputs[k]).iter().product()])?);
        }
        let all = join(&mut rewrite.graph, flat)?;
        operands.push(if k == 1 { rewrite.graph.reshape(all, &[out_channels, in_channels, 1, 1])? } else { all });
    }
    let outputs = rewrite.graph.push(op.into(), &operands)?;
    members.iter().zip(outputs).for_each(|(member, output)| rewrite.replace(old, member.outputs[0], output));
    Ok(())
}

/// All of these vectors, one after the other.
fn join(graph: &mut Graph, mut values: Vec<ValueId>) -> Result<ValueId> {
    while values.len() > 1 {
        let tail = values.split_off(values.len().min(MOST_JOINED));
        let joined = graph.push1(Concat.into(), &values)?;
        values = [vec![joined], tail].concat();
    }
    Ok(values[0])
}

//! Puts convolution weights into the backend's packed order; weights used several times are packed once a version.

use super::{Rewrite, WHAT, types};
use crate::cancel::Stop;
use crate::error::Result;
use crate::graph::ops::{Conv2dInputGrad, FusedConv2d, PackConv};
use crate::graph::{Graph, Op, Target, ValueId};
use crate::memory;
use std::collections::HashMap;

/// Rewrites every convolution that the backend wants packed.
pub fn pack<'s>(old: &Graph, target: &dyn Target, stop: Stop<'s>) -> Result<Option<Rewrite<'s>>> {
    let mut rewrite = Rewrite::start(old, stop)?;
    // By the value whose memory the weights are (a linear layer views its matrix anew at each use), its rows, and the packing.
    let mut done: HashMap<(ValueId, usize, PackConv), ValueId> = HashMap::new();
    let roots = old.roots()?;
    for node in old.nodes() {
        let found = PackConv::of(&node.op).zip(target.packed(&node.op, &types(old, &node.inputs)));
        let Some(((purpose, geometry, place), packed)) = found else {
            rewrite.copy(old, node)?;
            continue;
        };
        let mut operands = rewrite.operands(node)?;
        let weight = node.inputs[place];
        let op = PackConv { purpose, geometry, packed };
        let key = (roots[weight.0 as usize], old.shape(weight)[0], op.clone());
        operands[place] = match done.get(&key) {
            Some(packed) => *packed,
            None => {
                let packed = rewrite.beside(node).push1(op.into(), &[operands[place]])?;
                rewrite.graph.set_name(packed, format!("{}.packed", old.value(weight).name));
                memory::insert(&mut done, key, packed, WHAT)?;
                packed
            }
        };
        rewrite.emit(old, node, with_packed(&node.op), &operands)?;
    }
    rewrite.finish(old).map(Some)
}

/// The op on packed weights.
fn with_packed(op: &Op) -> Op {
    match op.clone() {
        Op::Conv2d(op) => FusedConv2d { packed: true, ..op.into() }.into(),
        Op::FusedConv2d(op) => FusedConv2d { packed: true, ..op }.into(),
        Op::Conv2dInputGrad(op) => Conv2dInputGrad { packed: true, ..op }.into(),
        other => other,
    }
}

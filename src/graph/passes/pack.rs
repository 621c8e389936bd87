//! Puts convolution weights into the backend's packed order; weights used several times are packed once a version.

use super::{Rewrite, WHAT, Wishes};
use crate::cancel::Stop;
use crate::error::Result;
use crate::graph::ops::{ConvGeometry, PackConv, PackFor};
use crate::graph::{Graph, Op, ValueId};
use crate::memory;
use crate::tensor::DType;
use std::collections::HashMap;

/// Rewrites every convolution that the backend wants packed.
pub fn pack<'s>(old: &Graph, backend: &dyn Wishes, stop: Stop<'s>) -> Result<Option<Rewrite<'s>>> {
    let mut rewrite = Rewrite::start(old, stop)?;
    // By the value whose memory the weights are (a linear layer views its matrix anew at each use), its rows, and what the packing depends on.
    let mut done: HashMap<(ValueId, usize, PackFor, ConvGeometry, DType), ValueId> = HashMap::new();
    let roots = old.roots()?;
    for node in old.nodes() {
        let (purpose, geometry) = match &node.op {
            Op::Conv2d(c) if !c.packed => (PackFor::Forward, c.geometry),
            Op::Conv2dInputGrad(c) if !c.packed => (PackFor::InputGrad, c.geometry),
            _ => {
                rewrite.copy(old, node)?;
                continue;
            }
        };
        let dtype = old.value(node.inputs[0]).ty.dtype;
        let Some(packed_len) = backend.packed_len(purpose, geometry, old.shape(node.inputs[1]), dtype) else {
            rewrite.copy(old, node)?;
            continue;
        };
        let mut operands = rewrite.operands(node)?;
        let weight = node.inputs[1];
        let key = (roots[weight.0 as usize], old.shape(weight)[0], purpose, geometry, dtype);
        operands[1] = match done.get(&key) {
            Some(packed) => *packed,
            None => {
                let packed = rewrite.beside(node).push1(PackConv { purpose, geometry, packed_len, dtype }.into(), &[operands[1]])?;
                rewrite.graph.set_name(packed, format!("{}.packed", old.value(node.inputs[1]).name));
                memory::insert(&mut done, key, packed, WHAT)?;
                packed
            }
        };
        let op = match node.op.clone() {
            Op::Conv2d(mut c) => {
                c.packed = true;
                Op::Conv2d(c)
            }
            Op::Conv2dInputGrad(mut c) => {
                c.packed = true;
                Op::Conv2dInputGrad(c)
            }
            other => other,
        };
        rewrite.emit(old, node, op, &operands)?;
    }
    rewrite.finish(old).map(Some)
}

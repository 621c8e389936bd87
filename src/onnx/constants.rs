//! What follows from parameters and constants alone, computed by the CPU backend: the part of a plan that runs once.

use super::writer::WHAT;
use crate::backend::cpu::CpuBackend;
use crate::backend::{Backend, Executable};
use crate::cancel::Stop;
use crate::error::{Error, Result};
use crate::graph::{Graph, Node, Numerics, Op, Origin, ValueId};
use crate::memory;
use crate::nn::Model;
use crate::tensor::{DType, Tensor};
use std::collections::HashMap;
use std::sync::Arc;

/// The value whose memory a view is.
pub(super) fn root(g: &Graph, v: ValueId) -> ValueId {
    match producer(g, v) {
        Some(node) if node.is_view() => root(g, node.inputs[0]),
        _ => v,
    }
}

/// The node that gives a value.
pub(super) fn producer(g: &Graph, v: ValueId) -> Option<&Node> {
    match g.value(v).origin {
        Origin::Node { node, .. } => Some(&g.nodes()[node.0 as usize]),
        _ => None,
    }
}

/// Which values follow from parameters and constants alone.
pub(super) fn known(g: &Graph) -> Result<Vec<bool>> {
    let mut known = memory::with_capacity(g.values().len(), WHAT)?;
    known.extend(g.values().iter().map(|v| matches!(v.origin, Origin::State | Origin::Const(_) | Origin::Fill(_))));
    for node in g.nodes() {
        let of_known = node.inputs.iter().all(|v| known[v.0 as usize]);
        node.outputs.iter().for_each(|v| known[v.0 as usize] = of_known);
    }
    Ok(known)
}

/// Those of them that other nodes read and that are neither parameters nor made of them when a file is loaded. Of a program that is of no use afterwards.
pub(super) fn computed(mut g: Graph, model: &Model, stop: Stop) -> Result<HashMap<ValueId, Arc<Tensor>>> {
    let known = known(&g)?;
    let is_known = |v: &ValueId| known[v.0 as usize];
    let mut wanted: Vec<ValueId> = vec![];
    for node in g.nodes().iter().filter(|node| !is_known(&node.outputs[0])) {
        for v in node.inputs.iter().filter(|v| is_known(v)).map(|v| root(&g, *v)) {
            let written = producer(&g, v).is_none_or(|node| matches!(node.op, Op::Cast(_) | Op::Dequantize(_)));
            if !written && !wanted.contains(&v) {
                memory::push(&mut wanted, v, WHAT)?;
            }
        }
    }
    let mut all = HashMap::new();
    if wanted.is_empty() {
        return Ok(all);
    }
    wanted.iter().for_each(|v| g.tap(*v));
    let mut exec = CpuBackend::new(1)?.compile_until(&g, &Numerics::of(DType::F32)?, stop)?;
    for (name, tensor) in model.weights.iter().filter(|(name, _)| g.storage(name).is_some()) {
        exec.bind(name, tensor.clone())?;
    }
    exec.prepare_until(stop)?;
    for v in wanted {
        memory::insert(&mut all, v, Arc::new(read(exec.as_ref(), &g, v)?), WHAT)?;
    }
    Ok(all)
}

fn read(exec: &dyn Executable, g: &Graph, v: ValueId) -> Result<Tensor> {
    let (bytes, ty) = (exec.read_bytes(v)?, &g.value(v).ty);
    match ty.dtype {
        DType::F32 => Tensor::from_slice(&ty.shape, &bytes.of::<f32>()?),
        DType::I32 => Tensor::from_slice(&ty.shape, &bytes.of::<i32>()?),
        other => Err(Error::internal(format!("a constant of {other:?}"))),
    }
}

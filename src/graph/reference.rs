//! Runs a graph in double precision by the ops' own `reference`: the yardstick of every backend.

use super::{Graph, OpDef, Origin, ValueId};
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use ndarray::{ArrayD, IxDyn};
use std::collections::HashMap;

/// A host array in double precision; integers are exact up to 2^53.
pub type Array = ArrayD<f64>;

/// A tensor's numbers in double precision.
pub fn to_array(tensor: &Tensor) -> Result<Array> {
    let data = match tensor.dtype() {
        // Not by way of f32, which has 24 bits.
        crate::tensor::DType::I32 => tensor.as_slice::<i32>()?.iter().map(|v| f64::from(*v)).collect(),
        crate::tensor::DType::I64 => tensor.as_slice::<i64>()?.iter().map(|v| *v as f64).collect(),
        _ => tensor.to_f32_vec()?.into_iter().map(f64::from).collect(),
    };
    array(tensor.shape(), data)
}

/// An array from its parts.
pub fn array(shape: &[usize], data: Vec<f64>) -> Result<Array> {
    ArrayD::from_shape_vec(IxDyn(shape), data).map_err(|e| Error::internal(format!("reference array {shape:?}: {e}")))
}

/// Evaluates every node, starting from the given inputs and first state versions; returns all values.
pub fn evaluate(graph: &Graph, given: &HashMap<ValueId, Array>) -> Result<HashMap<ValueId, Array>> {
    let mut known = given.clone();
    for (i, value) in graph.values().iter().enumerate() {
        let constant = match &value.origin {
            Origin::Const(tensor) => to_array(tensor)?,
            Origin::Fill(number) => Array::from_elem(IxDyn(&value.ty.shape), f64::from(*number)),
            _ => continue,
        };
        known.insert(ValueId(i as u32), constant);
    }
    for node in graph.nodes() {
        let inputs = node
            .inputs
            .iter()
            .map(|i| known.get(i).ok_or_else(|| Error::invalid(format!("no value given for '{}'", graph.value(*i).name))))
            .collect::<Result<Vec<_>>>()?;
        let outputs = node.op.reference(&inputs).map_err(|e| e.context(node.op.name()))?;
        for (id, out) in node.outputs.iter().zip(outputs) {
            if out.shape() != graph.shape(*id) {
                return Err(Error::internal(format!("{}: reference shape {:?}, inferred {:?}", node.op.name(), out.shape(), graph.shape(*id))));
            }
            known.insert(*id, out);
        }
    }
    Ok(known)
}

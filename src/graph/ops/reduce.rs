//! Sums over broadcast dimensions.

use crate::error::{Error, Result};
use crate::graph::op::{Narrow, OpDef, activations, arity};
use crate::graph::reference::Array;
use crate::graph::{GradCx, TensorType, ValueId};
use ndarray::Axis;

use super::{Binary, BinaryKind};

/// Sums x, of any float type, down to `shape`, which has the same rank and 1 where a dimension is summed. Added and given in f32. The inverse of broadcasting.
#[derive(Clone, Debug, PartialEq)]
pub struct ReduceSum {
    /// Result shape.
    pub shape: Vec<usize>,
}

impl ReduceSum {
    /// The sum as [outer, reduced, inner] → [outer, inner], which every sum over one run of neighbouring dimensions is.
    pub fn extent(&self, x: &[usize]) -> Result<[usize; 3]> {
        let summed: Vec<usize> = (0..x.len()).filter(|d| self.shape[*d] == 1 && x[*d] != 1).collect();
        let (first, last) = (summed.first().copied().unwrap_or(0), summed.last().copied().unwrap_or(0));
        if !summed.is_empty() && (first..=last).any(|d| x[d] != 1 && self.shape[d] != 1) {
            return Err(Error::unsupported(format!("sum of {x:?} to {:?}: the summed dimensions must be neighbours", self.shape)));
        }
        let outer: usize = x[..first].iter().product();
        let reduced: usize = if summed.is_empty() { 1 } else { x[first..=last].iter().product() };
        Ok([outer, reduced, x.iter().product::<usize>() / outer / reduced])
    }
}

impl OpDef for ReduceSum {
    fn name(&self) -> &'static str {
        "reduce_sum"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 1..=1)?;
        activations(inputs)?;
        let from = &inputs[0].shape;
        if from.len() != self.shape.len() || from.iter().zip(&self.shape).any(|(a, b)| a != b && *b != 1) {
            return Err(Error::shape(format!("cannot sum {from:?} to {:?}", self.shape)));
        }
        Ok(vec![TensorType::f32(&self.shape)])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Follow
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let mut y = inputs[0].clone();
        for axis in (0..self.shape.len()).filter(|a| self.shape[*a] == 1) {
            y = y.sum_axis(Axis(axis)).insert_axis(Axis(axis));
        }
        Ok(vec![y])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        let dy = cx.output_grad(0)?;
        let full = cx.input_type(0).shape;
        let zeros = cx.graph.constant_fill("grad.zeros", &full, 0.0)?;
        Ok(vec![Some(cx.graph.push1(Binary { kind: BinaryKind::Add }.into(), &[zeros, dy])?)])
    }
}

//! The last two dimensions exchanged.

use super::shape::check_moved;
use crate::error::{Error, Result};
use crate::graph::op::{Narrow, OpDef, arity};
use crate::graph::reference::Array;
use crate::graph::{GradCx, TensorType, ValueId};

/// y[...,b,a] = x[...,a,b].
#[derive(Clone, Debug, PartialEq)]
pub struct Transpose;

impl OpDef for Transpose {
    fn name(&self) -> &'static str {
        "transpose"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 1..=1)?;
        check_moved(inputs[0])?;
        let mut ty = inputs[0].clone();
        let [.., a, b] = &mut ty.shape[..] else {
            return Err(Error::shape(format!("exchanges the last two dimensions of x [...,A,B], found shape {:?}", inputs[0].shape)));
        };
        std::mem::swap(a, b);
        Ok(vec![ty])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Follow
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let mut y = inputs[0].view();
        let rank = y.ndim();
        y.swap_axes(rank - 2, rank - 1);
        Ok(vec![y.as_standard_layout().into_owned()])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        let dy = cx.output_grad(0)?;
        Ok(vec![Some(cx.graph.transpose(dy)?)])
    }
}

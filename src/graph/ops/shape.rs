//! Ops that move or rename data without arithmetic.

use crate::error::{Error, Result};
use crate::graph::op::{Alias, Narrow, OpDef, arity};
use crate::graph::reference::Array;
use crate::graph::{GradCx, TensorType, ValueId};
use crate::tensor::checked_numel;
use ndarray::{Axis, Slice as Range};

/// Refuses what kernels do not move: they know elements of two and four bytes.
pub(super) fn check_moved(ty: &TensorType) -> Result<()> {
    if !matches!(ty.dtype.size(), 2 | 4) {
        return Err(Error::unsupported(format!("moves elements of two and four bytes, found {:?}", ty.dtype)));
    }
    Ok(())
}

/// The axis that these ops work along.
fn last_axis(ty: &TensorType) -> Result<usize> {
    check_moved(ty)?;
    ty.shape.len().checked_sub(1).ok_or_else(|| Error::shape("a scalar, shape [], has no last axis"))
}

/// Joins two or more values along the last axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Concat;

impl Concat {
    /// The most values that one node joins.
    pub const MOST: usize = 8;
}

impl OpDef for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 2..=Self::MOST)?;
        let mut shape = inputs[0].shape.clone();
        let last = last_axis(inputs[0])?;
        for other in &inputs[1..] {
            if other.shape.len() != shape.len() || other.shape[..last] != shape[..last] || other.dtype != inputs[0].dtype {
                return Err(Error::shape(format!("cannot join {:?} and {:?} along the last axis", shape, other.shape)));
            }
            shape[last] = shape[last].checked_add(other.shape[last]).ok_or_else(|| Error::shape(format!("{shape:?} and {:?} overflow", other.shape)))?;
        }
        Ok(vec![TensorType::new(inputs[0].dtype, &shape)])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Follow
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let views: Vec<_> = inputs.iter().map(|a| a.view()).collect();
        Ok(vec![ndarray::concatenate(Axis(inputs[0].ndim() - 1), &views).map_err(super::conv2d::bug)?])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        let dy = cx.output_grad(0)?;
        let mut start = 0;
        let mut grads = vec![];
        for i in 0..cx.input_count() {
            let len = *cx.input_type(i).shape.last().unwrap_or(&0);
            grads.push(if cx.wants(i) { Some(cx.graph.push1(Slice { start, len }.into(), &[dy])?) } else { None });
            start += len;
        }
        Ok(grads)
    }
}

/// Takes `len` entries from `start` along the last axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// First entry.
    pub start: usize,
    /// Number of entries.
    pub len: usize,
}

impl OpDef for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 1..=1)?;
        let mut ty = inputs[0].clone();
        let axis = last_axis(inputs[0])?;
        let end = self.start.saturating_add(self.len);
        if end > ty.shape[axis] {
            return Err(Error::shape(format!("slice {}..{end} of the last axis of {:?}", self.start, ty.shape)));
        }
        ty.shape[axis] = self.len;
        Ok(vec![ty])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Follow
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let axis = Axis(inputs[0].ndim() - 1);
        Ok(vec![inputs[0].slice_axis(axis, Range::from(self.start..self.start + self.len)).to_owned()])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        let dy = cx.output_grad(0)?;
        let full = *cx.input_type(0).shape.last().unwrap_or(&0);
        Ok(vec![Some(cx.graph.push1(Pad { before: self.start, after: full - self.start - self.len }.into(), &[dy])?)])
    }
}

/// Puts zeros before and after along the last axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Pad {
    /// Zeros in front.
    pub before: usize,
    /// Zeros behind.
    pub after: usize,
}

impl OpDef for Pad {
    fn name(&self) -> &'static str {
        "pad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 1..=1)?;
        let mut ty = inputs[0].clone();
        let axis = last_axis(inputs[0])?;
        let full = ty.shape[axis].checked_add(self.before).and_then(|n| n.checked_add(self.after));
        ty.shape[axis] = full.ok_or_else(|| Error::shape(format!("padding {:?} by {} and {}", ty.shape, self.before, self.after)))?;
        Ok(vec![ty])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Follow
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let last = inputs[0].ndim() - 1;
        let mut shape = inputs[0].shape().to_vec();
        let len = shape[last];
        shape[last] += self.before + self.after;
        let mut y = Array::zeros(shape);
        y.slice_axis_mut(Axis(last), Range::from(self.before..self.before + len)).assign(inputs[0]);
        Ok(vec![y])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        let dy = cx.output_grad(0)?;
        let len = *cx.input_type(0).shape.last().unwrap_or(&0);
        Ok(vec![Some(cx.graph.push1(Slice { start: self.before, len }.into(), &[dy])?)])
    }
}

/// The same elements under another shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Reshape {
    /// New shape.
    pub shape: Vec<usize>,
}

impl OpDef for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 1..=1)?;
        if checked_numel(&self.shape)? != inputs[0].numel() {
            return Err(Error::shape(format!("cannot view {:?} as {:?}", inputs[0].shape, self.shape)));
        }
        Ok(vec![TensorType::new(inputs[0].dtype, &self.shape)])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Follow
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        Ok(vec![inputs[0].to_shape(self.shape.as_slice()).map_err(super::conv2d::bug)?.to_owned()])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        let dy = cx.output_grad(0)?;
        let shape = cx.input_type(0).shape;
        Ok(vec![Some(cx.graph.reshape(dy, &shape)?)])
    }

    fn alias(&self) -> Alias {
        Alias::View
    }
}

/// The same value, through which no gradient flows.
#[derive(Clone, Debug, PartialEq)]
pub struct StopGradient;

impl OpDef for StopGradient {
    fn name(&self) -> &'static str {
        "stop_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 1..=1)?;
        Ok(vec![inputs[0].clone()])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Follow
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        Ok(vec![inputs[0].clone()])
    }

    fn grad(&self, _cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        Ok(vec![None])
    }

    fn alias(&self) -> Alias {
        Alias::View
    }
}

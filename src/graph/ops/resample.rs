//! Nearest-neighbour doubling and 2x2 average pooling over NHWC.

use super::Affine;
use super::conv2d::nhwc;
use crate::error::{Error, Result};
use crate::graph::op::{Narrow, OpDef, arity};
use crate::graph::reference::Array;
use crate::graph::{GradCx, TensorType, ValueId};

/// y[n,2h+i,2w+j,c] = x[n,h,w,c].
#[derive(Clone, Debug, PartialEq)]
pub struct Upsample2x;

/// y[n,h,w,c] = mean of the 2x2 block of x.
#[derive(Clone, Debug, PartialEq)]
pub struct AvgPool2x;

impl OpDef for Upsample2x {
    fn name(&self) -> &'static str {
        "upsample2x"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 1..=1)?;
        let [n, h, w, c] = nhwc(inputs[0])?;
        Ok(vec![TensorType::new(inputs[0].dtype, &[n, 2 * h, 2 * w, c])])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Follow
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let s = inputs[0].shape();
        Ok(vec![Array::from_shape_fn(vec![s[0], 2 * s[1], 2 * s[2], s[3]], |i| inputs[0][[i[0], i[1] / 2, i[2] / 2, i[3]]])])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        let dy = cx.output_grad(0)?;
        let mean = cx.graph.push1(AvgPool2x.into(), &[dy])?;
        Ok(vec![Some(cx.graph.push1(Affine { scale: 4.0, shift: 0.0 }.into(), &[mean])?)])
    }
}

impl OpDef for AvgPool2x {
    fn name(&self) -> &'static str {
        "avg_pool2x"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 1..=1)?;
        let [n, h, w, c] = nhwc(inputs[0])?;
        if !h.is_multiple_of(2) || !w.is_multiple_of(2) {
            return Err(Error::shape(format!("average pooling halves even sizes only, found {h}x{w}")));
        }
        Ok(vec![TensorType::new(inputs[0].dtype, &[n, h / 2, w / 2, c])])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Follow
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (x, s) = (inputs[0], inputs[0].shape());
        Ok(vec![Array::from_shape_fn(vec![s[0], s[1] / 2, s[2] / 2, s[3]], |i| {
            let at = |a: usize, b: usize| x[[i[0], 2 * i[1] + a, 2 * i[2] + b, i[3]]];
            0.25 * (at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1))
        })])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        let dy = cx.output_grad(0)?;
        let up = cx.graph.push1(Upsample2x.into(), &[dy])?;
        Ok(vec![Some(cx.graph.push1(Affine { scale: 0.25, shift: 0.0 }.into(), &[up])?)])
    }
}

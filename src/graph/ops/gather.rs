//! Row look-ups (embeddings, dataset rows) and the integer arithmetic that addresses them.

use crate::error::{Error, Result};
use crate::graph::op::{Narrow, OpDef, arity, expect_dtype, expect_shape, rows};
use crate::graph::reference::Array;
use crate::graph::{GradCx, TensorType, ValueId};
use crate::tensor::DType;
use ndarray::Axis;

/// y[b] = table[index[b]]. Operands: table [K,...] of any type, index i32 [B]. Result [B,...]: f32 from float tables, i32 from i32.
/// The host checks indices that come from users; a kernel clamps, so that no index can leave the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Gather;

fn row(index: f64, rows: usize) -> usize {
    (index.max(0.0) as usize).min(rows - 1)
}

impl OpDef for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 2..=2)?;
        let (table, index) = (inputs[0], inputs[1]);
        if index.dtype != DType::I32 || index.shape.len() != 1 || table.shape.is_empty() {
            return Err(Error::shape(format!("needs a table and an i32 index [B], found {:?} {:?}", index.dtype, index.shape)));
        }
        let dtype = match table.dtype {
            DType::F32 | DType::F16 => DType::F32,
            DType::I32 => DType::I32,
            other => return Err(Error::unsupported(format!("tables of {other:?}"))),
        };
        let mut shape = table.shape.clone();
        shape[0] = index.shape[0];
        Ok(vec![TensorType::new(dtype, &shape)])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Wide
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let rows: Vec<usize> = inputs[1].iter().map(|i| row(*i, inputs[0].shape()[0])).collect();
        Ok(vec![inputs[0].select(Axis(0), &rows)])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        let (dy, index) = (cx.output_grad(0)?, cx.input(1)?);
        let rows = cx.input_type(0).shape[0];
        Ok(vec![Some(cx.graph.push1(GatherGrad { rows }.into(), &[dy, index])?), None])
    }
}

/// dtable [rows,...] from dy [B,...] and index [B]: rows that share an index are added in the order of the batch.
#[derive(Clone, Debug, PartialEq)]
pub struct GatherGrad {
    /// K.
    pub rows: usize,
}

impl OpDef for GatherGrad {
    fn name(&self) -> &'static str {
        "gather_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 2..=2)?;
        expect_dtype(inputs[0], DType::F32)?;
        expect_dtype(inputs[1], DType::I32)?;
        let batch = rows(inputs[0]).map_err(|e| e.context(format!("gradient of rows for index {:?}", inputs[1].shape)))?;
        expect_shape("index", inputs[1], &[batch])?;
        let mut shape = inputs[0].shape.clone();
        shape[0] = self.rows;
        Ok(vec![TensorType::f32(&shape)])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Wide
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let mut shape = inputs[0].shape().to_vec();
        shape[0] = self.rows;
        let mut table = Array::zeros(shape);
        for (dy, index) in inputs[0].outer_iter().zip(inputs[1]) {
            table.index_axis_mut(Axis(0), row(*index, self.rows)).scaled_add(1.0, &dy);
        }
        Ok(vec![table])
    }
}

/// y = scale a + b + shift over i32; a [B] or [1], for all rows the same, b [B]: addresses (pair, sample) rows of a trajectory cache.
#[derive(Clone, Debug, PartialEq)]
pub struct IntAffine {
    /// Factor on a.
    pub scale: i32,
    /// Constant.
    pub shift: i32,
}

impl OpDef for IntAffine {
    fn name(&self) -> &'static str {
        "int_affine"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 2..=2)?;
        if inputs[0].shape != [1] {
            expect_shape("b", inputs[1], &inputs[0].shape)?;
        }
        if inputs[0].dtype != DType::I32 || inputs[1].dtype != DType::I32 {
            return Err(Error::unsupported("needs i32 operands"));
        }
        Ok(vec![inputs[1].clone()])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Wide
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        Ok(vec![inputs[0] * f64::from(self.scale) + inputs[1] + f64::from(self.shift)])
    }
}

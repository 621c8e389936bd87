//! Short names for the nodes that model builders write most.

use super::ops::*;
use super::{Graph, Op, ValueId};
use crate::error::{Error, Result};
use crate::memory;
use crate::tensor::Tensor;

impl Graph {
    /// The same elements under another shape; nothing is copied.
    pub fn reshape(&mut self, x: ValueId, shape: &[usize]) -> Result<ValueId> {
        if self.shape(x) == shape {
            return Ok(x);
        }
        self.push1(Reshape { shape: shape.to_vec() }.into(), &[x])
    }

    /// conv2d with optional bias; x NHWC, w OIHW.
    pub fn conv2d(&mut self, x: ValueId, w: ValueId, bias: Option<ValueId>, stride: usize, pad: [usize; 4]) -> Result<ValueId> {
        let &[out_channels, _, r, s] = self.shape(w) else {
            return Err(Error::shape(format!("weights '{}' must be [O,C,R,S], found {:?}", self.value(w).name, self.shape(w))));
        };
        let op = Conv2d::new(ConvGeometry { kernel: [r, s], stride, pad }, out_channels, bias.is_some());
        let operands: Vec<_> = [x, w].into_iter().chain(bias).collect();
        self.push1(op.into(), &operands)
    }

    /// x [..., I] times w [O, I] transposed, plus bias [O]: the 1x1 convolution at every row.
    pub fn linear(&mut self, x: ValueId, w: ValueId, bias: Option<ValueId>) -> Result<ValueId> {
        let mut shape = self.shape(x).to_vec();
        let (&[o, i], false) = (self.shape(w), shape.is_empty()) else {
            return Err(Error::shape(format!("a linear layer needs x [..., I] and w [O, I], found {shape:?} and {:?}", self.shape(w))));
        };
        let rows = shape[..shape.len() - 1].iter().product();
        let flat = self.reshape(x, &[rows, 1, 1, *shape.last().unwrap_or(&i)])?;
        let kernel = self.reshape(w, &[o, i, 1, 1])?;
        let y = self.conv2d(flat, kernel, bias, 1, [0; 4])?;
        if let Some(last) = shape.last_mut() {
            *last = o;
        }
        self.reshape(y, &shape)
    }

    /// The sum of c_j v_j with constant coefficients.
    pub fn weighted_sum(&mut self, terms: &[(f64, ValueId)]) -> Result<ValueId> {
        let coefficients: Vec<f32> = terms.iter().map(|t| t.0 as f32).collect();
        let table = self.constant("coefficients", Tensor::from_slice(&[1, terms.len()], &coefficients)?)?;
        let operands: Vec<_> = std::iter::once(table).chain(terms.iter().map(|t| t.1)).collect();
        self.push1(Combine { first: 0 }.into(), &operands)
    }

    /// Values joined along the last axis, however many: one node for each eight, and for each eight of those.
    pub fn concat(&mut self, values: &[ValueId]) -> Result<ValueId> {
        let mut left = memory::copy(values, "values to join")?;
        while left.len() > 1 {
            let join = |part: &[ValueId]| if let [one] = part { Ok(*one) } else { self.push1(Concat.into(), part) };
            left = memory::try_collect(left.chunks(Concat::MOST).map(join), "values to join")?;
        }
        left.first().copied().ok_or_else(|| Error::shape("there is nothing to join"))
    }

    /// x [...,A,B] as [...,B,A]: its last two dimensions exchanged. Nothing is copied where one of them is 1.
    pub fn transpose(&mut self, x: ValueId) -> Result<ValueId> {
        match self.shape(x) {
            &[ref lead @ .., a, b] if a == 1 || b == 1 => {
                let shape = [lead, &[b, a]].concat();
                self.reshape(x, &shape)
            }
            _ => self.push1(Transpose.into(), &[x]),
        }
    }

    /// a + b with broadcasting.
    pub fn add(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.push1(Binary { kind: BinaryKind::Add }.into(), &[a, b])
    }

    /// a - b with broadcasting.
    pub fn sub(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.push1(Binary { kind: BinaryKind::Sub }.into(), &[a, b])
    }

    /// a b with broadcasting.
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.push1(Binary { kind: BinaryKind::Mul }.into(), &[a, b])
    }

    /// scale x + shift; the value itself for (1, 0).
    pub fn affine(&mut self, x: ValueId, scale: f32, shift: f32) -> Result<ValueId> {
        if scale == 1.0 && shift == 0.0 {
            return Ok(x);
        }
        self.push1(Affine { scale, shift }.into(), &[x])
    }

    /// f(x), element by element.
    pub fn unary(&mut self, kind: UnaryKind, x: ValueId) -> Result<ValueId> {
        self.push1(Unary { kind }.into(), &[x])
    }

    /// GroupNorm, optionally followed by SiLU.
    pub fn group_norm(&mut self, x: ValueId, gamma: ValueId, beta: ValueId, groups: usize, eps: f64, silu: bool) -> Result<ValueId> {
        Ok(self.push(GroupNorm::new(groups, eps, silu).into(), &[x, gamma, beta])?[0])
    }

    /// x summed down to `shape` (1 where a dimension is summed): one node for each run of neighbouring dimensions, which is what kernels know.
    pub fn reduce_sum(&mut self, x: ValueId, shape: &[usize]) -> Result<ValueId> {
        let mut left = self.shape(x).to_vec();
        if left.len() != shape.len() {
            return self.push1(ReduceSum { shape: shape.to_vec() }.into(), &[x]); // refused there
        }
        let (mut sum, mut open) = (x, false);
        for (d, size) in shape.iter().enumerate() {
            if left[d] != *size {
                (left[d], open) = (*size, true);
            } else if *size != 1 && open {
                sum = self.push1(ReduceSum { shape: left.clone() }.into(), &[sum])?;
                open = false;
            }
        }
        if open { self.push1(ReduceSum { shape: left }.into(), &[sum]) } else { Ok(sum) }
    }

    /// Mean of all elements [1].
    pub fn mean(&mut self, x: ValueId) -> Result<ValueId> {
        let shape = vec![1; self.shape(x).len()];
        let count = self.value(x).ty.numel();
        let sum = self.push1(ReduceSum { shape }.into(), &[x])?;
        let sum = self.reshape(sum, &[1])?;
        self.affine(sum, 1.0 / count as f32, 0.0)
    }

    /// Rows of a table.
    pub fn gather(&mut self, table: ValueId, index: ValueId) -> Result<ValueId> {
        self.push1(Op::Gather(Gather), &[table, index])
    }
}

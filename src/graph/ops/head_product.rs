//! Products of activations with activations, head by head: what linear attention is made of.

use crate::error::{Error, Result};
use crate::graph::op::{Narrow, OpDef, activations, arity};
use crate::graph::reference::Array;
use crate::graph::{GradCx, TensorType, ValueId};

/// What a product of heads sums over. Each is the gradient of the other two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// y[n,h,i,j] = sum_t a[n,t,h,i] b[n,t,h,j]: a [N,T,heads*I], b [N,T,heads*J], y [N,heads*I,J].
    Tokens,
    /// y[n,t,h,j] = sum_i a[n,t,h,i] b[n,h,i,j]: a [N,T,heads*I], b [N,heads*I,J], y [N,T,heads*J].
    Rows,
    /// y[n,t,h,i] = sum_j a[n,t,h,j] b[n,h,i,j]: a [N,T,heads*J], b [N,heads*I,J], y [N,T,heads*I].
    Columns,
}

/// y = a b for each sample and head.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadProduct {
    /// Number of heads.
    pub heads: usize,
    /// What is summed.
    pub over: Over,
}

/// The sizes of a product, whatever is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadSizes {
    /// Samples.
    pub n: usize,
    /// Tokens of a sample.
    pub tokens: usize,
    /// Rows of a head's matrix.
    pub rows: usize,
    /// Columns of a head's matrix.
    pub columns: usize,
}

impl HeadProduct {
    /// The sizes that operands of these shapes have, if they fit each other.
    pub fn sizes(&self, a: &[usize], b: &[usize]) -> Result<HeadSizes> {
        let misfit = || Error::shape(format!("{a:?} and {b:?} do not fit a product over {:?} of {} heads", self.over, self.heads));
        let (&[n, tokens, width], &[b_n, second, last]) = (a, b) else { return Err(misfit()) };
        let each = |width: usize| width.checked_div(self.heads).filter(|each| each * self.heads == width).ok_or_else(misfit);
        let (matched, rows, columns) = match self.over {
            Over::Tokens => (second == tokens, each(width)?, each(last)?),
            Over::Rows => (second == width, each(width)?, last),
            Over::Columns => (each(width)? == last, each(second)?, last),
        };
        if n == b_n && matched { Ok(HeadSizes { n, tokens, rows, columns }) } else { Err(misfit()) }
    }

    /// The shape of the result.
    fn result(&self, sizes: HeadSizes) -> [usize; 3] {
        let HeadSizes { n, tokens, rows, columns } = sizes;
        match self.over {
            Over::Tokens => [n, self.heads * rows, columns],
            Over::Rows => [n, tokens, self.heads * columns],
            Over::Columns => [n, tokens, self.heads * rows],
        }
    }

    /// The product of a head as one of matrices, which is all that a kernel needs to know.
    pub fn matrices(&self, sizes: HeadSizes) -> HeadMatrices {
        let HeadSizes { tokens, rows, columns, .. } = sizes;
        let of_tokens = |width: usize| Strided { sample: tokens * self.heads * width, head: width, row: self.heads * width, column: 1 };
        let matrix = Strided { sample: self.heads * rows * columns, head: rows * columns, row: columns, column: 1 };
        let turned = |of: Strided| Strided { row: of.column, column: of.row, ..of };
        let (extent, factors, result) = match self.over {
            Over::Tokens => ([rows, tokens, columns], [turned(of_tokens(rows)), of_tokens(columns)], matrix),
            Over::Rows => ([tokens, rows, columns], [of_tokens(rows), matrix], of_tokens(columns)),
            Over::Columns => ([tokens, columns, rows], [of_tokens(columns), turned(matrix)], of_tokens(rows)),
        };
        HeadMatrices { rows: extent[0], depth: extent[1], columns: extent[2], factors, result }
    }
}

/// Where the matrices of an operand are: element [r, c] of a sample's head is at sample * .. + head * .. + r * row + c * column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strided {
    /// From sample to sample.
    pub sample: usize,
    /// From head to head.
    pub head: usize,
    /// From row to row.
    pub row: usize,
    /// From column to column.
    pub column: usize,
}

/// A product of matrices: [rows, depth] by [depth, columns].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadMatrices {
    /// Rows of the left factor and of the result.
    pub rows: usize,
    /// Products that are summed for a number of the result.
    pub depth: usize,
    /// Columns of the right factor and of the result.
    pub columns: usize,
    /// The two operands.
    pub factors: [Strided; 2],
    /// The result, whose columns are neighbours.
    pub result: Strided,
}

impl OpDef for HeadProduct {
    fn name(&self) -> &'static str {
        "head_product"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 2..=2)?;
        let dtype = activations(inputs)?;
        let sizes = self.sizes(&inputs[0].shape, &inputs[1].shape)?;
        Ok(vec![TensorType::new(dtype, &self.result(sizes))])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Operands(vec![0, 1])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let (a, b) = (inputs[0], inputs[1]);
        let sizes = self.sizes(a.shape(), b.shape())?;
        let HeadSizes { n, tokens, rows, columns } = sizes;
        let mut y = Array::zeros(self.result(sizes).to_vec());
        let heads = (0..n).flat_map(|s| (0..self.heads).map(move |h| (s, h)));
        for (s, h) in heads {
            for t in 0..tokens {
                for i in 0..rows {
                    for j in 0..columns {
                        let (row, column) = (h * rows + i, h * columns + j);
                        match self.over {
                            Over::Tokens => y[[s, row, j]] += a[[s, t, row]] * b[[s, t, column]],
                            Over::Rows => y[[s, t, column]] += a[[s, t, row]] * b[[s, row, j]],
                            Over::Columns => y[[s, t, row]] += a[[s, t, column]] * b[[s, row, j]],
                        }
                    }
                }
            }
        }
        Ok(vec![y])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        let (a, b, dy) = (cx.input(0)?, cx.input(1)?, cx.output_grad(0)?);
        let [of_a, of_b] = match self.over {
            Over::Tokens => [(Over::Columns, [b, dy]), (Over::Rows, [a, dy])],
            Over::Rows => [(Over::Columns, [dy, b]), (Over::Tokens, [a, dy])],
            Over::Columns => [(Over::Rows, [dy, b]), (Over::Tokens, [dy, a])],
        };
        let wanted = [cx.wants(0), cx.wants(1)];
        let mut product = |wanted: bool, (over, operands): (Over, [ValueId; 2])| {
            wanted.then(|| cx.graph.push1(HeadProduct { heads: self.heads, over }.into(), &operands)).transpose()
        };
        Ok(vec![product(wanted[0], of_a)?, product(wanted[1], of_b)?])
    }
}

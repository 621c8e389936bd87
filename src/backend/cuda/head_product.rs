//! Products of activations head by head, on `cuda/head_product.cu`.

use super::launch::{Launch, Lowered, Param};
use super::shared::head_product::{THREADS, TILE};
use super::site::Site;
use crate::error::{Error, Result};
use crate::graph::ops::{HeadProduct, HeadSizes, Over};

/// The kernels' view of an operand: where samples and heads begin, and how far apart the elements of a head's rows and columns are.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct View {
    sample: i32,
    head: i32,
    row: i32,
    column: i32,
}

/// The kernels' view of the op: y = a b of every sample and head.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Product {
    heads: i32,
    rows: i32,
    depth: i32,
    columns: i32,
    a: View,
    b: View,
    y: View,
}

// SAFETY: numbers of four bytes, as `Product` in cuda/head_product.cu.
unsafe impl Param for Product {}

fn view_of(op: &HeadProduct, sizes: HeadSizes) -> Result<Product> {
    let HeadSizes { tokens, rows, columns, .. } = sizes;
    let int =
        |size: usize| i32::try_from(size).map_err(|_| Error::unsupported(format!("{tokens} tokens of {} heads are too many for the CUDA backend", op.heads)));
    let token_major = |width: usize| {
        let pitch = op.heads * width;
        Ok::<_, Error>(View { sample: int(tokens * pitch)?, head: int(width)?, row: int(pitch)?, column: 1 })
    };
    let matrix = View { sample: int(op.heads * rows * columns)?, head: int(rows * columns)?, row: int(columns)?, column: 1 };
    let turned = |view: View| View { row: view.column, column: view.row, ..view };
    let (heads, [tokens, rows_of, columns_of]) = (int(op.heads)?, [int(tokens)?, int(rows)?, int(columns)?]);
    let ([rows_, depth, columns_], [a, b, y]) = match op.over {
        Over::Tokens => ([rows_of, tokens, columns_of], [turned(token_major(rows)?), token_major(columns)?, matrix]),
        Over::Rows => ([tokens, rows_of, columns_of], [token_major(rows)?, matrix, token_major(columns)?]),
        Over::Columns => ([tokens, columns_of, rows_of], [token_major(columns)?, turned(matrix), token_major(rows)?]),
    };
    Ok(Product { heads, rows: rows_, depth, columns: columns_, a, b, y })
}

pub(super) fn head_product(op: &HeadProduct, site: &Site) -> Result<Lowered> {
    let sizes = op.sizes(&site.inputs[0].shape, &site.inputs[1].shape)?;
    let product = view_of(op, sizes)?;
    let tiles = |size: i32| (size as usize).div_ceil(TILE);
    let blocks = sizes.n * op.heads * tiles(product.rows) * tiles(product.columns);
    Ok(Launch::new(site.kernel("head_product", 0)?, [blocks, 1, 1], THREADS)?.input(0).input(1).output(0).value(product).into())
}

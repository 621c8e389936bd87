//! Products of activations head by head, on `cuda/head_product.cu`.

use super::launch::{Launch, Lowered, Param};
use super::shared::head_product::{THREADS, TILE};
use super::site::Site;
use crate::error::{Error, Result};
use crate::graph::ops::{HeadMatrices, HeadProduct, Strided};

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

pub(super) fn head_product(op: &HeadProduct, site: &Site) -> Result<Lowered> {
    let sizes = op.sizes(&site.inputs[0].shape, &site.inputs[1].shape)?;
    let HeadMatrices { rows, depth, columns, factors: [a, b], result } = op.matrices(sizes);
    let int = |size: usize| i32::try_from(size).map_err(|_| Error::unsupported("a sample of a product of heads has too many numbers for the CUDA backend"));
    let view = |of: Strided| Ok::<_, Error>(View { sample: int(of.sample)?, head: int(of.head)?, row: int(of.row)?, column: int(of.column)? });
    let (a, b, y) = (view(a)?, view(b)?, view(result)?);
    let product = Product { heads: int(op.heads)?, rows: int(rows)?, depth: int(depth)?, columns: int(columns)?, a, b, y };
    let blocks = sizes.n * op.heads * rows.div_ceil(TILE) * columns.div_ceil(TILE);
    Ok(Launch::new(site.kernel("head_product", 0)?, [blocks, 1, 1], THREADS)?.input(0).input(1).output(0).value(product).into())
}

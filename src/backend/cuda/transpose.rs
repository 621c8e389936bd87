//! The last two dimensions exchanged, on `cuda/transpose.cu`.

use super::launch::{Launch, Lowered};
use super::shape::Unit;
use super::shared::transpose::{THREADS, TILE};
use super::site::Site;
use crate::error::{Error, Result};

pub(super) fn transpose(site: &Site) -> Result<Lowered> {
    let x = site.inputs[0];
    let [lead @ .., rows, columns] = &x.shape[..] else { return Err(Error::internal("a transposition of one dimension")) };
    // No more than there are elements.
    let tiles = lead.iter().product::<usize>() * rows.div_ceil(TILE) * columns.div_ceil(TILE);
    let kernel = Unit::of([x.dtype.size()])?.kernel("transpose");
    Ok(Launch::new(kernel, [tiles, 1, 1], THREADS)?.input(0).output(0).int(*rows)?.int(*columns)?.into())
}

//! Row look-ups and index arithmetic.

use super::kernel::{CpuKernel, Io};
use super::kernels::pool::Shared;
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::ops::{GatherGrad, IntAffine};
use crate::tensor::{DType, Element};

/// The row of an index; indices from users were checked, this only keeps the kernel inside its table.
fn row_of(index: i32, rows: usize) -> usize {
    (index.max(0) as usize).min(rows - 1)
}

struct Rows<T, U> {
    rows: usize,
    width: usize,
    convert: fn(T) -> U,
}

impl<T: Element, U: Element> CpuKernel for Rows<T, U> {
    fn run(&self, io: &Io) -> Result<()> {
        let (table, index) = (io.input::<T>(0), io.input::<i32>(1));
        let out = Shared::new(io.output::<U>(0));
        io.pool.run(index.len(), &|b| {
            let from = &table[row_of(index[b], self.rows) * self.width..][..self.width];
            // SAFETY: each row of the result belongs to one chunk.
            let to = unsafe { out.part(b * self.width, self.width) };
            to.iter_mut().zip(from).for_each(|(o, v)| *o = (self.convert)(*v));
        })
    }
}

pub(super) fn gather(table: &TensorType) -> Result<Box<dyn CpuKernel>> {
    let rows = table.shape[0];
    let width = table.numel() / rows;
    Ok(match table.dtype {
        DType::F32 => Box::new(Rows::<f32, f32> { rows, width, convert: |v| v }),
        DType::F16 => Box::new(Rows::<half::f16, f32> { rows, width, convert: half::f16::to_f32 }),
        DType::I32 => Box::new(Rows::<i32, i32> { rows, width, convert: |v| v }),
        other => return Err(Error::unsupported(format!("tables of {other:?}"))),
    })
}

struct ScatterAdd {
    rows: usize,
    width: usize,
}

pub(super) fn gather_grad(op: &GatherGrad, dy: &TensorType) -> Box<dyn CpuKernel> {
    Box::new(ScatterAdd { rows: op.rows, width: dy.numel() / dy.shape[0] })
}

impl CpuKernel for ScatterAdd {
    fn run(&self, io: &Io) -> Result<()> {
        let (dy, index) = (io.input::<f32>(0), io.input::<i32>(1));
        let table = Shared::new(io.output::<f32>(0));
        // One chunk a table row: it walks the batch in order, so rows with the same index add up in one order.
        io.pool.run(self.rows, &|r| {
            // SAFETY: each table row belongs to one chunk.
            let row = unsafe { table.part(r * self.width, self.width) };
            row.fill(0.0);
            for (b, _) in index.iter().enumerate().filter(|(_, i)| row_of(**i, self.rows) == r) {
                row.iter_mut().zip(&dy[b * self.width..]).for_each(|(o, v)| *o += v);
            }
        })
    }
}

struct Index {
    scale: i32,
    shift: i32,
}

pub(super) fn int_affine(op: &IntAffine) -> Box<dyn CpuKernel> {
    Box::new(Index { scale: op.scale, shift: op.shift })
}

impl CpuKernel for Index {
    fn run(&self, io: &Io) -> Result<()> {
        let (a, b) = (io.input::<i32>(0), io.input::<i32>(1));
        let same = (a.len() == 1).then_some(&a[0]);
        for ((o, a), b) in io.output::<i32>(0).iter_mut().zip(a.iter().chain(same.into_iter().cycle())).zip(b) {
            *o = a.wrapping_mul(self.scale).wrapping_add(*b).wrapping_add(self.shift);
        }
        Ok(())
    }
}

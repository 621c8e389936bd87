//! Products of activations head by head: a head's rows times a table, both side by side, whatever is summed.

use super::attention::{EIGHT, ROWS, WIDE, weighted};
use super::chunks::vectorised;
use super::kernel::{CpuKernel, Io};
use super::kernels::pool::{Shared, split};
use super::target::Target;
use crate::error::Result;
use crate::graph::TensorType;
use crate::graph::ops::{HeadMatrices, HeadProduct, Strided};

/// Rows of the result that a chunk has: enough to pay for a table that is turned for them,
const CHUNK: usize = 64;
/// and few enough for so many floats of them to stay near.
const ROOM: usize = 1 << 16;

struct Product {
    samples: usize,
    heads: usize,
    matrices: HeadMatrices,
    threads: usize,
}

pub(super) fn head_product(op: &HeadProduct, a: &TensorType, b: &TensorType, target: Target) -> Result<Box<dyn CpuKernel>> {
    let sizes = op.sizes(&a.shape, &b.shape)?;
    Ok(Box::new(Product { samples: sizes.n, heads: op.heads, matrices: op.matrices(sizes), threads: target.threads }))
}

impl Product {
    /// The most rows of a chunk.
    fn rows(&self) -> usize {
        (ROOM / self.matrices.depth.max(1)).clamp(ROWS, CHUNK).min(self.matrices.rows)
    }

    /// Floats of a thread's scratch: a chunk's rows, and the table where it is turned.
    fn room(&self) -> [usize; 2] {
        let HeadMatrices { depth, columns, factors, .. } = self.matrices;
        [self.rows() * depth, if factors[1].column == 1 { 0 } else { depth * columns }]
    }

    /// The result's rows from `y` at `at` on: those of `left`, side by side, times a table whose rows are `stride` apart.
    #[inline(always)]
    fn multiply(&self, left: &[f32], (table, stride): (&[f32], usize), at: usize, y: Shared) {
        let (depth, row) = (self.matrices.depth, self.matrices.result.row);
        let (fours, rest) = left.split_at(left.len() / (ROWS * depth) * ROWS * depth);
        for (i, four) in fours.chunks_exact(ROWS * depth).enumerate() {
            self.columns::<ROWS>(four, (table, stride), at + i * ROWS * row, y);
        }
        for (i, one) in rest.chunks_exact(depth).enumerate() {
            self.columns::<1>(one, (table, stride), at + (fours.len() / depth + i) * row, y);
        }
    }

    #[inline(always)]
    fn columns<const R: usize>(&self, left: &[f32], (table, stride): (&[f32], usize), at: usize, y: Shared) {
        let (columns, row, mut c) = (self.matrices.columns, self.matrices.result.row, 0);
        while c < columns {
            let table = &table[c..];
            c += match columns - c {
                WIDE.. => write::<R, WIDE>(weighted(left, table, stride), at + c, row, y),
                EIGHT.. => write::<R, EIGHT>(weighted(left, table, stride), at + c, row, y),
                _ => write::<R, 1>(weighted(left, table, stride), at + c, row, y),
            };
        }
    }
}

/// `P` columns of `R` rows; returns how many.
#[inline(always)]
fn write<const R: usize, const P: usize>(sums: [[f32; P]; R], at: usize, pitch: usize, y: Shared) -> usize {
    for (r, sums) in sums.iter().enumerate() {
        // SAFETY: each row of a head's result belongs to one chunk, which holds one part of it at a time.
        unsafe { y.part(at + r * pitch, P) }.copy_from_slice(sums);
    }
    P
}

/// Rows of a matrix that begins at `from`, side by side.
#[inline(always)]
fn gather(from: &[f32], view: Strided, rows: std::ops::Range<usize>, columns: usize, to: &mut [f32]) {
    if view.column == 1 {
        for (r, to) in rows.zip(to.chunks_exact_mut(columns)) {
            to.copy_from_slice(&from[r * view.row..][..columns]);
        }
        return;
    }
    // Neighbours in memory are of one column.
    for c in 0..columns {
        for (i, r) in rows.clone().enumerate() {
            to[i * columns + c] = from[r * view.row + c * view.column];
        }
    }
}

impl CpuKernel for Product {
    fn workspace(&self) -> usize {
        self.threads * self.room().iter().sum::<usize>() * size_of::<f32>()
    }

    fn run(&self, io: &Io) -> Result<()> {
        let (a, b, y) = (io.input::<f32>(0), io.input::<f32>(1), io.shared_output::<f32>(0));
        let HeadMatrices { rows, depth, columns, factors, result } = self.matrices;
        let (parts, [left, table], scratch) = (rows.div_ceil(self.rows()), self.room(), Shared::new(io.scratch::<f32>()));
        io.pool.run_slots(self.samples * self.heads * parts, &|slot, chunk| {
            let (n, head, part) = (chunk / parts / self.heads, chunk / parts % self.heads, chunk % parts);
            let first = |of: Strided| n * of.sample + head * of.head;
            let (a, b) = (&a[first(factors[0])..], &b[first(factors[1])..]);
            // SAFETY: no two running chunks share a slot.
            let own = unsafe { scratch.part(slot * (left + table), left + table) };
            let (own, turned) = own.split_at_mut(left);
            vectorised(
                io.isa,
                #[inline(always)]
                || {
                    let rows = split(rows, parts, part);
                    let (own, at) = (&mut own[..rows.len() * depth], first(result) + rows.start * result.row);
                    gather(a, factors[0], rows, depth, own);
                    if factors[1].column == 1 {
                        self.multiply(own, (b, factors[1].row), at, y);
                    } else {
                        gather(b, factors[1], 0..depth, columns, turned);
                        self.multiply(own, (turned, columns), at, y);
                    }
                },
            );
        })
    }
}

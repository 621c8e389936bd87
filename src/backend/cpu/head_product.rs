//! Products of activations head by head: a head's rows times a table, both side by side, whatever is summed.

use super::attention::{EIGHT, ROWS, WIDE, weighted};
use super::chunks::vectorised;
use super::kernel::{CpuKernel, Io};
use super::kernels::pool::{Shared, split};
use super::target::Target;
use crate::error::Result;
use crate::graph::TensorType;
use crate::graph::ops::{HeadProduct, HeadSizes, Over};

/// Rows of the result that a chunk has: enough to pay for the table that is turned for them.
const CHUNK: usize = 64;

struct Product {
    over: Over,
    heads: usize,
    sizes: HeadSizes,
    threads: usize,
}

pub(super) fn head_product(op: &HeadProduct, a: &TensorType, b: &TensorType, target: Target) -> Result<Box<dyn CpuKernel>> {
    let sizes = op.sizes(&a.shape, &b.shape)?;
    Ok(Box::new(Product { over: op.over, heads: op.heads, sizes, threads: target.threads }))
}

/// A matrix of one head: element [r, c] is at first + r * row + c * column.
#[derive(Clone, Copy)]
struct View {
    first: usize,
    row: usize,
    column: usize,
}

/// What a chunk multiplies: its rows of the result, `depth` products a number, and so many columns.
#[derive(Clone, Copy)]
struct Extent {
    rows: usize,
    depth: usize,
    columns: usize,
}

impl Product {
    fn extent(&self) -> Extent {
        let HeadSizes { tokens, rows, columns, .. } = self.sizes;
        match self.over {
            Over::Tokens => Extent { rows, depth: tokens, columns },
            Over::Rows => Extent { rows: tokens, depth: rows, columns },
            Over::Columns => Extent { rows: tokens, depth: columns, columns: rows },
        }
    }

    /// Left factor, right factor and result of a head.
    fn views(&self, n: usize, head: usize) -> [View; 3] {
        let HeadSizes { tokens, rows, columns, .. } = self.sizes;
        let token_major = |width: usize| View { first: (n * tokens * self.heads + head) * width, row: self.heads * width, column: 1 };
        let matrix = View { first: (n * self.heads + head) * rows * columns, row: columns, column: 1 };
        let turned = |view: View| View { row: view.column, column: view.row, ..view };
        match self.over {
            Over::Tokens => [turned(token_major(rows)), token_major(columns), matrix],
            Over::Rows => [token_major(rows), matrix, token_major(columns)],
            Over::Columns => [token_major(columns), turned(matrix), token_major(rows)],
        }
    }

    /// Floats of a thread's scratch: a chunk's rows, and the table where it is turned.
    fn room(&self) -> [usize; 2] {
        let e = self.extent();
        [CHUNK.min(e.rows) * e.depth, if self.over == Over::Columns { e.depth * e.columns } else { 0 }]
    }

    /// Rows from `first` on, of as many as `left` has; what is turned has been copied side by side.
    #[inline(always)]
    fn multiply(&self, left: &[f32], (table, stride): (&[f32], usize), to: View, first: usize, y: Shared) {
        let depth = self.extent().depth;
        let count = left.len() / depth.max(1);
        let mut r = 0;
        while r + ROWS <= count {
            self.columns::<ROWS>(&left[r * depth..(r + ROWS) * depth], (table, stride), to, first + r, y);
            r += ROWS;
        }
        for r in r..count {
            self.columns::<1>(&left[r * depth..(r + 1) * depth], (table, stride), to, first + r, y);
        }
    }

    #[inline(always)]
    fn columns<const R: usize>(&self, left: &[f32], (table, stride): (&[f32], usize), to: View, row: usize, y: Shared) {
        let (columns, mut c) = (self.extent().columns, 0);
        while c < columns {
            let (at, table) = (to.first + row * to.row + c, &table[c..]);
            c += match columns - c {
                WIDE.. => write::<R, WIDE>(weighted(left, table, stride), at, to.row, y),
                EIGHT.. => write::<R, EIGHT>(weighted(left, table, stride), at, to.row, y),
                _ => write::<R, 1>(weighted(left, table, stride), at, to.row, y),
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

/// Rows of a matrix, side by side.
#[inline(always)]
fn gather(from: &[f32], view: View, rows: std::ops::Range<usize>, columns: usize, to: &mut [f32]) {
    if view.column == 1 {
        for (r, to) in rows.zip(to.chunks_exact_mut(columns.max(1))) {
            to.copy_from_slice(&from[view.first + r * view.row..][..columns]);
        }
        return;
    }
    // Neighbours in memory are of one column.
    for c in 0..columns {
        for (i, r) in rows.clone().enumerate() {
            to[i * columns + c] = from[view.first + r * view.row + c * view.column];
        }
    }
}

impl CpuKernel for Product {
    fn workspace(&self) -> usize {
        self.threads * self.room().iter().sum::<usize>() * size_of::<f32>()
    }

    fn run(&self, io: &Io) -> Result<()> {
        let (a, b, y) = (io.input::<f32>(0), io.input::<f32>(1), io.shared_output::<f32>(0));
        let (e, [left, table]) = (self.extent(), self.room());
        let (parts, scratch) = (e.rows.div_ceil(CHUNK), Shared::new(io.scratch::<f32>()));
        io.pool.run_slots(self.sizes.n * self.heads * parts, &|slot, chunk| {
            let (n, head, part) = (chunk / parts / self.heads, chunk / parts % self.heads, chunk % parts);
            let [from, with, to] = self.views(n, head);
            // SAFETY: no two running chunks share a slot.
            let own = unsafe { scratch.part(slot * (left + table), left + table) };
            let (own, turned) = own.split_at_mut(left);
            vectorised(
                io.isa,
                #[inline(always)]
                || {
                    let rows = split(e.rows, parts, part);
                    let own = &mut own[..rows.len() * e.depth];
                    gather(a, from, rows.clone(), e.depth, own);
                    if with.column == 1 {
                        self.multiply(own, (&b[with.first..], with.row), to, rows.start, y);
                    } else {
                        gather(b, with, 0..e.depth, e.columns, turned);
                        self.multiply(own, (turned, e.columns), to, rows.start, y);
                    }
                },
            );
        })
    }
}

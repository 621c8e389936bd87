//! The last two dimensions exchanged.

use super::chunks::{for_chunks, row_grain};
use super::kernel::{CpuKernel, Io};
use crate::error::Result;
use crate::graph::TensorType;

/// Rows and columns of a block: its columns of x are a cache line each, of which every element is read while it is there.
const BLOCK: usize = 16;

/// x [..., rows, columns].
struct Transpose {
    rows: usize,
    columns: usize,
}

pub(super) fn transpose(x: &TensorType) -> Box<dyn CpuKernel> {
    let rank = x.shape.len();
    Box::new(Transpose { rows: x.shape[rank - 2], columns: x.shape[rank - 1] })
}

impl CpuKernel for Transpose {
    fn run(&self, io: &Io) -> Result<()> {
        let &Self { rows, columns } = self;
        let x = io.moved_input(0);
        // Where the column of x begins that becomes this row of the result; rows of all samples are counted through.
        let column = |row: usize| row / columns * rows * columns + row % columns;
        for_chunks(io, io.moved_output(0), row_grain(BLOCK * rows), |start, out| {
            for (i, block) in out.chunks_mut(BLOCK * rows).enumerate() {
                let first = start / rows + i * BLOCK;
                for at in (0..rows).step_by(BLOCK) {
                    for (r, row) in block.chunks_exact_mut(rows).enumerate() {
                        let from = x[column(first + r) + at * columns..].iter().step_by(columns);
                        row[at..].iter_mut().take(BLOCK).zip(from).for_each(|(to, from)| *to = *from);
                    }
                }
            }
        })
    }
}

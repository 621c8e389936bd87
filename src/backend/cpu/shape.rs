//! Copies along the last axis, and state assignment.

use super::chunks::{for_chunks, row_grain};
use super::kernel::{CpuKernel, Io};
use crate::error::Result;
use crate::graph::TensorType;
use crate::graph::ops::{Pad, Slice};

fn width(ty: &TensorType) -> usize {
    ty.shape.last().copied().unwrap_or(1)
}

struct ConcatKernel(Vec<usize>);

pub(super) fn concat(inputs: &[&TensorType]) -> Box<dyn CpuKernel> {
    Box::new(ConcatKernel(inputs.iter().map(|t| width(t)).collect()))
}

impl CpuKernel for ConcatKernel {
    fn run(&self, io: &Io) -> Result<()> {
        let total: usize = self.0.iter().sum();
        for_chunks(io, io.moved_output(0), row_grain(total), |start, out| {
            let mut at = 0;
            for (k, w) in self.0.iter().enumerate() {
                let from = &io.moved_input(k)[start / total * w..];
                for (to, row) in out.chunks_exact_mut(total).zip(from.chunks_exact(*w)) {
                    to[at..at + w].copy_from_slice(row);
                }
                at += w;
            }
        })
    }
}

struct SliceKernel {
    start: usize,
    len: usize,
    full: usize,
}

pub(super) fn slice(op: &Slice, x: &TensorType) -> Box<dyn CpuKernel> {
    Box::new(SliceKernel { start: op.start, len: op.len, full: width(x) })
}

impl CpuKernel for SliceKernel {
    fn run(&self, io: &Io) -> Result<()> {
        let x = io.moved_input(0);
        for_chunks(io, io.moved_output(0), row_grain(self.len), |start, out| {
            let rows = x[start / self.len * self.full..].chunks_exact(self.full);
            for (to, row) in out.chunks_exact_mut(self.len).zip(rows) {
                to.copy_from_slice(&row[self.start..self.start + self.len]);
            }
        })
    }
}

struct PadKernel {
    before: usize,
    len: usize,
    full: usize,
}

pub(super) fn pad(op: &Pad, x: &TensorType) -> Box<dyn CpuKernel> {
    Box::new(PadKernel { before: op.before, len: width(x), full: width(x) + op.before + op.after })
}

impl CpuKernel for PadKernel {
    fn run(&self, io: &Io) -> Result<()> {
        let x = io.moved_input(0);
        for_chunks(io, io.moved_output(0), row_grain(self.full), |start, out| {
            out.fill(0.0);
            let rows = x[start / self.full * self.len..].chunks_exact(self.len);
            for (to, row) in out.chunks_exact_mut(self.full).zip(rows) {
                to[self.before..self.before + self.len].copy_from_slice(row);
            }
        })
    }
}

struct AssignKernel(usize);

pub(super) fn assign(ty: &TensorType) -> Box<dyn CpuKernel> {
    Box::new(AssignKernel(ty.dtype.size()))
}

impl CpuKernel for AssignKernel {
    fn run(&self, io: &Io) -> Result<()> {
        let (from, to) = (io.slots[1], io.slots[io.inputs]);
        // SAFETY: both areas hold len elements of this size; the plan keeps a computed value apart from the storage (equal pointers only when a
        // state is assigned to itself, where copy allows overlap).
        unsafe { std::ptr::copy(from.ptr, to.ptr, from.len * self.0) };
        Ok(())
    }
}

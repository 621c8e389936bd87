//! Kernels of the linear combination and of dynamic thresholding.

use super::elementwise::{for_chunks, vectorised};
use super::kernels::pool::Shared;
use super::lower::{CpuKernel, Io};
use crate::error::Result;
use crate::graph::TensorType;
use crate::graph::ops::{Combine, DynamicThreshold};

struct CombineKernel {
    first: usize,
    /// Columns of the coefficient table.
    columns: usize,
    /// One row of coefficients for all.
    shared_row: bool,
    /// Elements of a row of the values.
    row: usize,
}

pub(super) fn combine(op: &Combine, coef: &TensorType, value: &TensorType) -> Box<dyn CpuKernel> {
    let row = value.numel() / value.shape[0];
    Box::new(CombineKernel { first: op.first, columns: coef.shape[1], shared_row: coef.shape[0] == 1, row })
}

impl CpuKernel for CombineKernel {
    fn run(&self, io: &Io) -> Result<()> {
        let coef = io.input::<f32>(0);
        for_chunks(io, io.output(0), self.row, |start, out| {
            let n = if self.shared_row { 0 } else { start / self.row };
            let coef = &coef[n * self.columns + self.first..];
            // A zero coefficient takes nothing, not even a NaN or an infinity, of its value: the tables hold zeros for absent terms.
            out.fill(0.0);
            for j in 1..io.inputs {
                let (c, v) = (coef[j - 1], &io.input::<f32>(j)[start..][..out.len()]);
                if c != 0.0 {
                    vectorised(
                        io.isa,
                        #[inline(always)]
                        || out.iter_mut().zip(v).for_each(|(o, x)| *o += c * x),
                    );
                }
            }
        })
    }
}

struct Threshold {
    ratio: f64,
    max: f32,
    samples: usize,
    row: usize,
}

pub(super) fn dynamic_threshold(op: &DynamicThreshold, x: &TensorType) -> Box<dyn CpuKernel> {
    Box::new(Threshold { ratio: op.ratio, max: op.max as f32, samples: x.shape[0], row: x.numel() / x.shape[0] })
}

impl CpuKernel for Threshold {
    fn workspace(&self) -> usize {
        self.samples * self.row * size_of::<f32>()
    }

    fn run(&self, io: &Io) -> Result<()> {
        let x = io.input::<f32>(0);
        let sorted = Shared::new(io.scratch::<f32>());
        for_chunks(io, io.output(0), self.row, |start, out| {
            let x = &x[start..][..self.row];
            // SAFETY: each sample sorts in its own part of the scratch.
            let sorted = unsafe { sorted.part(start, self.row) };
            sorted.iter_mut().zip(x).for_each(|(s, v)| *s = v.abs());
            sorted.sort_unstable_by(f32::total_cmp);
            let at = self.ratio * (self.row - 1) as f64;
            let (lo, hi) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
            let quantile = lo + (hi - lo) * (at - at.floor()) as f32;
            let s = quantile.max(1.0).min(self.max);
            // As the definition: a NaN is lost in s, and clamp to limits of NaN would panic.
            out.iter_mut().zip(x).for_each(|(o, v)| *o = if quantile.is_nan() { quantile } else { v.clamp(-s, s) / s });
        })
    }
}

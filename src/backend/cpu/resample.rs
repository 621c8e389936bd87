//! Nearest doubling and 2x2 average pooling.

use super::chunks::for_chunks;
use super::kernel::{CpuKernel, Io};
use crate::error::Result;
use crate::graph::TensorType;

/// Width and channels of the input.
struct Upsample {
    w: usize,
    c: usize,
}

pub(super) fn upsample(x: &TensorType) -> Box<dyn CpuKernel> {
    Box::new(Upsample { w: x.shape[2], c: x.shape[3] })
}

impl CpuKernel for Upsample {
    fn run(&self, io: &Io) -> Result<()> {
        let x = io.input::<f32>(0);
        let row = self.w * self.c;
        // One input row becomes two equal output rows.
        for_chunks(io, io.output(0), 4 * row, |start, out| {
            let from = &x[start / 4..][..row];
            let (first, second) = out.split_at_mut(2 * row);
            for (to, pixel) in first.chunks_exact_mut(2 * self.c).zip(from.chunks_exact(self.c)) {
                to[..self.c].copy_from_slice(pixel);
                to[self.c..].copy_from_slice(pixel);
            }
            second.copy_from_slice(first);
        })
    }
}

/// Width and channels of the input.
struct AvgPool {
    w: usize,
    c: usize,
}

pub(super) fn avg_pool(x: &TensorType) -> Box<dyn CpuKernel> {
    Box::new(AvgPool { w: x.shape[2], c: x.shape[3] })
}

impl CpuKernel for AvgPool {
    fn run(&self, io: &Io) -> Result<()> {
        let x = io.input::<f32>(0);
        let (row, c) = (self.w * self.c, self.c);
        for_chunks(io, io.output(0), row / 2, |start, out| {
            let from = &x[start * 4..][..2 * row];
            for (i, to) in out.chunks_exact_mut(c).enumerate() {
                let at = 2 * i * c;
                for ch in 0..c {
                    to[ch] = 0.25 * (from[at + ch] + from[at + c + ch] + from[row + at + ch] + from[row + at + c + ch]);
                }
            }
        })
    }
}

//! Sums over broadcast dimensions.

use super::chunks::vectorised;
use super::kernel::{CpuKernel, Io};
use super::kernels::pool::{Shared, split};
use crate::error::Result;
use crate::graph::TensorType;
use crate::graph::ops::ReduceSum;

/// Elements of one chunk: partial sums of a chunk are in f32, across chunks in f64.
const GRAIN: usize = 8 << 10;
/// No more chunks of one reduction than this.
const MAX_PARTS: usize = 64;

/// See [`ReduceSum::extent`].
struct Sum {
    outer: usize,
    reduced: usize,
    inner: usize,
    parts: usize,
}

pub(super) fn reduce_sum(op: &ReduceSum, x: &TensorType) -> Result<Box<dyn CpuKernel>> {
    let [outer, reduced, inner] = op.extent(&x.shape)?;
    let parts = (reduced * inner / GRAIN).clamp(1, MAX_PARTS).min(reduced);
    Ok(Box::new(Sum { outer, reduced, inner, parts }))
}

impl CpuKernel for Sum {
    fn workspace(&self) -> usize {
        self.outer * self.parts * self.inner * size_of::<f32>()
    }

    fn run(&self, io: &Io) -> Result<()> {
        let x = io.input::<f32>(0);
        let scratch = io.scratch::<f32>();
        let partial = Shared::new(&mut *scratch);
        io.pool.run(self.outer * self.parts, &|chunk| {
            let (o, part) = (chunk / self.parts, chunk % self.parts);
            // SAFETY: each chunk has its own partial row.
            let sum = unsafe { partial.part(chunk * self.inner, self.inner) };
            let rows = split(self.reduced, self.parts, part);
            let x = &x[(o * self.reduced + rows.start) * self.inner..][..rows.len() * self.inner];
            if self.inner == 1 {
                sum[0] = sum_all(x);
                return;
            }
            sum.fill(0.0);
            vectorised(
                io.isa,
                #[inline(always)]
                || x.chunks_exact(self.inner).for_each(|row| sum.iter_mut().zip(row).for_each(|(s, v)| *s += v)),
            );
        })?;
        for (i, out) in io.output::<f32>(0).iter_mut().enumerate() {
            let (o, c) = (i / self.inner, i % self.inner);
            *out = (0..self.parts).map(|p| f64::from(scratch[(o * self.parts + p) * self.inner + c])).sum::<f64>() as f32;
        }
        Ok(())
    }
}

/// Sum of a run in f64 over eight interleaved lanes, an order that does not depend on anything but the length.
fn sum_all(x: &[f32]) -> f32 {
    let mut lanes = [0f64; 8];
    for block in x.chunks(8) {
        lanes.iter_mut().zip(block).for_each(|(l, v)| *l += f64::from(*v));
    }
    lanes.iter().sum::<f64>() as f32
}

//! Philox noise and integers.

use super::kernel::{CpuKernel, Io};
use super::kernels::pool::Shared;
use crate::error::Result;
use crate::graph::ops::{RandomInt, RandomNormal};
use crate::random;

struct Normal(RandomNormal);

pub(super) fn normal(op: &RandomNormal) -> Box<dyn CpuKernel> {
    Box::new(Normal(op.clone()))
}

impl CpuKernel for Normal {
    fn run(&self, io: &Io) -> Result<()> {
        let (seed, step, samples) = (io.input::<i64>(0)[0], io.input::<i64>(1)[0], io.input::<i32>(2));
        let [h, w, c] = self.0.image;
        let out = Shared::new(io.output::<f32>(0));
        io.pool.run(samples.len(), &|n| {
            // SAFETY: each sample is written by one chunk.
            let image = unsafe { out.part(n * h * w * c, h * w * c) };
            // Four normals at a time in NCHW order, scattered to NHWC.
            for block in 0..(h * w * c).div_ceil(4) {
                let words = random::words(seed as u64, self.0.purpose, step as u32, samples[n] as u32, block as u32);
                let normals = random::normal4(words);
                for (k, v) in normals.into_iter().enumerate() {
                    let i = 4 * block + k;
                    if i < h * w * c {
                        image[i % (h * w) * c + i / (h * w)] = v;
                    }
                }
            }
        })
    }
}

struct Integers(RandomInt);

pub(super) fn integers(op: &RandomInt) -> Box<dyn CpuKernel> {
    Box::new(Integers(op.clone()))
}

impl CpuKernel for Integers {
    fn run(&self, io: &Io) -> Result<()> {
        let (seed, step, first) = (io.input::<i64>(0)[0], io.input::<i64>(1)[0], io.input::<i32>(2)[0]);
        for (b, o) in io.output::<i32>(0).iter_mut().enumerate() {
            *o = self.0.of_row(seed, step, (first as u32).wrapping_add(b as u32)) as i32;
        }
        Ok(())
    }
}

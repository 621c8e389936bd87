//! The sinusoidal timestep embedding.

use super::kernel::{CpuKernel, Io};
use crate::error::Result;
use crate::graph::ops::TimestepEmbedding;

struct Sinusoid {
    frequencies: Vec<f32>,
    dim: usize,
    cos_first: bool,
}

pub(super) fn timestep_embedding(op: &TimestepEmbedding) -> Box<dyn CpuKernel> {
    Box::new(Sinusoid { frequencies: op.frequencies(), dim: op.dim, cos_first: op.flip_sin_to_cos })
}

impl CpuKernel for Sinusoid {
    fn run(&self, io: &Io) -> Result<()> {
        let half = self.frequencies.len();
        for (row, t) in io.output::<f32>(0).chunks_exact_mut(self.dim).zip(io.input::<f32>(0)) {
            row.fill(0.0);
            let (first, second) = row.split_at_mut(half);
            let (sin, cos) = if self.cos_first { (second, first) } else { (first, second) };
            for (i, f) in self.frequencies.iter().enumerate() {
                // The argument is rounded to f32, as diffusers does; the functions are exact to f32.
                let (s, c) = f64::from(t * f).sin_cos();
                sin[i] = s as f32;
                cos[i] = c as f32;
            }
        }
        Ok(())
    }
}

//! Global norm, AdamW and the moving average over all parameters at once.

use super::chunks::vectorised;
use super::kernel::{CpuKernel, Io};
use super::kernels::pool::Shared;
use crate::error::Result;
use crate::graph::ops::{AdamW, ClipScale, Ema};
use crate::memory;

/// Elements of one chunk.
const GRAIN: usize = 8 << 10;

/// A piece of one tensor.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub tensor: usize,
    pub start: usize,
    pub len: usize,
}

/// The pieces of tensors of these sizes.
pub(super) fn pieces(sizes: impl Iterator<Item = usize>) -> Result<Vec<Piece>> {
    let of_size = |(tensor, size): (usize, usize)| (0..size).step_by(GRAIN).map(move |start| Piece { tensor, start, len: GRAIN.min(size - start) });
    memory::collect(sizes.enumerate().flat_map(of_size), "pieces of parameters")
}

struct Norm(Vec<Piece>);

pub(super) fn global_norm(inputs: impl Iterator<Item = usize>) -> Result<Box<dyn CpuKernel>> {
    Ok(Box::new(Norm(pieces(inputs)?)))
}

impl CpuKernel for Norm {
    fn workspace(&self) -> usize {
        self.0.len() * size_of::<f32>() * 2
    }

    fn run(&self, io: &Io) -> Result<()> {
        let scratch = io.scratch::<i64>(); // bits of f64 partial sums
        let partial = Shared::new(&mut *scratch);
        io.pool.run(self.0.len(), &|i| {
            let Piece { tensor, start, len } = self.0[i];
            let mut lanes = [0f64; 8];
            for block in io.input::<f32>(tensor)[start..start + len].chunks(8) {
                lanes.iter_mut().zip(block).for_each(|(l, v)| *l += f64::from(*v) * f64::from(*v));
            }
            // SAFETY: each chunk has its own element.
            unsafe { partial.part(i, 1)[0] = lanes.iter().sum::<f64>().to_bits() as i64 };
        })?;
        let sum: f64 = scratch[..self.0.len()].iter().map(|b| f64::from_bits(*b as u64)).sum();
        io.output::<f32>(0)[0] = sum.sqrt() as f32;
        Ok(())
    }
}

struct Clip(ClipScale);

pub(super) fn clip_scale(op: &ClipScale) -> Box<dyn CpuKernel> {
    Box::new(Clip(op.clone()))
}

impl CpuKernel for Clip {
    fn run(&self, io: &Io) -> Result<()> {
        let (norm, loss) = (io.input::<f32>(0)[0], io.input::<f32>(1));
        let usable = self.0.accepts(norm) && loss.iter().all(|l| l.is_finite());
        io.output::<f32>(0)[0] = if usable { (self.0.max_norm / (norm + 1e-6)).min(1.0) } else { f32::NAN };
        Ok(())
    }
}

struct AdamWKernel {
    op: AdamW,
    pieces: Vec<Piece>,
}

pub(super) fn adamw(op: &AdamW, outputs: impl Iterator<Item = usize>) -> Result<Box<dyn CpuKernel>> {
    Ok(Box::new(AdamWKernel { op: op.clone(), pieces: pieces(outputs.step_by(3))? }))
}

impl CpuKernel for AdamWKernel {
    fn run(&self, io: &Io) -> Result<()> {
        let (lr, step, scale) = (f64::from(io.input::<f32>(0)[0]), io.input::<i64>(1)[0] as f64, io.input::<f32>(2)[0]);
        if scale.is_nan() {
            return Ok(());
        }
        let op = &self.op;
        let (b1, b2) = (op.beta1 as f32, op.beta2 as f32);
        let (r1, r2) = ((1.0 - op.beta1) as f32, (1.0 - op.beta2) as f32);
        let rate = (lr / (1.0 - op.beta1.powf(step))) as f32;
        let root = (1.0 / (1.0 - op.beta2.powf(step)).sqrt()) as f32;
        let (keep, eps) = ((1.0 - lr * op.weight_decay) as f32, op.eps as f32);
        io.pool.run(self.pieces.len(), &|i| {
            let Piece { tensor, start, len } = self.pieces[i];
            let state = |k: usize| io.shared_output::<f32>(3 * tensor + k);
            // SAFETY: each piece of each state belongs to one chunk; the three states are different storages.
            let (p, m, v) = unsafe { (state(0).part(start, len), state(1).part(start, len), state(2).part(start, len)) };
            let g = &io.input::<f32>(AdamW::HEAD + 4 * tensor + 3)[start..start + len];
            vectorised(
                io.isa,
                #[inline(always)]
                || {
                    for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
                        let g = g * scale;
                        *m = *m * b1 + g * r1;
                        *v = *v * b2 + g * g * r2;
                        *p = *p * keep - rate * *m / (v.sqrt() * root + eps);
                    }
                },
            );
        })
    }
}

struct EmaKernel(Vec<Piece>);

pub(super) fn ema(_op: &Ema, outputs: impl Iterator<Item = usize>) -> Result<Box<dyn CpuKernel>> {
    Ok(Box::new(EmaKernel(pieces(outputs)?)))
}

impl CpuKernel for EmaKernel {
    fn run(&self, io: &Io) -> Result<()> {
        let (decay, scale) = (io.input::<f32>(0)[0], io.input::<f32>(1)[0]);
        if scale.is_nan() {
            return Ok(());
        }
        io.pool.run(self.0.len(), &|i| {
            let Piece { tensor, start, len } = self.0[i];
            // SAFETY: each piece belongs to one chunk.
            let average = unsafe { io.shared_output::<f32>(tensor).part(start, len) };
            let p = &io.input::<f32>(Ema::HEAD + 2 * tensor + 1)[start..start + len];
            if decay == 0.0 {
                average.copy_from_slice(p);
                return;
            }
            vectorised(
                io.isa,
                #[inline(always)]
                || average.iter_mut().zip(p).for_each(|(a, p)| *a += (1.0 - decay) * (p - *a)),
            );
        })
    }
}

//! Element-wise kernels. The loops are plain so that the compiler vectorises them for the instruction set they are dispatched to; one chunk holds
//! [`GRAIN`] elements, enough to pay for handing it to another thread.

use super::chunks::{GRAIN, for_chunks, row_grain, vectorised};
use super::kernel::{CpuKernel, Io};
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::ops::{Affine, BinaryKind, UnaryKind};
use crate::tensor::{DType, Element};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

struct Map1<F>(F);

impl<F: Fn(f32) -> f32 + Send + Sync> CpuKernel for Map1<F> {
    fn run(&self, io: &Io) -> Result<()> {
        let x = io.input::<f32>(0);
        for_chunks(io, io.output(0), GRAIN, |start, out| {
            let x = &x[start..][..out.len()];
            vectorised(
                io.isa,
                #[inline(always)]
                || {
                    for (o, v) in out.iter_mut().zip(x) {
                        *o = (self.0)(*v);
                    }
                },
            );
        })
    }
}

struct Map2<F>(F);

impl<F: Fn(f32, f32) -> f32 + Send + Sync> CpuKernel for Map2<F> {
    fn run(&self, io: &Io) -> Result<()> {
        let (a, b) = (io.input::<f32>(0), io.input::<f32>(1));
        for_chunks(io, io.output(0), GRAIN, |start, out| {
            let (a, b) = (&a[start..][..out.len()], &b[start..][..out.len()]);
            vectorised(
                io.isa,
                #[inline(always)]
                || {
                    for ((o, x), y) in out.iter_mut().zip(a).zip(b) {
                        *o = (self.0)(*x, *y);
                    }
                },
            );
        })
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

pub(super) fn unary(kind: UnaryKind) -> Box<dyn CpuKernel> {
    match kind {
        UnaryKind::Silu => Box::new(Map1(|x: f32| x * sigmoid(x))),
        UnaryKind::Relu => Box::new(Map1(|x: f32| if x < 0.0 { 0.0 } else { x })), // NaN stays
        UnaryKind::Abs => Box::new(Map1(f32::abs)),
        UnaryKind::Square => Box::new(Map1(|x: f32| x * x)),
        UnaryKind::Rsqrt => Box::new(Map1(|x: f32| 1.0 / x.sqrt())),
        UnaryKind::Huber(d) => Box::new(Map1(move |x: f32| if x.abs() <= d { 0.5 * x * x } else { d * (x.abs() - 0.5 * d) })),
        UnaryKind::Clamp(lo, hi) => Box::new(Map1(move |x: f32| x.clamp(lo, hi))),
        // Rare in U-Nets: the double-precision definition is fast enough and exact.
        UnaryKind::Gelu | UnaryKind::Mish => Box::new(Map1(move |x: f32| kind.value(f64::from(x)) as f32)),
    }
}

pub(super) fn unary_grad(kind: UnaryKind) -> Box<dyn CpuKernel> {
    match kind {
        UnaryKind::Silu => Box::new(Map2(|x: f32, dy: f32| {
            let s = sigmoid(x);
            dy * s * (1.0 + x * (1.0 - s))
        })),
        UnaryKind::Relu => Box::new(Map2(|x: f32, dy: f32| if x > 0.0 { dy } else { 0.0 })),
        UnaryKind::Abs => Box::new(Map2(|x: f32, dy: f32| dy * (f32::from(u8::from(x > 0.0)) - f32::from(u8::from(x < 0.0))))),
        UnaryKind::Square => Box::new(Map2(|x: f32, dy: f32| 2.0 * x * dy)),
        UnaryKind::Rsqrt => Box::new(Map2(|x: f32, dy: f32| -0.5 * dy / (x * x.sqrt()))),
        UnaryKind::Huber(d) => Box::new(Map2(move |x: f32, dy: f32| dy * x.clamp(-d, d))),
        UnaryKind::Clamp(lo, hi) => Box::new(Map2(move |x: f32, dy: f32| if x >= lo && x <= hi { dy } else { 0.0 })),
        UnaryKind::Gelu | UnaryKind::Mish => Box::new(Map2(move |x: f32, dy: f32| dy * kind.slope(f64::from(x)) as f32)),
    }
}

pub(super) fn affine(op: &Affine) -> Box<dyn CpuKernel> {
    let (scale, shift) = (op.scale, op.shift);
    Box::new(Map1(move |x: f32| scale * x + shift))
}

/// To f32, a piece at a time.
struct Widen<T>(fn(&[T], &mut [f32]));

impl<T: Element> CpuKernel for Widen<T> {
    fn run(&self, io: &Io) -> Result<()> {
        let x = io.input::<T>(0);
        for_chunks(io, io.output(0), GRAIN, |start, out| (self.0)(&x[start..][..out.len()], out))
    }
}

pub(super) fn cast(from: DType, to: DType) -> Result<Box<dyn CpuKernel>> {
    Ok(match (from, to) {
        (DType::I32, DType::F32) => Box::new(Widen(|x: &[i32], out| out.iter_mut().zip(x).for_each(|(o, v)| *o = *v as f32))),
        // Exact, by the processor's own instructions where it has them.
        (DType::F16, DType::F32) => Box::new(Widen(|x: &[f16], out| x.convert_to_f32_slice(out))),
        (DType::Bf16, DType::F32) => Box::new(Widen(|x: &[bf16], out| x.convert_to_f32_slice(out))),
        _ => return Err(Error::unsupported(format!("the CPU has no cast from {from:?} to {to:?}"))),
    })
}

pub(super) fn binary(kind: BinaryKind, a: &TensorType, b: &TensorType, out: &TensorType) -> Box<dyn CpuKernel> {
    if a.shape == b.shape {
        return match kind {
            BinaryKind::Add => Box::new(Map2(|x: f32, y: f32| x + y)),
            BinaryKind::Sub => Box::new(Map2(|x: f32, y: f32| x - y)),
            BinaryKind::Mul => Box::new(Map2(|x: f32, y: f32| x * y)),
        };
    }
    let shape = out.shape.clone();
    let strides = [broadcast_strides(&a.shape, &shape), broadcast_strides(&b.shape, &shape)];
    match kind {
        BinaryKind::Add => Box::new(Broadcast { shape, strides, f: |x, y| x + y }),
        BinaryKind::Sub => Box::new(Broadcast { shape, strides, f: |x, y| x - y }),
        BinaryKind::Mul => Box::new(Broadcast { shape, strides, f: |x, y| x * y }),
    }
}

/// Element strides of an operand under the result's shape: 0 where it is repeated.
fn broadcast_strides(from: &[usize], to: &[usize]) -> Vec<usize> {
    let mut stride = 1;
    let mut strides = vec![0; to.len()];
    for i in (0..to.len()).rev() {
        strides[i] = if from[i] == 1 { 0 } else { stride };
        stride *= from[i];
    }
    strides
}

struct Broadcast<F> {
    shape: Vec<usize>,
    strides: [Vec<usize>; 2],
    f: F,
}

impl<F: Fn(f32, f32) -> f32 + Send + Sync> CpuKernel for Broadcast<F> {
    fn run(&self, io: &Io) -> Result<()> {
        let (a, b) = (io.input::<f32>(0), io.input::<f32>(1));
        let last = self.shape.len() - 1;
        let width = self.shape[last];
        let inner = [self.strides[0][last], self.strides[1][last]];
        for_chunks(io, io.output(0), row_grain(width), |start, out| {
            for (i, row) in out.chunks_exact_mut(width).enumerate() {
                let [mut at_a, mut at_b, mut rest] = [0, 0, start / width + i];
                for d in (0..last).rev() {
                    at_a += rest % self.shape[d] * self.strides[0][d];
                    at_b += rest % self.shape[d] * self.strides[1][d];
                    rest /= self.shape[d];
                }
                vectorised(
                    io.isa,
                    #[inline(always)]
                    || match inner {
                        [1, 1] => row.iter_mut().zip(&a[at_a..]).zip(&b[at_b..]).for_each(|((o, x), y)| *o = (self.f)(*x, *y)),
                        [1, _] => row.iter_mut().zip(&a[at_a..]).for_each(|(o, x)| *o = (self.f)(*x, b[at_b])),
                        [_, 1] => row.iter_mut().zip(&b[at_b..]).for_each(|(o, y)| *o = (self.f)(a[at_a], *y)),
                        _ => row.fill((self.f)(a[at_a], b[at_b])),
                    },
                );
            }
        })
    }
}

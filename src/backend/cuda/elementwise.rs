//! Element-wise ops on `cuda/elementwise.cu`.

use super::launch::{Launch, Lowered, Param};
use super::shared::elementwise::{self as numbers, THREADS};
use super::shared::run;
use super::site::{Site, suffix};
use crate::error::{Error, Result};
use crate::graph::ops::{Affine, BinaryKind, UnaryKind};
use crate::tensor::DType;

/// Threads for `n` elements of a type, the narrower one: most kernels have a run a thread.
fn threads(n: usize, dtype: DType) -> usize {
    n.div_ceil(run::BYTES / dtype.size())
}

/// The kernels' numbers of a function, with its two settings.
fn function(kind: UnaryKind) -> (i32, f32, f32) {
    let (number, a, b) = match kind {
        UnaryKind::Silu => (numbers::SILU, 0.0, 0.0),
        UnaryKind::Gelu => (numbers::GELU, 0.0, 0.0),
        UnaryKind::Mish => (numbers::MISH, 0.0, 0.0),
        UnaryKind::Relu => (numbers::RELU, 0.0, 0.0),
        UnaryKind::Abs => (numbers::ABS, 0.0, 0.0),
        UnaryKind::Square => (numbers::SQUARE, 0.0, 0.0),
        UnaryKind::Rsqrt => (numbers::RSQRT, 0.0, 0.0),
        UnaryKind::Huber(delta) => (numbers::HUBER, delta, 0.0),
        UnaryKind::Clamp(lo, hi) => (numbers::CLAMP, lo, hi),
    };
    (number as i32, a, b)
}

/// The kernels' number of an arithmetic.
fn arithmetic(kind: BinaryKind) -> i32 {
    let number = match kind {
        BinaryKind::Add => numbers::ADD,
        BinaryKind::Sub => numbers::SUB,
        BinaryKind::Mul => numbers::MUL,
    };
    number as i32
}

pub(super) fn unary(kind: UnaryKind, site: &Site) -> Result<Lowered> {
    let (n, (number, a, b)) = (site.outputs[0].numel(), function(kind));
    let launch = Launch::over(site.kernel("unary", 0)?, threads(n, site.inputs[0].dtype), THREADS)?;
    Ok(launch.input(0).output(0).int(n)?.value(number).value(a).value(b).into())
}

pub(super) fn unary_grad(kind: UnaryKind, site: &Site) -> Result<Lowered> {
    let (n, (number, a, b)) = (site.outputs[0].numel(), function(kind));
    let launch = Launch::over(site.kernel("unary_grad", 0)?, threads(n, site.inputs[0].dtype), THREADS)?;
    Ok(launch.input(0).input(1).output(0).int(n)?.value(number).value(a).value(b).into())
}

pub(super) fn affine(op: &Affine, site: &Site) -> Result<Lowered> {
    let n = site.outputs[0].numel();
    let launch = Launch::over(site.kernel("affine", 0)?, threads(n, site.inputs[0].dtype), THREADS)?;
    Ok(launch.input(0).output(0).int(n)?.value(op.scale).value(op.shift).into())
}

pub(super) fn cast(site: &Site) -> Result<Lowered> {
    let n = site.outputs[0].numel();
    let to = suffix(site.outputs[0].dtype)?;
    let launch = match site.inputs[0].dtype {
        DType::I32 => Launch::over(format!("fewstep_cast_i32_{to}"), n, THREADS)?,
        from => {
            let narrower = if from.size() < site.outputs[0].dtype.size() { from } else { site.outputs[0].dtype };
            Launch::over(format!("fewstep_cast_{}_{to}", suffix(from)?), threads(n, narrower), THREADS)?
        }
    };
    Ok(launch.input(0).output(0).int(n)?.into())
}

pub(super) fn binary(kind: BinaryKind, site: &Site) -> Result<Lowered> {
    let (n, number) = (site.outputs[0].numel(), arithmetic(kind));
    if site.inputs[0].shape == site.inputs[1].shape {
        let launch = Launch::over(site.kernel("binary", 0)?, threads(n, site.inputs[0].dtype), THREADS)?;
        return Ok(launch.input(0).input(1).output(0).int(n)?.value(number).into());
    }
    let launch = Launch::over(site.kernel("binary_broadcast", 0)?, n, THREADS)?.input(0).input(1).output(0).int(n)?;
    let places = Broadcast::of(&site.inputs[0].shape, &site.inputs[1].shape, &site.outputs[0].shape)?;
    Ok(launch.value(number).value(places).into())
}

/// A result's dimensions and the operands' strides under them, as the kernel takes them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Broadcast {
    shape: [i32; 4],
    strides: [[i32; 4]; 2],
}

// SAFETY: twelve i32, as `Broadcast` in cuda/elementwise.cu.
unsafe impl Param for Broadcast {}

impl Broadcast {
    /// Neighbouring dimensions that both operands walk through alike are merged: four are enough for every U-Net.
    fn of(a: &[usize], b: &[usize], out: &[usize]) -> Result<Self> {
        let mut dims: Vec<(usize, [bool; 2])> = vec![]; // size, and which operand is repeated along it
        for ((size, a), b) in out.iter().zip(a).zip(b).filter(|((size, _), _)| **size != 1) {
            let repeated = [*a == 1, *b == 1];
            match dims.last_mut() {
                Some((merged, same)) if *same == repeated => *merged *= size,
                _ => dims.push((*size, repeated)),
            }
        }
        if dims.len() > 4 {
            return Err(Error::unsupported(format!("broadcasting to {out:?} needs more than four dimensions")));
        }
        let mut this = Self { shape: [1; 4], strides: [[0; 4]; 2] };
        let mut next = [1i32; 2];
        for (d, (size, repeated)) in dims.iter().rev().enumerate() {
            let d = 3 - d;
            this.shape[d] = *size as i32; // fits: the whole result does, which the caller has seen to
            for k in 0..2 {
                if !repeated[k] {
                    this.strides[k][d] = next[k];
                    next[k] *= *size as i32;
                }
            }
        }
        Ok(this)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_merge() {
        let places = Broadcast::of(&[2, 3, 4, 5], &[2, 1, 1, 5], &[2, 3, 4, 5]).unwrap();
        assert_eq!(places, Broadcast { shape: [1, 2, 12, 5], strides: [[0, 60, 5, 1], [0, 5, 0, 1]] });
        let places = Broadcast::of(&[1, 7], &[3, 1], &[3, 7]).unwrap();
        assert_eq!(places, Broadcast { shape: [1, 1, 3, 7], strides: [[0, 0, 0, 1], [0, 0, 1, 0]] });
        assert!(Broadcast::of(&[2, 1, 2, 1, 2], &[1, 2, 1, 2, 1], &[2; 5]).is_err());
    }
}

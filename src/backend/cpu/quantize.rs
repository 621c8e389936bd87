//! Quantised numbers. Quotients are f64, which rounds none of two f32 to a tie that is none (graph/ops/quantize.rs), so that every instruction set has the same
//! numbers; the loops are plain and vectorised.

use super::chunks::{GRAIN, for_chunks, vectorised};
use super::kernel::{CpuKernel, Io};
use crate::error::{Error, Result};
use crate::graph::TensorType;
use crate::graph::ops::{Codes, Dequantize, FakeQuantize, FakeQuantizeGrad, Quantize};
use crate::tensor::{DType, Element};
use std::marker::PhantomData;

/// A quantised number.
trait Code: Element + Into<i32> {
    /// A number that is one.
    fn of(number: i32) -> Self;
}

impl Code for i8 {
    fn of(number: i32) -> Self {
        number as i8
    }
}

impl Code for u8 {
    fn of(number: i32) -> Self {
        number as u8
    }
}

/// Beyond this no quotient need be known: with any zero point it is out of every range.
const FAR: f64 = 1024.0;
/// Numbers far below it that are added to it are rounded to whole ones, ties to even, and come back by subtraction: 1.5 times 2^52.
const ROUNDING: f64 = 6_755_399_441_055_744.0;

#[inline(always)]
fn quotient(x: f32, scale: f32) -> f64 {
    f64::from(x) / f64::from(scale)
}

/// A quotient as a whole number; NaN is 0.
#[inline(always)]
fn rounded(v: f64) -> f64 {
    let v = if v.is_nan() { 0.0 } else { v.clamp(-FAR, FAR) };
    (v + ROUNDING) - ROUNDING
}

#[inline(always)]
fn code<Z: Code>(codes: Codes, x: f32, scale: f32, zero: Z) -> Z {
    Z::of((rounded(quotient(x, scale)) as i32 + zero.into()).clamp(codes.low, codes.high))
}

#[inline(always)]
fn value<Z: Code>(code: Z, scale: f32, zero: Z) -> f32 {
    (code.into() - zero.into()) as f32 * scale
}

/// What quantising loses, done to x.
#[inline(always)]
fn fake<Z: Code>(codes: Codes, x: f32, scale: f32, zero: Z) -> f32 {
    value(code(codes, x, scale, zero), scale, zero)
}

/// Where the elements of x have their scales: element i has that of channel i / inner % channels.
#[derive(Clone, Copy)]
struct Cut {
    channels: usize,
    inner: usize,
}

impl Cut {
    fn of(x: &TensorType, axis: Option<usize>) -> Self {
        let along = |axis: usize| Self { channels: x.shape[axis], inner: x.shape[axis + 1..].iter().product() };
        axis.map_or(Self { channels: 1, inner: x.numel() }, along)
    }

    /// Calls `f(elements, channels)` for strips of `range`: all elements of a strip have the one channel, or each has its own.
    #[inline(always)]
    fn strips(self, range: std::ops::Range<usize>, mut f: impl FnMut(std::ops::Range<usize>, std::ops::Range<usize>)) {
        let mut at = range.start;
        while at < range.end {
            let channel = at / self.inner % self.channels;
            let (len, channels) = if self.inner == 1 {
                let len = (self.channels - channel).min(range.end - at);
                (len, channel..channel + len)
            } else {
                ((self.inner - at % self.inner).min(range.end - at), channel..channel + 1)
            };
            f(at..at + len, channels);
            at += len;
        }
    }
}

/// out = f(x, scale, zero point) for every element.
fn map<X: Element, Z: Code, O: Element>(cut: Cut, io: &Io, result: usize, f: impl Fn(X, f32, Z) -> O + Sync) -> Result<()> {
    let (x, scales, zeros) = (io.input::<X>(0), io.input::<f32>(1), io.input::<Z>(2));
    for_chunks(io, io.output::<O>(result), GRAIN, |start, out| {
        vectorised(
            io.isa,
            #[inline(always)]
            || {
                cut.strips(start..start + out.len(), |elements, channels| {
                    let (x, scales, zeros) = (&x[elements.clone()], &scales[channels.clone()], &zeros[channels]);
                    let out = &mut out[elements.start - start..elements.end - start];
                    if let ([scale], [zero]) = (scales, zeros) {
                        out.iter_mut().zip(x).for_each(|(o, x)| *o = f(*x, *scale, *zero));
                    } else {
                        out.iter_mut().zip(x).zip(scales.iter().zip(zeros)).for_each(|((o, x), (scale, zero))| *o = f(*x, *scale, *zero));
                    }
                });
            },
        );
    })
}

struct QuantizeKernel<Z>(Cut, Codes, PhantomData<Z>);

impl<Z: Code> CpuKernel for QuantizeKernel<Z> {
    fn run(&self, io: &Io) -> Result<()> {
        let codes = self.1;
        map(
            self.0,
            io,
            0,
            #[inline(always)]
            move |x, scale, zero: Z| code(codes, x, scale, zero),
        )
    }
}

struct DequantizeKernel<Z>(Cut, PhantomData<Z>);

impl<Z: Code> CpuKernel for DequantizeKernel<Z> {
    fn run(&self, io: &Io) -> Result<()> {
        map(self.0, io, 0, value::<Z>)
    }
}

struct FakeKernel<Z>(Cut, Codes, PhantomData<Z>);

impl<Z: Code> CpuKernel for FakeKernel<Z> {
    fn run(&self, io: &Io) -> Result<()> {
        let codes = self.1;
        map(
            self.0,
            io,
            0,
            #[inline(always)]
            move |x, scale, zero: Z| fake(codes, x, scale, zero),
        )
    }
}

struct FakeGradKernel<Z> {
    cut: Cut,
    codes: Codes,
    scale_gradient: f32,
    code: PhantomData<Z>,
}

/// The ends of the range less the zero point: a rounded quotient between them is in range.
#[inline(always)]
fn ends<Z: Code>(codes: Codes, zero: Z) -> [f64; 2] {
    [codes.low, codes.high].map(|end| f64::from(end - zero.into()))
}

impl<Z: Code> CpuKernel for FakeGradKernel<Z> {
    fn run(&self, io: &Io) -> Result<()> {
        let codes = self.codes;
        map(
            self.cut,
            io,
            0,
            #[inline(always)]
            |x: f32, scale, zero: Z| {
                let ([n, p], v) = (ends(codes, zero), quotient(x, scale));
                let q = rounded(v);
                if n <= q && q <= p && !v.is_nan() { 1.0f32 } else { 0.0 }
            },
        )?;
        let factor = f64::from(self.scale_gradient);
        map(
            self.cut,
            io,
            1,
            #[inline(always)]
            |x: f32, scale, zero: Z| {
                let ([n, p], v) = (ends(codes, zero), quotient(x, scale));
                let q = rounded(v);
                let inside = if q < n {
                    n
                } else if q > p {
                    p
                } else {
                    q - v
                };
                let slope = if v.is_nan() { 0.0 } else { inside };
                (factor * slope) as f32
            },
        )?;
        let dy = io.input::<f32>(3);
        (0..2).try_for_each(|result| {
            for_chunks(io, io.output::<f32>(result), GRAIN, |start, out| {
                out.iter_mut().zip(&dy[start..]).for_each(|(slope, dy)| *slope *= dy);
            })
        })
    }
}

/// The kernel for numbers of a type.
macro_rules! of_code {
    ($dtype:expr, $kernel:ident, $($field:tt)*) => {
        match $dtype {
            DType::I8 => Ok(Box::new($kernel::<i8> $($field)*)),
            DType::U8 => Ok(Box::new($kernel::<u8> $($field)*)),
            other => Err(Error::internal(format!("quantised numbers of {other:?}"))),
        }
    };
}

pub(super) fn quantize(op: &Quantize, x: &TensorType) -> Result<Box<dyn CpuKernel>> {
    let cut = Cut::of(x, op.axis);
    of_code!(op.codes.dtype, QuantizeKernel, (cut, op.codes, PhantomData))
}

pub(super) fn dequantize(op: &Dequantize, q: &TensorType) -> Result<Box<dyn CpuKernel>> {
    let cut = Cut::of(q, op.axis);
    of_code!(q.dtype, DequantizeKernel, (cut, PhantomData))
}

pub(super) fn fake_quantize(op: &FakeQuantize, x: &TensorType) -> Result<Box<dyn CpuKernel>> {
    let cut = Cut::of(x, op.axis);
    of_code!(op.codes.dtype, FakeKernel, (cut, op.codes, PhantomData))
}

pub(super) fn fake_quantize_grad(op: &FakeQuantizeGrad, x: &TensorType) -> Result<Box<dyn CpuKernel>> {
    let (cut, scale_gradient) = (Cut::of(x, op.axis), op.scale_gradient);
    of_code!(op.codes.dtype, FakeGradKernel, { cut, codes: op.codes, scale_gradient, code: PhantomData })
}

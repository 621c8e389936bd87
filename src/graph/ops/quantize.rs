//! Whole numbers of one byte in place of floats: q = round(x / scale) + zero point, within a range, and back.
//!
//! Scale and zero point are operands: [1] for the whole of x, or [C] for each index along an axis. The quotient is the exact one, rounded to the nearest whole
//! number, ties to even; what lies beyond the range becomes its end, NaN the zero point. A quotient of two f32 that is no tie is at least 2^-25 from every one,
//! so that f64 never mistakes it for one: a backend has the same numbers, bit for bit.

use crate::error::{Error, Result};
use crate::graph::op::{Narrow, OpDef, activations, arity, expect_dtype, expect_shape, floats};
use crate::graph::reference::Array;
use crate::graph::{GradCx, TensorType, ValueId};
use crate::tensor::DType;

/// Whole numbers of one byte: those from `low` to `high` of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codes {
    /// I8 or U8.
    pub dtype: DType,
    /// The least of them.
    pub low: i32,
    /// The greatest.
    pub high: i32,
}

impl Codes {
    /// All of I8.
    pub const I8: Self = Self { dtype: DType::I8, low: -128, high: 127 };
    /// All of U8.
    pub const U8: Self = Self { dtype: DType::U8, low: 0, high: 255 };
    /// Those of I8 whose negatives are there too: weights.
    pub const WEIGHTS: Self = Self { low: -127, ..Self::I8 };

    /// All of a type.
    pub fn of(dtype: DType) -> Result<Self> {
        match dtype {
            DType::I8 => Ok(Self::I8),
            DType::U8 => Ok(Self::U8),
            other => Err(Error::unsupported(format!("quantised numbers are I8 or U8, found {other:?}"))),
        }
    }

    fn check(self) -> Result<()> {
        let all = Self::of(self.dtype)?;
        if self.low <= self.high && all.low <= self.low && self.high <= all.high {
            return Ok(());
        }
        Err(Error::unsupported(format!("numbers from {} to {} of {:?}, which has those from {} to {}", self.low, self.high, self.dtype, all.low, all.high)))
    }

    /// What of the floats that become these numbers is an activation, `which` of an op's operands. Those of I8 are weights, which are f32 in every plan: rounded in
    /// a narrower type they would be other numbers than those that are saved.
    fn narrow(self, which: &[usize]) -> Narrow {
        if self.dtype == DType::I8 { Narrow::Wide } else { Narrow::Operands(which.to_vec()) }
    }

    /// The ends of the range less a zero point: n and p of [`FakeQuantize`].
    fn ends(self, zero: f64) -> [f64; 2] {
        [self.low, self.high].map(|end| f64::from(end) - zero)
    }
}

/// Checks scale and zero point of `x` for numbers of `dtype`.
fn check(x: &TensorType, scale: &TensorType, zero: &TensorType, dtype: DType, axis: Option<usize>) -> Result<()> {
    Codes::of(dtype)?;
    let channels = match axis {
        None => 1,
        Some(axis) => *x.shape.get(axis).ok_or_else(|| Error::shape(format!("axis {axis} of shape {:?}", x.shape)))?,
    };
    floats(&[scale]).map_err(|e| e.context("scale"))?;
    expect_dtype(zero, dtype).map_err(|e| e.context("zero point"))?;
    expect_shape("scale", scale, &[channels])?;
    expect_shape("zero point", zero, &[channels])
}

/// f(x, scale, zero point) for each element of `x`.
fn each(x: &Array, [scale, zero]: [&Array; 2], axis: Option<usize>, f: impl Fn(f64, f64, f64) -> f64) -> Array {
    let mut y = x.clone();
    for (at, v) in y.indexed_iter_mut() {
        let channel = axis.map_or(0, |axis| at[axis]);
        *v = f(*v, scale[[channel]], zero[[channel]]);
    }
    y
}

/// round(x / scale), NaN taken for 0.
fn rounded(x: f64, scale: f64) -> f64 {
    let quotient = x / scale;
    if quotient.is_nan() { 0.0 } else { quotient.round_ties_even() }
}

/// q = round(x / scale) + zero point, saturated. Operands: x of any float type, scale, zero point of the numbers' dtype. Result: of it, shaped like x.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantize {
    /// What there is: the dtype is that of the result.
    pub codes: Codes,
    /// The axis whose indices have a scale and a zero point each; `None` for one of both.
    pub axis: Option<usize>,
}

impl OpDef for Quantize {
    fn name(&self) -> &'static str {
        "quantize"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 3..=3)?;
        activations(&inputs[..1])?;
        self.codes.check()?;
        check(inputs[0], inputs[1], inputs[2], self.codes.dtype, self.axis)?;
        Ok(vec![TensorType::new(self.codes.dtype, &inputs[0].shape)])
    }

    fn narrow(&self) -> Narrow {
        self.codes.narrow(&[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let [low, high] = self.codes.ends(0.0);
        Ok(vec![each(inputs[0], [inputs[1], inputs[2]], self.axis, |x, scale, zero| (rounded(x, scale) + zero).clamp(low, high))])
    }
}

/// y = (q - zero point) scale in f32. Operands: q of I8 or U8, scale, zero point of q's type.
#[derive(Clone, Debug, PartialEq)]
pub struct Dequantize {
    /// As of [`Quantize`].
    pub axis: Option<usize>,
}

impl OpDef for Dequantize {
    fn name(&self) -> &'static str {
        "dequantize"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 3..=3)?;
        check(inputs[0], inputs[1], inputs[2], inputs[0].dtype, self.axis)?;
        Ok(vec![TensorType::f32(&inputs[0].shape)])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Wide
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        Ok(vec![each(inputs[0], [inputs[1], inputs[2]], self.axis, |q, scale, zero| (q - zero) * scale)])
    }
}

/// y = Dequantize(Quantize(x)), of x's type: what quantised arithmetic would see, for training. Operands as of [`Quantize`]. What is not finite becomes finite
/// here: who trains through it and would know of NaN must look before.
///
/// Gradients (Esser et al. 2020, "Learned step size quantization", eq. 3 and 5; what is in range by its number, as in PyTorch's fake_quantize kernels, so that
/// what is rounded to an end learns too), v = x / scale and n, p the ends of the range less the zero point: dy/dx = 1 for n <= round(v) <= p, else 0;
/// dy/dscale = round(v) - v there, n below, p above, all of it times `scale_gradient`. NaN has neither.
#[derive(Clone, Debug, PartialEq)]
pub struct FakeQuantize {
    /// The numbers that are stood for.
    pub codes: Codes,
    /// As of [`Quantize`].
    pub axis: Option<usize>,
    /// Factor on the scale's gradient: 1 / sqrt(elements a scale has, times p) in that paper's section 2.2.
    pub scale_gradient: f32,
}

impl OpDef for FakeQuantize {
    fn name(&self) -> &'static str {
        "fake_quantize"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 3..=3)?;
        activations(&inputs[..1])?;
        self.codes.check()?;
        check(inputs[0], inputs[1], inputs[2], self.codes.dtype, self.axis)?;
        Ok(vec![inputs[0].clone()])
    }

    fn narrow(&self) -> Narrow {
        self.codes.narrow(&[0])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let q = Quantize { codes: self.codes, axis: self.axis }.reference(inputs)?;
        Dequantize { axis: self.axis }.reference(&[&q[0], inputs[1], inputs[2]])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        let (x, scale, zero, dy) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.output_grad(0)?);
        let op = FakeQuantizeGrad { codes: self.codes, axis: self.axis, scale_gradient: self.scale_gradient };
        let [dx, each] = cx.graph.push(op.into(), &[x, scale, zero, dy])?[..] else { return Err(Error::internal("fake_quantize_grad has two results")) };
        let mut dscale = None;
        if cx.wants(1) {
            let kept: Vec<usize> = cx.graph.shape(each).iter().enumerate().map(|(d, size)| if self.axis == Some(d) { *size } else { 1 }).collect();
            let sum = cx.graph.reduce_sum(each, &kept)?;
            let shape = cx.input_type(1).shape;
            dscale = Some(cx.graph.reshape(sum, &shape)?);
        }
        Ok(vec![Some(dx), dscale, None])
    }
}

/// Both gradients of [`FakeQuantize`] from x, scale, zero point and dy: dx of x's type, and what each element adds to the scale's, f32, shaped like x.
#[derive(Clone, Debug, PartialEq)]
pub struct FakeQuantizeGrad {
    /// The forward op's.
    pub codes: Codes,
    /// The forward op's.
    pub axis: Option<usize>,
    /// The forward op's.
    pub scale_gradient: f32,
}

impl OpDef for FakeQuantizeGrad {
    fn name(&self) -> &'static str {
        "fake_quantize_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 4..=4)?;
        activations(&[inputs[0], inputs[3]])?;
        self.codes.check()?;
        check(inputs[0], inputs[1], inputs[2], self.codes.dtype, self.axis)?;
        expect_shape("dy", inputs[3], &inputs[0].shape)?;
        Ok(vec![inputs[0].clone(), TensorType::f32(&inputs[0].shape)])
    }

    fn narrow(&self) -> Narrow {
        self.codes.narrow(&[0, 3])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let parameters = [inputs[1], inputs[2]];
        let through = each(inputs[0], parameters, self.axis, |x, scale, zero| {
            let ([n, p], q) = (self.codes.ends(zero), rounded(x, scale));
            f64::from(u8::from(n <= q && q <= p && !x.is_nan()))
        });
        let slope = each(inputs[0], parameters, self.axis, |x, scale, zero| {
            let ([n, p], q) = (self.codes.ends(zero), rounded(x, scale));
            // With a zero point out of range NaN's number, 0, is beyond an end: it has no slope all the same.
            let slope = match q {
                _ if x.is_nan() => 0.0,
                q if q < n => n,
                q if q > p => p,
                q => q - x / scale,
            };
            f64::from(self.scale_gradient) * slope
        });
        Ok(vec![through * inputs[3], slope * inputs[3]])
    }
}

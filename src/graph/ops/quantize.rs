//! Whole numbers of one byte in place of floats: q = round(x / scale) + zero point, within the range of the type, and back.
//!
//! Scale and zero point are operands: [1] for the whole of x, or [C] for each index along an axis. The quotient is the exact one, rounded to the nearest whole
//! number, ties to even; what lies beyond the range becomes its end, NaN the zero point. A quotient of two f32 that is no tie is at least 2^-25 from every one, so
//! that f64 never mistakes it for one: a backend has the same numbers, bit for bit.

use crate::error::{Error, Result};
use crate::graph::op::{Narrow, OpDef, activations, arity, expect_dtype, expect_shape, floats};
use crate::graph::reference::Array;
use crate::graph::{GradCx, TensorType, ValueId};
use crate::tensor::DType;
use std::ops::RangeInclusive;

/// The whole numbers of a type of one byte.
pub fn range(dtype: DType) -> Result<RangeInclusive<i32>> {
    match dtype {
        DType::I8 => Ok(-128..=127),
        DType::U8 => Ok(0..=255),
        other => Err(Error::unsupported(format!("quantised numbers are I8 or U8, found {other:?}"))),
    }
}

/// Checks scale and zero point of `x` for numbers of `dtype`.
fn check(x: &TensorType, scale: &TensorType, zero: &TensorType, dtype: DType, axis: Option<usize>) -> Result<()> {
    range(dtype)?;
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

/// q = round(x / scale) + zero point, saturated. Operands: x of any float type, scale, zero point of `dtype`. Result: `dtype`, shaped like x.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantize {
    /// Type of the result: I8 or U8.
    pub dtype: DType,
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
        check(inputs[0], inputs[1], inputs[2], self.dtype, self.axis)?;
        Ok(vec![TensorType::new(self.dtype, &inputs[0].shape)])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Operands(vec![0])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let range = range(self.dtype)?;
        let [low, high] = [range.start(), range.end()].map(|end| f64::from(*end));
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

/// y = Dequantize(Quantize(x)), of x's type: what quantised arithmetic would see, for training. Operands as of [`Quantize`]. What is not finite becomes finite here:
/// who trains through it and would know of NaN must look before.
///
/// Gradients (Esser et al. 2020, "Learned step size quantization", eq. 3 and 5), v = x / scale and n, p the ends of the type's range less the zero point:
/// dy/dx = 1 for n < v < p, else 0; dy/dscale = round(v) - v for n < v < p, n for v <= n, p for v >= p, all of it times `scale_gradient`.
#[derive(Clone, Debug, PartialEq)]
pub struct FakeQuantize {
    /// The type whose numbers are stood for: I8 or U8.
    pub dtype: DType,
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
        check(inputs[0], inputs[1], inputs[2], self.dtype, self.axis)?;
        Ok(vec![inputs[0].clone()])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Operands(vec![0])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let q = Quantize { dtype: self.dtype, axis: self.axis }.reference(inputs)?;
        Dequantize { axis: self.axis }.reference(&[&q[0], inputs[1], inputs[2]])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        let (x, scale, zero, dy) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.output_grad(0)?);
        let op = FakeQuantizeGrad { dtype: self.dtype, axis: self.axis, scale_gradient: self.scale_gradient };
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
    pub dtype: DType,
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
        check(inputs[0], inputs[1], inputs[2], self.dtype, self.axis)?;
        expect_shape("dy", inputs[3], &inputs[0].shape)?;
        Ok(vec![inputs[0].clone(), TensorType::f32(&inputs[0].shape)])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Operands(vec![0, 3])
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        let range = range(self.dtype)?;
        let ends = |zero: f64| [range.start(), range.end()].map(|end| f64::from(*end) - zero);
        let parameters = [inputs[1], inputs[2]];
        let through = each(inputs[0], parameters, self.axis, |x, scale, zero| {
            let ([n, p], v) = (ends(zero), x / scale);
            f64::from(u8::from(n < v && v < p))
        });
        let slope = each(inputs[0], parameters, self.axis, |x, scale, zero| {
            let ([n, p], v) = (ends(zero), x / scale);
            let inside = if v.is_nan() { 0.0 } else { v.round_ties_even() - v };
            f64::from(self.scale_gradient)
                * if v <= n {
                    n
                } else if v >= p {
                    p
                } else {
                    inside
                }
        });
        Ok(vec![through * inputs[3], slope * inputs[3]])
    }
}

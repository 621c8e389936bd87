//! Element-wise ops: unary functions, affine maps and broadcasting arithmetic.

use crate::error::{Error, Result};
use crate::graph::op::{Narrow, OpDef, activations, arity, expect_shape};
use crate::graph::reference::Array;
use crate::graph::{GradCx, TensorType, ValueId};
use crate::tensor::DType;

/// The functions that [`Unary`] knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UnaryKind {
    /// x sigmoid(x).
    Silu,
    /// x Phi(x), the exact form with erf.
    Gelu,
    /// x tanh(softplus(x)).
    Mish,
    /// max(x, 0).
    Relu,
    /// |x|; slope 0 at 0.
    Abs,
    /// x^2.
    Square,
    /// 1/sqrt(x): infinite at 0, NaN below.
    Rsqrt,
    /// x^2/2 inside |x| <= delta, delta (|x| - delta/2) outside.
    Huber(f32),
    /// min(max(x, lo), hi); slope 0 outside.
    Clamp(f32, f32),
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// erf by its Maclaurin series near 0 and a continued fraction in the tails; full double precision.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 3.0 {
        let (mut term, mut sum, mut n) = (a, a, 0.0);
        while term.abs() > 1e-17 * sum.abs() {
            n += 1.0;
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        return x.signum() * sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let tail = (1..60).rev().fold(a, |f, k| a + f64::from(k) / 2.0 / f);
    x.signum() * (1.0 - (-a * a).exp() / (std::f64::consts::PI.sqrt() * tail))
}

impl UnaryKind {
    /// Value in double precision.
    pub fn value(self, x: f64) -> f64 {
        match self {
            UnaryKind::Silu => x * sigmoid(x),
            UnaryKind::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
            UnaryKind::Mish => x * softplus(x).tanh(),
            UnaryKind::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            } // NaN stays
            UnaryKind::Abs => x.abs(),
            UnaryKind::Square => x * x,
            UnaryKind::Rsqrt => 1.0 / x.sqrt(),
            UnaryKind::Huber(delta) => {
                let d = f64::from(delta);
                if x.abs() <= d { 0.5 * x * x } else { d * (x.abs() - 0.5 * d) }
            }
            UnaryKind::Clamp(lo, hi) => x.clamp(f64::from(lo), f64::from(hi)),
        }
    }

    /// Derivative in double precision.
    pub fn slope(self, x: f64) -> f64 {
        match self {
            UnaryKind::Silu => sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))),
            UnaryKind::Gelu => {
                let pdf = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
                0.5 * (1.0 + erf(x / std::f64::consts::SQRT_2)) + x * pdf
            }
            UnaryKind::Mish => {
                let t = softplus(x).tanh();
                t + x * (1.0 - t * t) * sigmoid(x)
            }
            UnaryKind::Relu => f64::from(u8::from(x > 0.0)),
            UnaryKind::Abs => f64::from(i8::from(x > 0.0) - i8::from(x < 0.0)),
            UnaryKind::Square => 2.0 * x,
            UnaryKind::Rsqrt => -0.5 / (x * x.sqrt()),
            UnaryKind::Huber(delta) => x.clamp(-f64::from(delta), f64::from(delta)),
            UnaryKind::Clamp(lo, hi) => f64::from(u8::from(x >= f64::from(lo) && x <= f64::from(hi))),
        }
    }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

impl UnaryKind {
    /// Refuses limits that no number can lie between.
    fn check(self) -> Result<()> {
        match self {
            UnaryKind::Huber(delta) if delta.is_nan() || delta < 0.0 => Err(Error::invalid(format!("Huber loss with delta {delta}"))),
            UnaryKind::Clamp(lo, hi) if lo.is_nan() || hi.is_nan() || lo > hi => Err(Error::invalid(format!("clamp to {lo}..{hi}"))),
            _ => Ok(()),
        }
    }
}

/// y = f(x).
#[derive(Clone, Debug, PartialEq)]
pub struct Unary {
    /// f.
    pub kind: UnaryKind,
}

/// Losses stay wide: powers of a small difference, and what divides it, which half would round or overflow.
fn narrow_unary(kind: UnaryKind) -> Narrow {
    match kind {
        UnaryKind::Abs | UnaryKind::Square | UnaryKind::Rsqrt | UnaryKind::Huber(_) => Narrow::Wide,
        UnaryKind::Silu | UnaryKind::Relu | UnaryKind::Gelu | UnaryKind::Mish | UnaryKind::Clamp(..) => Narrow::Follow,
    }
}

impl OpDef for Unary {
    fn name(&self) -> &'static str {
        "unary"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 1..=1)?;
        activations(inputs)?;
        self.kind.check()?;
        Ok(vec![inputs[0].clone()])
    }

    fn narrow(&self) -> Narrow {
        narrow_unary(self.kind)
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        Ok(vec![inputs[0].mapv(|x| self.kind.value(x))])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        let (x, dy) = (cx.input(0)?, cx.output_grad(0)?);
        Ok(vec![Some(cx.graph.push1(UnaryGrad { kind: self.kind }.into(), &[x, dy])?)])
    }
}

/// dx = f'(x) dy.
#[derive(Clone, Debug, PartialEq)]
pub struct UnaryGrad {
    /// f.
    pub kind: UnaryKind,
}

impl OpDef for UnaryGrad {
    fn name(&self) -> &'static str {
        "unary_grad"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 2..=2)?;
        activations(inputs)?;
        self.kind.check()?;
        expect_shape("dy", inputs[1], &inputs[0].shape)?;
        Ok(vec![inputs[0].clone()])
    }

    fn narrow(&self) -> Narrow {
        narrow_unary(self.kind)
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        Ok(vec![inputs[0].mapv(|x| self.kind.slope(x)) * inputs[1]])
    }
}

/// y = scale x + shift.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    /// Factor.
    pub scale: f32,
    /// Offset.
    pub shift: f32,
}

impl OpDef for Affine {
    fn name(&self) -> &'static str {
        "affine"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 1..=1)?;
        activations(inputs)?;
        Ok(vec![inputs[0].clone()])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Follow
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        Ok(vec![inputs[0].mapv(|x| f64::from(self.scale) * x + f64::from(self.shift))])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        let dy = cx.output_grad(0)?;
        Ok(vec![Some(cx.graph.push1(Affine { scale: self.scale, shift: 0.0 }.into(), &[dy])?)])
    }
}

/// The arithmetic that [`Binary`] knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryKind {
    /// a + b.
    Add,
    /// a - b.
    Sub,
    /// a b.
    Mul,
}

/// y = a (op) b; equal ranks, a dimension of 1 is repeated.
#[derive(Clone, Debug, PartialEq)]
pub struct Binary {
    /// The arithmetic.
    pub kind: BinaryKind,
}

impl OpDef for Binary {
    fn name(&self) -> &'static str {
        "binary"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 2..=2)?;
        let dtype = activations(inputs)?;
        let (a, b) = (&inputs[0].shape, &inputs[1].shape);
        let fits = a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x == y || *x == 1 || *y == 1);
        if !fits {
            return Err(Error::shape(format!("shapes {a:?} and {b:?} do not broadcast")));
        }
        Ok(vec![TensorType::new(dtype, &a.iter().zip(b).map(|(x, y)| *x.max(y)).collect::<Vec<_>>())])
    }

    fn narrow(&self) -> Narrow {
        match self.kind {
            // A difference of neighbouring numbers, which half would round.
            BinaryKind::Sub => Narrow::Wide,
            BinaryKind::Add | BinaryKind::Mul => Narrow::Follow,
        }
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        Ok(vec![match self.kind {
            BinaryKind::Add => inputs[0] + inputs[1],
            BinaryKind::Sub => inputs[0] - inputs[1],
            BinaryKind::Mul => inputs[0] * inputs[1],
        }])
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        let dy = cx.output_grad(0)?;
        let mut grads = vec![None, None];
        for (i, grad) in grads.iter_mut().enumerate() {
            if !cx.wants(i) {
                continue;
            }
            let full = match (self.kind, i) {
                (BinaryKind::Mul, _) => {
                    let other = cx.input(1 - i)?;
                    cx.graph.push1(Binary { kind: BinaryKind::Mul }.into(), &[dy, other])?
                }
                (BinaryKind::Sub, 1) => cx.graph.push1(Affine { scale: -1.0, shift: 0.0 }.into(), &[dy])?,
                _ => dy,
            };
            let shape = cx.input_type(i).shape;
            let same = cx.graph.shape(full) == shape;
            *grad = Some(if same { full } else { cx.graph.reduce_sum(full, &shape)? });
        }
        Ok(grads)
    }
}

/// The same numbers in another type, rounded to nearest even: i32 to f32 (exact up to 2^24), and between f32, f16 and bf16.
#[derive(Clone, Debug, PartialEq)]
pub struct Cast {
    /// Type of the result.
    pub to: DType,
}

impl OpDef for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        arity(inputs, 1..=1)?;
        let half = |dtype| matches!(dtype, DType::F16 | DType::Bf16);
        match (inputs[0].dtype, self.to) {
            (DType::I32, DType::F32) => {}
            (from, DType::F32) if half(from) => {}
            (DType::F32, to) if half(to) => {}
            (from, to) => return Err(Error::unsupported(format!("cast from {from:?} to {to:?}"))),
        }
        Ok(vec![TensorType::new(self.to, &inputs[0].shape)])
    }

    fn narrow(&self) -> Narrow {
        Narrow::Wide
    }

    fn reference(&self, inputs: &[&Array]) -> Result<Vec<Array>> {
        Ok(vec![inputs[0].clone()]) // rounding is an error to be measured, not a meaning
    }

    fn grad(&self, cx: &mut GradCx) -> Result<Vec<Option<ValueId>>> {
        // Integers have none. Between floats the gradient is the other cast; the precision pass runs after differentiation and needs none.
        match cx.input_type(0).dtype {
            DType::I32 => Ok(vec![None]),
            from => Err(Error::unsupported(format!("cast from {from:?} has no gradient"))),
        }
    }
}

//! Ops of single elements, in whatever form their operands have.

use super::lowering::Lowering;
use super::proto::DataType;
use super::writer::int;
use crate::error::{Error, Result};
use crate::graph::ValueId;
use crate::graph::ops::{Affine, Binary, BinaryKind, Cast, Unary, UnaryKind};
use crate::tensor::DType;

/// x sigmoid(x): a name of its own came with opset 24.
pub(super) fn silu(l: &mut Lowering, x: &str, y: ValueId) -> Result<String> {
    let share = l.emit("Sigmoid", &[x], vec![], y)?;
    l.emit("Mul", &[x, &share], vec![], y)
}

pub(super) fn unary(l: &mut Lowering, op: &Unary, x: ValueId, y: ValueId) -> Result<()> {
    let (x, form) = l.any(x)?;
    let name = match op.kind {
        UnaryKind::Silu => silu(l, &x, y)?,
        UnaryKind::Gelu => l.emit("Gelu", &[&x], vec![], y)?,
        UnaryKind::Mish => l.emit("Mish", &[&x], vec![], y)?,
        UnaryKind::Relu => l.emit("Relu", &[&x], vec![], y)?,
        UnaryKind::Abs => l.emit("Abs", &[&x], vec![], y)?,
        UnaryKind::Square => l.emit("Mul", &[&x, &x], vec![], y)?,
        UnaryKind::Rsqrt => {
            let root = l.emit("Sqrt", &[&x], vec![], y)?;
            l.emit("Reciprocal", &[&root], vec![], y)?
        }
        UnaryKind::Clamp(low, high) => {
            let (low, high) = (l.scalar(low)?, l.scalar(high)?);
            l.emit("Clip", &[&x, &low, &high], vec![], y)?
        }
        UnaryKind::Huber(_) => return Err(Error::unsupported("a loss has no form in ONNX")),
    };
    l.set(y, form, name)
}

pub(super) fn affine(l: &mut Lowering, op: &Affine, x: ValueId, y: ValueId) -> Result<()> {
    let (mut name, form) = l.any(x)?;
    for (operator, number, nothing) in [("Mul", op.scale, 1.0), ("Add", op.shift, 0.0)] {
        if number != nothing {
            let number = l.scalar(number)?;
            name = l.emit(operator, &[&name, &number], vec![], y)?;
        }
    }
    l.set(y, form, name)
}

pub(super) fn binary(l: &mut Lowering, op: &Binary, [a, b]: [ValueId; 2], y: ValueId) -> Result<()> {
    let operator = match op.kind {
        BinaryKind::Add => "Add",
        BinaryKind::Sub => "Sub",
        BinaryKind::Mul => "Mul",
    };
    let (operands, first) = l.alike(&[a, b])?;
    let name = l.emit(operator, &[&operands[0], &operands[1]], vec![], y)?;
    l.set_alike(y, first, name)
}

pub(super) fn cast(l: &mut Lowering, op: &Cast, x: ValueId, y: ValueId) -> Result<()> {
    if op.to != DType::F32 {
        return Err(Error::unsupported(format!("a cast to {:?}", op.to)));
    }
    let (x, form) = l.any(x)?;
    let name = l.emit("Cast", &[&x], vec![int("to", DataType::Float as i64)], y)?;
    l.set(y, form, name)
}

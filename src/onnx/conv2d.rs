//! Convolutions: `Conv` over channels-first images; a layer over rows, which the graph writes as a 1x1 convolution of images of one pixel, is `Gemm`.

use super::form::{Form, Numbers};
use super::lowering::{Lowering, wrong_rank};
use super::proto::{AttributeProto, DataType};
use super::weights::Weights;
use super::writer::{WHAT, int, ints};
use crate::error::Result;
use crate::graph::ValueId;
use crate::graph::ops::Conv2d;
use crate::memory;

pub(super) fn lower(l: &mut Lowering, op: &Conv2d, inputs: &[ValueId], y: ValueId) -> Result<()> {
    let (x, w, bias) = (inputs[0], inputs[1], inputs.get(2).copied());
    let &[_, h, width, channels] = l.shape(x) else { return Err(wrong_rank("a convolution")) };
    let geometry = op.geometry;
    let rows = [h, width] == [1, 1] && geometry.kernel == [1, 1] && geometry.pad == [0; 4];
    if let (Some(numbers), true) = (l.numbers(x), l.options.integer_products())
        && let Some(weights) = l.whole_weights(w)?.filter(|weights| weights.scales.numel() == op.out_channels)
    {
        return if rows { matmul_integer(l, &numbers, &weights, [x, w, y], bias) } else { conv_integer(l, op, &numbers, &weights, [x, w, y], bias) };
    }
    // Compilers want biases as constants: one of a step that is known when it runs is added apart.
    let (own, apart) = bias.map_or((None, None), |b| if l.is_constant(b) { (Some(b), None) } else { (None, Some(b)) });
    let outputs = op.out_channels as i64;
    let (form, operator, attributes, x, w) = if rows {
        let (x, w) = (l.rows_as(x, vec![-1, channels as i64])?, l.rows_as(w, vec![outputs, channels as i64])?);
        (Form::Rows(vec![-1, outputs]), "Gemm", vec![int("transB", 1)], x, w)
    } else {
        (Form::First, "Conv", geometry_of(op), l.first(x)?, l.rows(w)?)
    };
    let own = own.map(|b| l.rows(b)).transpose()?;
    let inputs: Vec<&str> = [Some(&x), Some(&w), own.as_ref()].into_iter().flatten().map(String::as_str).collect();
    let mut name = l.emit(operator, &inputs, attributes, y)?;
    if let Some(bias) = apart {
        let bias = l.rows_as(bias, if rows { vec![1, outputs] } else { vec![1, outputs, 1, 1] })?;
        name = l.emit("Add", &[&name, &bias], vec![], y)?;
    }
    l.set(y, form, name)
}

/// kernel_shape, strides and pads, which are top, left, bottom, right in both.
fn geometry_of(op: &Conv2d) -> Vec<AttributeProto> {
    let g = op.geometry;
    let wide = |values: &[usize]| values.iter().map(|v| *v as i64).collect::<Vec<_>>();
    vec![ints("kernel_shape", &wide(&g.kernel)), ints("strides", &wide(&[g.stride; 2])), ints("pads", &wide(&g.pad))]
}

/// Sums of products of whole numbers, times both scales, plus the bias: what this library's kernels compute, but for the order of the last two roundings.
fn conv_integer(l: &mut Lowering, op: &Conv2d, numbers: &Numbers, weights: &Weights, [x, w, y]: [ValueId; 3], bias: Option<ValueId>) -> Result<()> {
    let q = l.numbers_first(numbers, x)?;
    let dims: Vec<i64> = [op.out_channels, l.shape(x)[3]].into_iter().chain(op.geometry.kernel).map(|d| d as i64).collect();
    let w = l.numbers_of(weights, w, &dims)?;
    let sums = l.emit("ConvInteger", &[&q, &w, &numbers.zero], geometry_of(op), y)?;
    let name = rescaled(l, &sums, numbers, weights, (bias, y), &[1, op.out_channels as i64, 1, 1])?;
    l.set(y, Form::First, name)
}

/// The same of rows.
fn matmul_integer(l: &mut Lowering, numbers: &Numbers, weights: &Weights, [x, w, y]: [ValueId; 3], bias: Option<ValueId>) -> Result<()> {
    let (channels, outputs) = (l.shape(x)[3] as i64, weights.scales.numel() as i64);
    let (q, w) = (l.numbers_as(numbers, x, &[-1, channels])?, l.numbers_of(weights, w, &[outputs, channels])?);
    let turned = l.emit("Transpose", &[&w], vec![ints("perm", &[1, 0])], y)?;
    let sums = l.emit("MatMulInteger", &[&q, &turned, &numbers.zero], vec![], y)?;
    let name = rescaled(l, &sums, numbers, weights, (bias, y), &[1, outputs])?;
    l.set(y, Form::Rows(vec![-1, outputs]), name)
}

fn rescaled(l: &mut Lowering, sums: &str, numbers: &Numbers, weights: &Weights, (bias, y): (Option<ValueId>, ValueId), dims: &[i64]) -> Result<String> {
    let floats = l.emit("Cast", &[sums], vec![int("to", DataType::Float as i64)], y)?;
    let scales = weights.scales.to_f32_vec()?;
    let factors = l.writer.floats(dims, &memory::collect(scales.iter().map(|s| s * numbers.factor), WHAT)?)?;
    let scaled = l.emit("Mul", &[&floats, &factors], vec![], y)?;
    let Some(bias) = bias else { return Ok(scaled) };
    let bias = l.rows_as(bias, dims.to_vec())?;
    l.emit("Add", &[&scaled, &bias], vec![], y)
}

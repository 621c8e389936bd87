//! Graphs that cannot be meant: a status and a sentence with both shapes, never a panic.

use crate::common::Case;
use fewstep::graph::ops::*;
use fewstep::graph::{Graph, Op, TensorType};
use fewstep::random::Purpose;
use fewstep::tensor::DType;
use fewstep::{Result, Status};

fn ty(text: &str) -> TensorType {
    let (dtype, text) = match text.split_once(':') {
        Some(("i32", rest)) => (DType::I32, rest),
        Some(("i64", rest)) => (DType::I64, rest),
        Some(("i8", rest)) => (DType::I8, rest),
        Some(("u8", rest)) => (DType::U8, rest),
        Some(("f16", rest)) => (DType::F16, rest),
        _ => (DType::F32, text),
    };
    let shape: Vec<usize> = text.split(',').filter(|t| !t.is_empty()).map(|t| t.parse().expect("dimension")).collect();
    TensorType::new(dtype, &shape)
}

fn push(op: impl Into<Op>, operands: &[&str]) -> fewstep::Error {
    let op = op.into();
    let mut g = Graph::new();
    let inputs: Vec<_> = operands.iter().enumerate().map(|(i, t)| g.input(format!("in{i}"), ty(t)).expect("input")).collect();
    match g.push(op.clone(), &inputs) {
        Ok(_) => panic!("{op:?} of {operands:?} was accepted"),
        Err(e) => e,
    }
}

/// The operation is refused for its shapes, and the message holds all of `shapes`.
fn refused(op: impl Into<Op>, operands: &[&str], shapes: &[&str]) {
    let op = op.into();
    let error = push(op.clone(), operands);
    assert_eq!(error.status, Status::Shape, "{op:?}: {error}");
    for s in shapes {
        assert!(error.message.contains(s), "{op:?}: '{error}' does not name {s}");
    }
}

fn conv(kernel: [usize; 2], o: usize, bias: bool) -> Conv2d {
    Conv2d::new(ConvGeometry { kernel, stride: 1, pad: [0; 4] }, o, bias)
}

#[test]
fn convolutions() {
    refused(conv([3, 3], 8, false), &["1,4,4,3", "8,4,3,3"], &["[8, 3, 3, 3]", "[8, 4, 3, 3]"]);
    refused(conv([3, 3], 8, true), &["1,4,4,3", "8,3,3,3", "7"], &["[8]", "[7]"]);
    refused(conv([3, 3], 8, false), &["1,2,4,3", "8,3,3,3"], &["[3, 3]", "2x4"]);
    refused(conv([3, 3], 8, false), &["4,4,3", "8,3,3,3"], &["[4, 4, 3]", "[N,H,W,C]"]);
    refused(FusedConv2d { addend: true, ..conv([1, 1], 2, false).into() }, &["2,4,4,3", "2,3,1,1", "1,2"], &["[2, 2]", "[1, 2]"]);
    refused(FusedConv2d { residual: true, ..conv([1, 1], 2, false).into() }, &["2,4,4,3", "2,3,1,1", "2,4,4,3"], &["[2, 4, 4, 2]", "[2, 4, 4, 3]"]);
    let geometry = ConvGeometry { kernel: [3, 3], stride: 1, pad: [1; 4] };
    let input_grad = |input: &[usize]| Conv2dInputGrad { geometry, input: input.to_vec(), packed: false, bf16: false };
    refused(input_grad(&[1, 4, 4, 3]), &["1,4,5,8", "8,3,3,3"], &["[1, 4, 4, 8]", "[1, 4, 5, 8]"]);
    refused(input_grad(&[1, 4, 4, 3]), &["1,4,4,8", "8,2,3,3"], &["[8, 3, 3, 3]", "[8, 2, 3, 3]"]);
    refused(input_grad(&[1, 4]), &["1,4,4,8", "8,3,3,3"], &["[1, 4]"]);
    refused(Conv2dWeightGrad { geometry, bf16: false }, &["1,4,4,3", "1,4,3,8"], &["[1, 4, 4, 8]", "[1, 4, 3, 8]"]);
    let huge = ConvGeometry { kernel: [3, 3], stride: 1, pad: [usize::MAX, 0, usize::MAX, 0] };
    refused(Conv2d::new(huge, 8, false), &["1,4,4,3", "8,3,3,3"], &["4x4"]);
    let still = ConvGeometry { kernel: [3, 3], stride: 0, pad: [0; 4] };
    refused(Conv2d::new(still, 8, false), &["1,4,4,3", "8,3,3,3"], &["4x4"]);
}

#[test]
fn norms_and_attention() {
    let norm = |groups| GroupNorm::new(groups, 1e-5, false);
    refused(norm(3), &["1,4,4,8", "8", "8"], &["3 groups", "[1, 4, 4, 8]"]);
    refused(norm(0), &["1,4,4,8", "8", "8"], &["[1, 4, 4, 8]"]);
    refused(norm(2), &["1,4,4,8", "7", "8"], &["[8]", "[7]"]);
    refused(norm(2), &["1,4,4,8", "8", "1,8"], &["[8]", "[1, 8]"]);
    refused(norm(1), &["8", "8", "8"], &["[8]"]);
    let by_moments = |moments| FusedGroupNorm { moments, ..norm(2).into() };
    refused(by_moments(1), &["1,4,4,8", "8", "8", "1,6,2"], &["6 channels", "8"]);
    refused(by_moments(2), &["1,4,4,8", "8", "8", "1,6,2", "2,2,2"], &["[1, 2, 2]", "[2, 2, 2]"]);
    let grad = GroupNormGrad { groups: 2, silu: false };
    refused(grad.clone(), &["1,4,4,8", "8", "8", "1,2", "1,2", "1,4,8"], &["[1, 4, 4, 8]", "[1, 4, 8]"]);
    refused(grad.clone(), &["1,4,4,8", "7", "8", "1,2", "1,2", "1,4,4,8"], &["[8]", "[7]"]);
    refused(grad.clone(), &["1,4,4,8", "8", "8", "1,2", "1,3", "1,4,4,8"], &["[1, 2]", "[1, 3]"]);
    refused(grad, &["1,4,4,7", "7", "7", "1,2", "1,2", "1,4,4,7"], &["2 groups", "[1, 4, 4, 7]"]);
    let attention = Attention { heads: 2, scale: 1.0 };
    refused(attention.clone(), &["1,4,8", "1,5,8", "1,4,8"], &["[1, 4, 8]", "[1, 5, 8]"]);
    refused(attention.clone(), &["1,4,8", "1,4,8", "1,4,6"], &["[1, 4, 8]", "[1, 4, 6]"]);
    refused(attention, &["4,8", "4,8", "4,8"], &["[4, 8]", "[N,T,C]"]);
    let grad = AttentionGrad { heads: 2, scale: 1.0 };
    refused(grad.clone(), &["1,4,8", "1,4,8", "1,4,8", "1,4,8", "1,2,4", "1,4,7"], &["[1, 4, 8]", "[1, 4, 7]"]);
    refused(grad.clone(), &["1,4,8", "1,4,6", "1,4,8", "1,4,8", "1,2,4", "1,4,8"], &["[1, 4, 8]", "[1, 4, 6]"]);
    refused(grad, &["1,4,8", "1,4,8", "1,4,8", "1,4,8", "1,2,5", "1,4,8"], &["[1, 2, 4]", "[1, 2, 5]"]);
}

#[test]
fn head_products() {
    for (over, operands, complaint) in [
        (Over::Tokens, ["1,4,6", "1,5,8"], "[1, 4, 6] and [1, 5, 8]"),
        (Over::Tokens, ["1,4,6", "2,4,8"], "[1, 4, 6] and [2, 4, 8]"),
        (Over::Tokens, ["1,4,5", "1,4,8"], "over Tokens of 2 heads"),
        (Over::Rows, ["1,4,6", "1,8,5"], "[1, 4, 6] and [1, 8, 5]"),
        (Over::Columns, ["1,4,6", "1,8,5"], "[1, 4, 6] and [1, 8, 5]"),
        (Over::Columns, ["4,6", "1,8,3"], "[4, 6]"),
    ] {
        refused(HeadProduct { heads: 2, over }, &operands, &[complaint]);
    }
    refused(HeadProduct { heads: 0, over: Over::Rows }, &["1,4,6", "1,6,5"], &["0 heads"]);
}

#[test]
fn elementwise() {
    let add = Binary { kind: BinaryKind::Add };
    refused(add.clone(), &["2,3", "2,4"], &["[2, 3]", "[2, 4]"]);
    refused(add, &["3", "2,3"], &["[3]", "[2, 3]"]);
    refused(UnaryGrad { kind: UnaryKind::Silu }, &["2,3", "3,2"], &["[2, 3]", "[3, 2]"]);
    refused(Combine { first: 0 }, &["1,2", "2,3", "2,4"], &["[2, 3]", "[2, 4]"]);
    refused(Combine { first: 1 }, &["1,2", "2,3", "2,3"], &["[1, 2]", "2 values"]);
    refused(Combine { first: 0 }, &["3,2", "2,3", "2,3"], &["[3, 2]", "2 rows"]);
    refused(Combine { first: 0 }, &["1,2", ""], &["[1, 2]"]);
    refused(Combine { first: usize::MAX }, &["1,2", "2,3"], &["[1, 2]"]);
    refused(DynamicThreshold { ratio: 0.9, max: 2.0 }, &[""], &["[]"]);
    refused(AvgPool2x, &["1,3,4,2"], &["3x4"]);
    refused(AvgPool2x, &["3,4,2"], &["[3, 4, 2]"]);
    refused(Upsample2x, &["3,4,2"], &["[3, 4, 2]"]);
}

#[test]
fn moves() {
    refused(Concat, &["2,3", "3,3"], &["[2, 3]", "[3, 3]"]);
    refused(Concat, &["2,3", "2,3,1"], &["[2, 3]", "[2, 3, 1]"]);
    refused(Concat, &["", ""], &["[]"]);
    refused(Slice { start: 2, len: 3 }, &["2,4"], &["2..5", "4"]);
    refused(Slice { start: usize::MAX, len: 3 }, &["2,4"], &["[2, 4]"]);
    refused(Slice { start: 0, len: 0 }, &["2,4"], &["[2, 4]"]);
    refused(Slice { start: 0, len: 1 }, &[""], &["scalar"]);
    refused(Pad { before: usize::MAX, after: 3 }, &["2,4"], &["[2, 4]"]);
    refused(Pad { before: 0, after: 3 }, &[""], &["scalar"]);
    refused(Transpose, &[""], &["[...,A,B]", "[]"]);
    refused(Transpose, &["3"], &["[...,A,B]", "[3]"]);
    refused(Reshape { shape: vec![7] }, &["2,3"], &["[2, 3]", "[7]"]);
    refused(Reshape { shape: vec![usize::MAX, 2] }, &["2,3"], &[&format!("[{}, 2]", usize::MAX)]);
    refused(ReduceSum { shape: vec![1, 2] }, &["2,3"], &["[2, 3]", "[1, 2]"]);
    refused(ReduceSum { shape: vec![1] }, &["2,3"], &["[2, 3]", "[1]"]);
    refused(Gather, &["", "i32:2"], &["[2]"]);
    refused(Gather, &["3,4", "i32:2,1"], &["[2, 1]"]);
    refused(GatherGrad { rows: 3 }, &["2,4", "i32:3"], &["[2]", "[3]"]);
    refused(GatherGrad { rows: 3 }, &["", "i32:3"], &["[3]"]);
    refused(IntAffine { scale: 1, shift: 0 }, &["i32:3", "i32:2"], &["[3]", "[2]"]);
    refused(Assign, &["3", "2"], &["[3]", "[2]"]);
    refused(TimestepEmbedding { dim: 8, flip_sin_to_cos: true, freq_shift: 0.0 }, &["2,3"], &["[2, 3]", "[B]"]);
}

#[test]
fn quantized_numbers() {
    let quantize = |axis| Quantize { codes: Codes::I8, axis };
    refused(quantize(Some(2)), &["2,3", "3", "i8:3"], &["axis 2", "[2, 3]"]);
    refused(quantize(Some(usize::MAX)), &["2,3", "3", "i8:3"], &["[2, 3]"]);
    refused(quantize(Some(1)), &["2,3", "2", "i8:3"], &["[2]", "[3]"]);
    refused(quantize(Some(1)), &["2,3", "3", "i8:2"], &["[2]", "[3]"]);
    refused(quantize(None), &["2,3", "3", "i8:1"], &["[3]", "[1]"]);
    refused(Dequantize { axis: Some(0) }, &["i8:2,3", "3", "i8:2"], &["[2]", "[3]"]);
    let grad = FakeQuantizeGrad { codes: Codes::I8, axis: None, scale_gradient: 1.0 };
    refused(grad, &["2,3", "1", "i8:1", "3,2"], &["[2, 3]", "[3, 2]"]);
    for (op, operands, found) in [
        (Op::from(quantize(None)), ["2,3", "1", "u8:1"], "U8"),
        (quantize(None).into(), ["2,3", "f16:1", "i8:1"], "F16"),
        (quantize(None).into(), ["i32:2,3", "1", "i8:1"], "I32"),
        (Quantize { codes: Codes { low: -129, ..Codes::I8 }, axis: None }.into(), ["2,3", "1", "i8:1"], "-129"),
        (Quantize { codes: Codes { dtype: DType::I32, ..Codes::I8 }, axis: None }.into(), ["2,3", "1", "i32:1"], "I32"),
        (Dequantize { axis: None }.into(), ["2,3", "1", "i8:1"], "F32"),
    ] {
        let error = push(op.clone(), &operands);
        assert!(error.status == Status::Unsupported && error.message.contains(found), "{op:?}: {error}");
    }
}

#[test]
fn scalars_of_the_optimizer() {
    refused(ClipScale { max_norm: 1.0 }, &["2", "1"], &["[1]", "[2]"]);
    refused(Ema { parameters: 1 }, &["1", "1", "3", "4"], &["[3]", "[4]"]);
    refused(Ema { parameters: 1 }, &["2", "1", "3", "3"], &["[1]", "[2]"]);
    let adamw = AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0, parameters: 1 };
    refused(adamw.clone(), &["1", "i64:1", "1", "3", "3", "3", "4"], &["[3]", "[4]"]);
    refused(adamw.clone(), &["1", "i64:2", "1", "3", "3", "3", "3"], &["[1]", "[2]"]);
    refused(adamw, &["1", "i64:1", "1", "3", "3", "2", "3"], &["[3]", "[2]"]);
    refused(Momentum { momentum: 0.9, parameters: 1 }, &["1", "3,2", "2,3"], &["[3, 2]", "[2, 3]"]);
    refused(Momentum { momentum: 0.9, parameters: 1 }, &["2", "3,2", "3,2"], &["[1]", "[2]"]);
    refused(Orthogonalize, &["3,2", "3"], &["a matrix", "[3]"]);
    let descend = Descend { weight_decay: 0.0, parameters: 1 };
    refused(descend.clone(), &["1", "1", "3,2", "3,1"], &["[3, 2]", "[3, 1]"]);
    refused(descend.clone(), &["1", "1", "3", "3"], &["a matrix", "[3]"]);
    refused(descend, &["1", "2", "3,2", "3,2"], &["[1]", "[2]"]);
    refused(RandomNormal { purpose: Purpose::Noise, image: [2, 2, 3] }, &["i64:2", "i64:1", "i32:3"], &["[1]", "[2]"]);
    refused(RandomNormal { purpose: Purpose::Noise, image: [2, 2, 3] }, &["i64:1", "i64:1", "3"], &["[3]"]);
    refused(RandomInt { purpose: Purpose::Noise, bound: 3, count: 3, stream: 0 }, &["i64:1", "i64:2", "i32:1"], &["[1]", "[2]"]);
    refused(RandomInt { purpose: Purpose::Noise, bound: 3, count: 3, stream: 0 }, &["i64:1", "i64:1", "i32:2"], &["first row", "[2]"]);
}

/// A kernel reads its operands as the type it is made for, so another type must never reach it.
#[test]
fn wrong_types_are_refused() {
    let table: Vec<(Op, &[&str])> = vec![
        (conv([1, 1], 2, false).into(), &["1,2,2,3", "i8:2,3,1,1"]),
        (conv([1, 1], 2, true).into(), &["1,2,2,3", "2,3,1,1", "f16:2"]),
        (Conv2dInputGrad { geometry: ConvGeometry::POINTWISE, input: vec![1, 2, 2, 3], packed: false, bf16: false }.into(), &["1,2,2,4", "i8:4,3,1,1"]),
        (GroupNorm::new(1, 1e-5, false).into(), &["i32:1,2,2,3", "3", "3"]),
        (GroupNorm::new(1, 1e-5, false).into(), &["1,2,2,3", "f16:3", "3"]),
        (GroupNormGrad { groups: 1, silu: false }.into(), &["1,2,2,3", "3", "3", "1,1", "f16:1,1", "1,2,2,3"]),
        (Attention { heads: 1, scale: 1.0 }.into(), &["1,2,3", "i8:1,2,3", "1,2,3"]),
        (AttentionGrad { heads: 1, scale: 1.0 }.into(), &["1,2,3", "1,2,3", "1,2,3", "1,2,3", "1,1,2", "i8:1,2,3"]),
        (HeadProduct { heads: 1, over: Over::Rows }.into(), &["1,2,3", "i8:1,3,4"]),
        (Unary { kind: UnaryKind::Silu }.into(), &["i8:3"]),
        (UnaryGrad { kind: UnaryKind::Silu }.into(), &["3", "i8:3"]),
        (Affine { scale: 1.0, shift: 1.0 }.into(), &["i8:3"]),
        (Binary { kind: BinaryKind::Add }.into(), &["3", "f16:3"]),
        (Cast { to: DType::F32 }.into(), &["3"]),
        (Combine { first: 0 }.into(), &["1,2", "i8:2,3", "i8:2,3"]),
        (Combine { first: 0 }.into(), &["f16:1,2", "2,3", "2,3"]),
        (DynamicThreshold { ratio: 0.5, max: 2.0 }.into(), &["i8:2,3"]),
        (Concat.into(), &["i8:2,3", "i8:2,3"]),
        (Slice { start: 0, len: 1 }.into(), &["i8:2,3"]),
        (Pad { before: 0, after: 1 }.into(), &["i64:2,3"]),
        (Transpose.into(), &["i8:2,3"]),
        (ReduceSum { shape: vec![1] }.into(), &["i8:3"]),
        (Gather.into(), &["i8:3", "i32:2"]),
        (GatherGrad { rows: 3 }.into(), &["i8:2", "i32:2"]),
        (GatherGrad { rows: 3 }.into(), &["2", "i8:2"]),
        (IntAffine { scale: 1, shift: 0 }.into(), &["i32:2", "i8:2"]),
        (RandomNormal { purpose: Purpose::Noise, image: [1, 1, 1] }.into(), &["i32:1", "i64:1", "i32:2"]),
        (RandomInt { purpose: Purpose::Noise, bound: 3, count: 3, stream: 0 }.into(), &["i64:1", "1", "i32:1"]),
        (RandomInt { purpose: Purpose::Noise, bound: 3, count: 3, stream: 0 }.into(), &["i64:1", "i64:1", "i64:1"]),
        (GlobalNorm.into(), &["3", "i8:3"]),
        (ClipScale { max_norm: 1.0 }.into(), &["1", "i8:1"]),
        (ClipScale { max_norm: 1.0 }.into(), &["f16:1", "1"]),
        (AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0, parameters: 1 }.into(), &["1", "1", "1", "3", "3", "3", "3"]),
        (AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.0, parameters: 1 }.into(), &["1", "i64:1", "1", "3", "3", "3", "i8:3"]),
        (Momentum { momentum: 0.9, parameters: 1 }.into(), &["1", "3", "f16:3"]),
        (Orthogonalize.into(), &["3,2", "i8:3,2"]),
        (Descend { weight_decay: 0.0, parameters: 1 }.into(), &["1", "1", "3,2", "f16:3,2"]),
        (Ema { parameters: 1 }.into(), &["1", "1", "3", "f16:3"]),
        (Assign.into(), &["3", "i32:3"]),
    ];
    for (op, operands) in table {
        let error = push(op.clone(), operands);
        assert!(matches!(error.status, Status::Unsupported | Status::Shape), "{op:?}: {error}");
    }
}

#[test]
fn attributes_that_cannot_be_meant() {
    for kind in [UnaryKind::Clamp(1.0, 0.0), UnaryKind::Clamp(f32::NAN, 1.0), UnaryKind::Huber(-1.0), UnaryKind::Huber(f32::NAN)] {
        assert_eq!(push(Unary { kind }, &["3"]).status, Status::InvalidArgument);
        assert_eq!(push(UnaryGrad { kind }, &["3", "3"]).status, Status::InvalidArgument);
    }
    for (ratio, max) in [(-0.1, 2.0), (1.1, 2.0), (f64::NAN, 2.0), (0.5, 0.0), (0.5, -1.0), (0.5, 1e-50), (0.5, f64::NAN)] {
        assert_eq!(push(DynamicThreshold { ratio, max }, &["2,3"]).status, Status::InvalidArgument);
    }
    assert_eq!(push(RandomInt { purpose: Purpose::Noise, bound: 0, count: 3, stream: 0 }, &["i64:1", "i64:1", "i32:1"]).status, Status::InvalidArgument);
    let far = RandomInt { purpose: Purpose::Noise, bound: 3, count: 3, stream: 1 << 31 };
    assert_eq!(push(far, &["i64:1", "i64:1", "i32:1"]).status, Status::InvalidArgument);
    assert_eq!(push(TimestepEmbedding { dim: 2, flip_sin_to_cos: true, freq_shift: 1.0 }, &["3"]).status, Status::InvalidArgument);
    assert_eq!(push(Attention { heads: 0, scale: 1.0 }, &["1,2,3", "1,2,3", "1,2,3"]).status, Status::Unsupported);
    assert_eq!(push(Attention { heads: 1, scale: 1.0 }, &["1,2,513", "1,2,513", "1,2,513"]).status, Status::Unsupported);
}

#[test]
fn builders_refuse_wrong_ranks() -> Result<()> {
    let mut case = Case::new("builders");
    let (x, w, flat, scalar) = (case.input(&[1, 4, 4, 3]), case.input(&[8, 3]), case.input(&[3]), case.input(&[]));
    for error in [
        case.graph.conv2d(x, w, None, 1, [0; 4]).expect_err("rank 2 weights"),
        case.graph.linear(x, flat, None).expect_err("rank 1 weights"),
        case.graph.linear(scalar, w, None).expect_err("rank 0 rows"),
        case.graph.linear(w, x, None).expect_err("rank 4 weights"),
    ] {
        assert_eq!(error.status, Status::Shape, "{error}");
    }
    Ok(())
}

/// Numbers that break an op's arithmetic come out as NaN, not as a panic.
#[test]
fn not_a_number_passes_through() -> Result<()> {
    let mut case = Case::new("nan");
    let x = case.data(&[4, 3], &[f32::NAN, 1.0, 2.0, f32::INFINITY, f32::INFINITY, 0.0, 3.0, 1.0, 0.5, f32::NEG_INFINITY, -0.2, f32::NAN]);
    for (ratio, max) in [(0.9, 2.0), (1.0, f64::INFINITY), (0.1, 5.0), (0.9, 0.5)] {
        let y = case.op(DynamicThreshold { ratio, max }, &[x]);
        case.expect(y, 1e-6);
    }
    for kind in crate::common::cases::UNARY {
        let y = case.op(Unary { kind: *kind }, &[x]);
        case.expect(y, 1e-6);
    }
    crate::common::run_table(vec![case]);
    Ok(())
}

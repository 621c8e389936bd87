//! Cases of every op but the convolutions. Where an op only moves numbers the tolerance is 0; the others say why they have theirs.

use super::Case;
use fewstep::graph::ops::*;
use fewstep::graph::{TensorType, ValueId};
use fewstep::random::Purpose;
use fewstep::tensor::DType;
use half::{bf16, f16};

/// A few roundings of f32 an element.
const FEW: f64 = 1e-6;
/// Sums of thousands of f32 terms, partly in f64.
const SUM: f64 = 1e-5;

pub const UNARY: &[UnaryKind] = &[
    UnaryKind::Silu,
    UnaryKind::Gelu,
    UnaryKind::Mish,
    UnaryKind::Relu,
    UnaryKind::Abs,
    UnaryKind::Square,
    UnaryKind::Rsqrt,
    UnaryKind::Huber(0.7),
    UnaryKind::Clamp(-1.5, 0.5),
];

/// One element, odd tails, 40,000 elements: more than two chunks, and half a run of eight at the end.
const FLAT: &[&[usize]] = &[&[1], &[], &[3, 1], &[17], &[2, 3, 5, 7], &[40_000], &[2052]];

pub fn unary() -> Vec<Case> {
    let mut cases = vec![];
    for kind in UNARY {
        for shape in FLAT {
            let mut case = Case::new(format!("unary {kind:?} {shape:?}"));
            // A root has no value below zero.
            let x = if *kind == UnaryKind::Rsqrt { case.input_around(shape, 4.0, 4.1) } else { case.input_around(shape, 8.0, 0.0) };
            let dy = case.input(shape);
            let y = case.op(Unary { kind: *kind }, &[x]);
            let dx = case.op(UnaryGrad { kind: *kind }, &[x, dy]);
            case.expect(y, FEW);
            case.expect(dx, FEW);
            cases.push(case);
        }
    }
    cases
}

pub fn affine_and_cast() -> Vec<Case> {
    let mut cases = vec![];
    for shape in FLAT {
        let mut case = Case::new(format!("affine and cast {shape:?}"));
        let x = case.input(shape);
        let y = case.op(Affine { scale: -1.7, shift: 0.3 }, &[x]);
        let i = case.ints(shape, -1_000_000, 1_000_000);
        let f = case.op(Cast { to: DType::F32 }, &[i]);
        case.expect(y, FEW);
        case.expect(f, 0.0);
        // All that f16 and bf16 have is exact in f32: also the least of their numbers, and what is none.
        let values: Vec<f32> = case.noise.floats(shape.iter().product());
        let odd = [5.97e-8, -0.0, 65504.0, f32::INFINITY, f32::NAN, 6e-5, 1e-40, 3e38];
        let values: Vec<f32> = values.iter().enumerate().map(|(i, v)| if i % 3 == 1 { odd[i / 3 % odd.len()] } else { *v }).collect();
        let half = case.data(shape, &values.iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>());
        let brain = case.data(shape, &values.iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>());
        for stored in [half, brain] {
            let wide = case.op(Cast { to: DType::F32 }, &[stored]);
            case.expect(wide, 0.0);
        }
        cases.push(case);
    }
    cases
}

/// Pairs of shapes that broadcast.
pub const BROADCAST: &[(&[usize], &[usize])] = &[
    (&[], &[]),
    (&[1], &[1]),
    (&[1], &[7]),
    (&[40_000], &[40_000]),
    (&[3, 1], &[1, 4]),
    (&[2, 3, 4, 5], &[2, 1, 1, 5]),
    (&[1, 1, 1, 5], &[2, 3, 4, 5]),
    (&[2, 3, 4, 1], &[2, 3, 4, 5]),
    (&[2, 1, 4, 1], &[2, 3, 4, 5]),
    (&[2, 3, 1, 1], &[2, 1, 4, 5]),
    (&[2, 33, 40, 17], &[2, 1, 1, 17]),
    (&[3, 20_000], &[3, 1]),
];

pub fn binary() -> Vec<Case> {
    let mut cases = vec![];
    for kind in [BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul] {
        for (a, b) in BROADCAST {
            let mut case = Case::new(format!("binary {kind:?} {a:?} {b:?}"));
            let (va, vb) = (case.input(a), case.input(b));
            let y = case.op(Binary { kind }, &[va, vb]);
            let z = case.op(Binary { kind }, &[vb, va]);
            case.expect(y, FEW);
            case.expect(z, FEW);
            cases.push(case);
        }
    }
    cases
}

pub fn combine() -> Vec<Case> {
    let mut cases = vec![];
    for (shape, count, rows, first) in
        [(&[1usize, 1][..], 1, 1, 0), (&[3, 4, 5, 2], 2, 3, 1), (&[2, 7], 8, 1, 2), (&[2, 20_000], 3, 2, 0), (&[40_000], 3, 1, 0)]
    {
        let mut case = Case::new(format!("combine {shape:?} {count} {rows}"));
        let coef = case.input(&[rows, first + count + 1]);
        let values: Vec<ValueId> = (0..count).map(|_| case.input(shape)).collect();
        let y = case.op(Combine { first }, &[&[coef], &values[..]].concat());
        case.expect(y, FEW);
        cases.push(case);
    }
    for shape in [[1usize, 1], [3, 17], [2, 20_000]] {
        for (ratio, max, scale) in [(0.995, 100.0, 3.0), (0.5, 1.5, 5.0), (1.0, 100.0, 0.5), (0.0, 2.0, 1.0), (0.8, 0.5, 3.0)] {
            let mut case = Case::new(format!("dynamic threshold {shape:?} {ratio} {max}"));
            let x = case.input_around(&shape, scale, 0.0);
            let y = case.op(DynamicThreshold { ratio, max }, &[x]);
            case.expect(y, FEW);
            cases.push(case);
        }
    }
    cases
}

pub fn resample() -> Vec<Case> {
    let mut cases = vec![];
    // The last three: units of 16 bytes in every type, in f32 alone, and of four bytes in the narrow ones.
    for shape in [[1usize, 1, 1, 1], [2, 3, 5, 7], [1, 2, 2, 3], [3, 17, 16, 33], [2, 5, 3, 24], [3, 4, 7, 12], [2, 3, 9, 6]] {
        let mut case = Case::new(format!("resample {shape:?}"));
        let x = case.activations(&shape);
        let y = case.op(Upsample2x, &[x]);
        case.expect(y, 0.0);
        let even = case.activations(&[shape[0], 2 * shape[1], 2 * shape[2], shape[3]]);
        let z = case.op(AvgPool2x, &[even]);
        case.expect(z, FEW);
        cases.push(case);
    }
    cases
}

pub fn shapes() -> Vec<Case> {
    let mut cases = vec![];
    for (lead, widths) in [
        (&[1usize][..], &[1usize, 1][..]),
        (&[], &[3, 4]),
        (&[2, 3, 5], &[7, 1, 2]),
        (&[4, 33, 33], &[8, 16]),
        (&[2], &[1; 8]),
        (&[2], &[3; 9]), // more than one node joins
        (&[1], &[1; 70]),
        (&[5], &[20_000, 3]),
        (&[3, 7], &[24, 8, 40]), // units of 16 bytes in every type
        (&[2, 9], &[12, 4, 20]), // in f32 alone
        (&[2, 9], &[6, 10, 2]),  // pairs of narrow ones
    ] {
        let mut case = Case::new(format!("concat, slice, pad {lead:?} {widths:?}"));
        let with = |w: usize| [lead, &[w]].concat();
        let values: Vec<ValueId> = widths.iter().map(|w| case.activations(&with(*w))).collect();
        let joined = case.graph.concat(&values).expect("values to join");
        case.expect(joined, 0.0);
        let total: usize = widths.iter().sum();
        for (start, len) in [(0, total), (0, 1), (total - 1, 1), (1, total - 1)] {
            let part = case.op(Slice { start, len }, &[joined]);
            case.expect(part, 0.0);
        }
        if total > 16 {
            let part = case.op(Slice { start: 8, len: total - 16 }, &[joined]);
            case.expect(part, 0.0);
        }
        for (before, after) in [(0, 0), (1, 0), (0, 2), (3, 5), (8, 16), (4, 4)] {
            let padded = case.op(Pad { before, after }, &[values[0]]);
            case.expect(padded, 0.0);
        }
        let flat = case.op(Reshape { shape: vec![lead.iter().product::<usize>() * total] }, &[joined]);
        let stopped = case.op(StopGradient, &[flat]);
        let y = case.op(Affine { scale: 2.0, shift: 0.0 }, &[stopped]);
        for v in [flat, stopped, y] {
            case.expect(v, 0.0);
        }
        cases.push(case);
    }
    // Integers are moved by the same ops.
    let mut case = Case::new("concat of i32");
    let (a, b) = (case.ints(&[3, 2], -9, 9), case.ints(&[3, 5], i32::MIN / 2, i32::MAX / 2));
    let y = case.op(Concat, &[a, b]);
    case.expect(y, 0.0);
    cases.push(case);
    cases
}

/// One row, one column, whole blocks and tiles and one more or less, ranks from 2, several chunks, more samples than one chunk's.
const TRANSPOSED: &[&[usize]] = &[
    &[1, 1],
    &[7, 1],
    &[1, 5],
    &[3, 17],
    &[2, 32, 32],
    &[2, 33, 31],
    &[3, 31, 65],
    &[2, 3, 5, 16, 15],
    &[2, 170, 130],
    &[1, 20_000, 3],
    &[1, 3, 20_000],
    &[5000, 2, 3],
];

pub fn transpose() -> Vec<Case> {
    let mut cases = vec![];
    for shape in TRANSPOSED {
        let mut case = Case::new(format!("transpose {shape:?}"));
        let (x, whole) = (case.activations(shape), case.ints(shape, i32::MIN / 2, i32::MAX / 2));
        for value in [x, whole] {
            let y = case.op(Transpose, &[value]);
            case.expect(y, 0.0);
        }
        cases.push(case);
    }
    cases
}

pub const SUMS: &[(&[usize], &[usize])] = &[
    (&[], &[]),
    (&[1], &[1]),
    (&[5], &[1]),
    (&[3, 4], &[3, 4]),
    (&[2, 3, 4, 5], &[2, 1, 1, 5]),
    (&[2, 3, 4, 5], &[1, 1, 1, 5]),
    (&[2, 3, 4, 5], &[1, 1, 1, 1]),
    (&[2, 3, 4, 5], &[2, 3, 4, 1]),
    (&[2, 3, 4, 5], &[2, 1, 4, 5]),
    (&[2, 3, 4, 5], &[1, 3, 4, 5]),
    (&[1, 3, 1, 5], &[1, 1, 1, 5]),
    (&[2, 1, 4, 1], &[1, 1, 1, 1]),
    (&[100_000], &[1]),
    (&[4, 64, 64, 8], &[1, 1, 1, 8]),
    (&[3, 50, 50, 9], &[3, 1, 1, 9]),
    (&[2, 30_000], &[2, 1]),
    (&[3, 30_000], &[1, 30_000]),
];

pub fn reduce() -> Vec<Case> {
    let mut cases = vec![];
    for (from, to) in SUMS {
        let mut case = Case::new(format!("reduce_sum {from:?} to {to:?}"));
        let x = case.input(from);
        let y = case.op(ReduceSum { shape: to.to_vec() }, &[x]);
        case.expect(y, SUM);
        cases.push(case);
    }
    cases
}

/// f32 rounds the argument t f, at most 1000, as diffusers does: an error of 1000 2^-24, about 6e-5, in the angle.
pub fn timestep_embedding() -> Vec<Case> {
    let mut cases = vec![];
    for (dim, flip, shift) in [(32, true, 0.0), (32, false, 1.0), (33, true, 0.0), (2, false, 0.0), (3, true, 0.0), (320, false, 0.5)] {
        let mut case = Case::new(format!("timestep embedding {dim} {flip} {shift}"));
        let t = case.data(&[6], &[0f32, 1.0, 0.5, 17.0, 500.25, 999.0]);
        let y = case.op(TimestepEmbedding { dim, flip_sin_to_cos: flip, freq_shift: shift }, &[t]);
        case.expect(y, 1e-4);
        cases.push(case);
    }
    cases
}

/// Shape of x, and the axis that scales belong to.
const QUANTIZED: &[(&[usize], Option<usize>)] = &[
    (&[], None),
    (&[1], None),
    (&[17], Some(0)),
    (&[2, 3, 5, 7], Some(3)),
    (&[2, 3, 5, 7], Some(1)),
    (&[24, 5, 3, 3], Some(0)), // weights
    (&[40_000], None),
    (&[3, 20_000], Some(0)),
    (&[2052, 8], Some(1)),
];

/// Numbers whose quotients by `scale` are ties and next to ties, ends of the range and beyond, and what is no number.
fn near_ties(case: &mut Case, count: usize, scale: impl Fn(usize) -> f32) -> Vec<f32> {
    let special = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e-30];
    let mut numbers = vec![];
    for i in 0..count {
        let (kind, k) = (case.noise.word() % 8, (case.noise.word() % 700) as f32 - 350.0);
        let tie = (k + 0.5) * scale(i);
        numbers.push(match kind {
            0 => special[i % special.len()],
            1 => tie,
            2 => f32::from_bits(tie.to_bits().wrapping_add(1)),
            3 => f32::from_bits(tie.to_bits().wrapping_sub(1)),
            4 => k * scale(i),
            _ => case.noise.float() * 300.0 * scale(i),
        });
    }
    numbers
}

/// Whole numbers are the same everywhere, bit for bit, and so are the floats that they stand for.
pub fn quantize() -> Vec<Case> {
    let mut cases = vec![];
    for (shape, axis) in QUANTIZED {
        for codes in [Codes::I8, Codes::U8, Codes::WEIGHTS, Codes { high: 129, ..Codes::U8 }] {
            let mut case = Case::new(format!("quantize {shape:?} {axis:?} {codes:?}"));
            let (channels, inner) = axis.map_or((1, 1), |axis| (shape[axis], shape[axis + 1..].iter().product::<usize>()));
            // A scale of a power of two has exact ties.
            let scales: Vec<f32> = (0..channels).map(|c| if c % 3 == 0 { 0.03125 } else { 0.05 + 0.04 * case.noise.float() }).collect();
            let numbers = near_ties(&mut case, shape.iter().product(), |i| scales[i / inner % channels]);
            let x = case.data(shape, &numbers);
            let scale = case.data(&[channels], &scales);
            let words: Vec<u8> = (0..channels).map(|_| case.noise.word() as u8).collect();
            let signed: Vec<i8> = words.iter().map(|word| *word as i8).collect();
            let zero = if codes.dtype == DType::U8 { case.data(&[channels], &words) } else { case.data(&[channels], &signed) };
            let q = case.op(Quantize { codes, axis: *axis }, &[x, scale, zero]);
            let y = case.op(Dequantize { axis: *axis }, &[q, scale, zero]);
            let op = FakeQuantize { codes, axis: *axis, scale_gradient: 0.25 };
            let fake = case.op(op, &[x, scale, zero]);
            for exact in [q, y, fake] {
                case.expect(exact, 0.0);
            }
            let dy = case.input(shape);
            let grads = case.ops(FakeQuantizeGrad { codes, axis: *axis, scale_gradient: 0.25 }, &[x, scale, zero, dy]);
            case.expect(grads[0], 0.0);
            // A quotient is rounded before what it is rounded to is subtracted: 2^-24 of 255 where the result is at most 127.
            case.expect(grads[1], FEW);
            cases.push(case);
        }
    }
    cases
}

pub fn gather() -> Vec<Case> {
    let mut cases = vec![];
    for (rows, lead, batch) in [(1usize, &[1usize][..], 1usize), (10, &[7], 5), (3, &[2, 3, 4], 20), (40, &[1000], 33), (6, &[], 4)] {
        let mut case = Case::new(format!("gather {rows} {lead:?} {batch}"));
        let shape = [&[rows], lead].concat();
        let table = case.input(&shape);
        let halves: Vec<f16> = (0..shape.iter().product::<usize>()).map(|i| f16::from_f32(i as f32 * 0.37 - 3.0)).collect();
        let half_table = case.data(&shape, &halves);
        let int_table = case.ints(&shape, -100, 100);
        let index = case.ints(&[batch], -2, rows as i32 + 2); // a few outside: clamped
        for t in [table, half_table, int_table] {
            let y = case.op(Gather, &[t, index]);
            case.expect(y, 0.0);
        }
        let dy = case.input(&[&[batch], lead].concat());
        let grad = case.op(GatherGrad { rows }, &[dy, index]);
        case.expect(grad, FEW);
        let other = case.ints(&[batch], 0, 1000);
        let address = case.op(IntAffine { scale: 37, shift: -5 }, &[index, other]);
        case.expect(address, 0.0);
        let base = case.data(&[1], &[1i32 << 30]);
        let shifted = case.op(IntAffine { scale: 1, shift: 5 }, &[base, other]); // one for all rows
        case.expect(shifted, 0.0);
        cases.push(case);
    }
    cases
}

/// Bit-equal by design: reference and kernel use the same integer and polynomial code.
pub fn random() -> Vec<Case> {
    let mut cases = vec![];
    for (image, samples, seed, step) in
        [([1usize, 1, 1], 1usize, 0i64, 0i64), ([5, 3, 3], 4, 7, 1), ([8, 8, 4], 3, -1, 1 << 33), ([33, 17, 1], 2, i64::MAX >> 11, 5)]
    {
        for purpose in [Purpose::Init, Purpose::Noise, Purpose::Evaluation] {
            let mut case = Case::new(format!("random {image:?} {samples} {purpose:?}"));
            let (seed, step) = (case.data(&[1], &[seed]), case.data(&[1], &[step]));
            let sample = case.ints(&[samples], 0, 1 << 20);
            let normal = case.op(RandomNormal { purpose, image }, &[seed, step, sample]);
            case.expect(normal, 0.0);
            for (bound, stream, first) in
                [(1u32, 0usize, 0i32), (10, 1, 0), (1000, 2, 7), (i32::MAX as u32, 3, i32::MAX), (1000, 4, 0), (77, 4095, 3), (9, i32::MAX as usize, -1)]
            {
                let first = case.data(&[1], &[first]);
                let ints = case.op(RandomInt { purpose, bound, count: 2 * samples + 1, stream }, &[seed, step, first]);
                case.expect(ints, 0.0);
            }
            cases.push(case);
        }
    }
    cases
}

pub fn norms() -> Vec<Case> {
    let mut cases = vec![];
    for shapes in [&[&[1usize][..]][..], &[&[3, 5], &[7], &[1, 1, 1, 1]], &[&[20_000], &[3], &[9000]]] {
        let mut case = Case::new(format!("global norm {shapes:?}"));
        let values: Vec<ValueId> = shapes.iter().map(|s| case.input(s)).collect();
        let norm = case.op(GlobalNorm, &values);
        case.expect(norm, FEW);
        let loss = case.data(&[1], &[0.5f32]);
        for max_norm in [0.1, 1e6, f32::INFINITY] {
            let scale = case.op(ClipScale { max_norm }, &[norm, loss]);
            case.expect(scale, FEW);
        }
        let nan = case.data(&[1], &[f32::NAN]);
        let scale = case.op(ClipScale { max_norm: 1.0 }, &[norm, nan]);
        case.expect(scale, FEW);
        let infinite = case.data(&[1], &[f32::INFINITY]);
        let scale = case.op(ClipScale { max_norm: 1.0 }, &[infinite, loss]);
        case.expect(scale, FEW);
        for (norm, max_norm) in [(ClipScale::LARGEST, f32::INFINITY), (1e19, f32::INFINITY), (1e19, 1e19), (1e19, 1.0)] {
            let norm = case.data(&[1], &[norm]);
            let scale = case.op(ClipScale { max_norm }, &[norm, loss]);
            case.expect(scale, FEW);
        }
        cases.push(case);
    }
    cases
}

/// Updates of storages; the results are read as the newest versions. f32 against f64: the second moment's root loses a few roundings.
pub fn optimizer() -> Vec<Case> {
    let mut cases = vec![];
    for (step, grad_scale) in [(1i64, 1.0f32), (2, 0.3), (1000, 1.0), (5, f32::NAN)] {
        let mut case = Case::new(format!("adamw, ema, assign at step {step}, scale {grad_scale}"));
        let (lr, step, scale, decay) = (case.data(&[1], &[1e-2f32]), case.data(&[1], &[step]), case.data(&[1], &[grad_scale]), case.data(&[1], &[0.9f32]));
        let shapes: [&[usize]; 4] = [&[1], &[3, 5], &[20_001], &[2, 3, 3, 3]];
        let mut operands = vec![lr, step, scale];
        for (i, shape) in shapes.iter().enumerate() {
            let (p, m) = (case.state(&format!("p{i}"), shape), case.state(&format!("m{i}"), shape));
            let v = case.graph.state(format!("v{i}"), TensorType::new(DType::F32, shape)).expect("state");
            let positive = vec![0.25f32; shape.iter().product()]; // a second moment is not negative
            case.given.insert(v, std::sync::Arc::new(fewstep::tensor::Tensor::from_slice(shape, &positive).expect("tensor")));
            operands.extend([p, m, v, case.input(shape)]);
        }
        let new = case.ops(AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.05, parameters: shapes.len() }, &operands);
        let mut pairs = vec![decay, scale];
        for (i, shape) in shapes.iter().enumerate() {
            pairs.extend([case.state(&format!("ema{i}"), shape), new[3 * i]]);
        }
        let averages = case.ops(Ema { parameters: shapes.len() }, &pairs);
        // At decay 0 nothing is left of what the average was, be it no number.
        let begun = case.state("begun", &[3, 5]);
        case.given.insert(begun, std::sync::Arc::new(fewstep::tensor::Tensor::from_slice(&[3, 5], &[f32::NAN; 15]).expect("tensor")));
        let (never, always) = (case.data(&[1], &[0.0f32]), case.data(&[1], &[1.0f32]));
        let anew = case.op(Ema { parameters: 1 }, &[never, always, begun, new[3]]);
        for v in new.iter().chain(&averages).chain([&anew]) {
            case.expect(*v, 2e-6);
        }
        let slot = case.state("slot", &[3, 5]);
        let kept = case.op(Assign, &[slot, new[3]]);
        case.expect(kept, 2e-6);
        cases.push(case);
    }
    cases
}

/// Shape and groups: one channel a group, one group, odd groups, one position, ranks 2 to 4, several chunks, a group that is more than one GPU block's work.
pub const NORMS: &[(&[usize], usize)] = &[
    (&[1, 1, 1, 4], 1),
    (&[3, 8], 2),
    (&[2, 5, 3, 9], 3),
    (&[2, 7, 12], 4),
    (&[2, 1, 1, 6], 2),
    (&[2, 6, 6, 5], 5),
    (&[1, 33, 33, 32], 32),
    (&[3, 16, 16, 40], 5),
    (&[2, 300, 24], 8),
    (&[1, 48, 48, 35], 7),
    (&[4, 8, 8, 64], 32),
    (&[2, 20, 20, 48], 4),  // whole runs in every type, a thread left over beside them
    (&[1, 50, 50, 40], 10), // more positions than a block keeps
    (&[1, 61, 69, 9], 1),
    (&[2, 3, 1036], 4), // groups that make whole runs together, but more of them than a block has threads
    (&[1, 2, 1026], 2),
    (&[1, 3, 2100], 1), // one group of more
];

/// Normalised numbers below 4 from statistics over up to 1e5 numbers: a few roundings of the centred input; gradients subtract two means.
pub fn group_norm() -> Vec<Case> {
    let mut cases = vec![];
    for (shape, groups) in NORMS {
        for silu in [false, true] {
            for shift in [0.0f32, 30.0] {
                // A mean of 30 deviations costs 5 of 24 bits before the subtraction: 2^-19 of the input's scale at worst.
                let tolerance = if shift == 0.0 { SUM } else { 1e-4 };
                let mut case = Case::new(format!("group_norm {shape:?} {groups} {silu} {shift}"));
                let c = shape[shape.len() - 1];
                let x = case.input_around(shape, 1.0, shift);
                let (gamma, beta) = (case.state("gamma", &[c]), case.state("beta", &[c]));
                let out = case.ops(GroupNorm::new(*groups, 1e-5, silu), &[x, gamma, beta]);
                let dy = case.input(shape);
                let grads = case.ops(GroupNormGrad { groups: *groups, silu }, &[x, gamma, beta, out[1], out[2], dy]);
                for v in out.iter().chain(&grads) {
                    case.expect(*v, 5.0 * tolerance);
                }
                case.expect[0].1 = tolerance;
                cases.push(case);
            }
        }
    }
    // Results that nobody reads have no memory.
    for only in 0..6 {
        let mut case = Case::new(format!("group_norm result {only} alone"));
        let x = case.input(&[2, 5, 5, 12]);
        let (gamma, beta, dy) = (case.input(&[12]), case.input(&[12]), case.input(&[2, 5, 5, 12]));
        let (mean, rstd) = (case.input(&[2, 3]), case.input_around(&[2, 3], 0.1, 1.0));
        let forward = case.ops(GroupNorm::new(3, 1e-6, true), &[x, gamma, beta]);
        let grads = case.ops(GroupNormGrad { groups: 3, silu: true }, &[x, gamma, beta, mean, rstd, dy]);
        let value = if only < 3 { forward[only] } else { grads[only - 3] };
        case.expect(value, 5.0 * SUM);
        cases.push(case);
    }
    cases
}

/// Samples, tokens, heads, width of a head.
pub const ATTENTIONS: &[[usize; 4]] = &[
    [1, 1, 1, 1],
    [2, 7, 3, 5],
    [1, 64, 4, 16],
    [2, 65, 2, 64],
    [1, 64, 1, 512],
    [1, 33, 2, 80],
    [3, 1, 2, 64],
    [1, 7, 1, 3],
    [1, 1100, 1, 5],
    [1, 600, 2, 16],
    // Tensor cores take heads of 8, 16 ... 256 channels: padded ones, ragged tiles, few blocks and many.
    [1, 7, 2, 8],
    [1, 33, 3, 24],
    [2, 100, 1, 40],
    [6, 33, 4, 32],
    [5, 65, 1, 96],
    [1, 100, 1, 128],
    [1, 33, 1, 160],
    [1, 256, 1, 256],
    [3, 70, 1, 256],
];

/// Softmax averages of numbers below 1; the scores err by a few 2^-24 of their size, which the exponential passes on.
pub fn attention() -> Vec<Case> {
    let mut cases = vec![];
    for &[n, t, heads, d] in ATTENTIONS {
        for sharp in [1.0f64, 8.0] {
            if sharp > 1.0 && t > 100 {
                continue; // the reference is slow
            }
            let mut case = Case::new(format!("attention {n} x {t} tokens, {heads} heads of {d}, scale x{sharp}"));
            let shape = [n, t, heads * d];
            let [q, k, v, dout] = [(); 4].map(|()| case.input(&shape));
            let scale = sharp * (d as f64).powf(-0.5);
            let out = case.ops(Attention { heads, scale }, &[q, k, v]);
            let grads = case.ops(AttentionGrad { heads, scale }, &[q, k, v, out[0], out[1], dout]);
            for o in out.iter().chain(&grads) {
                // One token has no gradient to q and k; what is left is rounding of the cancelled terms, so it is not compared.
                if t > 1 || *o != grads[0] && *o != grads[1] {
                    case.expect(*o, 2e-5 * sharp);
                }
            }
            cases.push(case);
        }
    }
    for only in 0..5 {
        let mut case = Case::new(format!("attention result {only} alone"));
        let [q, k, v, dout] = [(); 4].map(|()| case.input(&[2, 9, 12]));
        let forward = case.ops(Attention { heads: 3, scale: 0.5 }, &[q, k, v]);
        let grads = case.ops(AttentionGrad { heads: 3, scale: 0.5 }, &[q, k, v, forward[0], forward[1], dout]);
        let value = if only < 2 { forward[only] } else { grads[only - 2] };
        case.expect(value, 2e-5);
        cases.push(case);
    }
    cases
}

/// Samples, tokens, heads, and the rows and columns of a head's matrix: whole and ragged tiles, more rows than a chunk has.
const HEAD_PRODUCTS: &[[usize; 5]] = &[[1, 1, 1, 1, 1], [2, 5, 3, 4, 7], [1, 64, 2, 16, 16], [3, 33, 1, 17, 1], [1, 130, 2, 40, 24], [2, 16, 1, 100, 33]];

/// Sums of as many products of numbers below 1 as the longest side has: each rounding is 2^-24 of what has been summed.
pub fn head_product() -> Vec<Case> {
    let mut cases = vec![];
    for &[n, t, heads, rows, columns] in HEAD_PRODUCTS {
        let mut case = Case::new(format!("head products of {n} x {t} tokens, {heads} heads of {rows} x {columns}"));
        let [a, b] = [heads * rows, heads * columns].map(|width| case.input(&[n, t, width]));
        let m = case.input(&[n, heads * rows, columns]);
        for (over, operands) in [(Over::Tokens, [a, b]), (Over::Rows, [a, m]), (Over::Columns, [b, m])] {
            let y = case.op(HeadProduct { heads, over }, &operands);
            case.expect(y, 2e-5);
        }
        cases.push(case);
    }
    cases
}

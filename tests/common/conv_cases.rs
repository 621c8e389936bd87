//! Convolution cases. Tolerance 1e-5 of the largest result: sums of at most a few thousand products of numbers below 1 in f32 err by about
//! sqrt(K) 2^-24 of their typical size; a wrong tap or border errs by 1e-2 and more.

use super::Case;
use fewstep::graph::ValueId;
use fewstep::graph::ops::*;
use fewstep::tensor::Tensor;

const TOLERANCE: f64 = 1e-5;

/// [N,H,W,C], O, kernel, stride, padding (top, left, bottom, right).
pub type Shape = ([usize; 4], usize, [usize; 2], usize, [usize; 4]);

/// Every tail, border, stride and special path at least once; the comments name what is special.
pub const SHAPES: &[Shape] = &[
    ([1, 1, 1, 1], 1, [1, 1], 1, [0; 4]),
    ([1, 8, 8, 8], 8, [3, 3], 1, [1; 4]),
    ([2, 7, 5, 3], 9, [3, 3], 1, [1; 4]),         // three channels, odd sizes
    ([1, 9, 9, 1], 4, [5, 5], 1, [2; 4]),         // one channel, 5x5
    ([2, 8, 8, 16], 32, [3, 3], 2, [0, 0, 1, 1]), // diffusers' asymmetric Downsample2D
    ([2, 8, 6, 20], 24, [3, 3], 2, [1; 4]),
    ([2, 6, 6, 17], 33, [1, 1], 1, [0; 4]),
    ([3, 1, 1, 40], 65, [1, 1], 1, [0; 4]), // a linear layer
    ([2, 6, 6, 18], 7, [1, 1], 2, [0; 4]),  // strided 1x1
    ([1, 5, 11, 6], 34, [1, 4], 3, [2, 3, 0, 1]),
    ([1, 6, 6, 3], 2, [5, 5], 2, [1, 2, 3, 2]),
    ([1, 7, 7, 24], 5, [5, 5], 1, [2; 4]),
    ([5, 2, 2, 20], 24, [3, 3], 1, [1; 4]),    // a map smaller than the kernel
    ([1, 3, 4, 2], 3, [3, 3], 1, [0; 4]),      // no padding
    ([3, 16, 16, 32], 48, [3, 3], 1, [1; 4]),  // several chunks
    ([2, 24, 24, 3], 64, [3, 3], 1, [1; 4]),   // conv_in, several chunks
    ([1, 24, 24, 64], 3, [3, 3], 1, [1; 4]),   // conv_out
    ([1, 1, 300, 64], 128, [1, 1], 1, [0; 4]), // tokens through a linear layer, several chunks
];

fn output(&([n, h, w, _], o, kernel, stride, pad): &Shape) -> [usize; 4] {
    let [p, q] = ConvGeometry { kernel, stride, pad }.output(h, w).expect("geometry");
    [n, p, q, o]
}

/// The op by itself, with and without bias; weights as inputs (packed in every run) and as frozen states (packed once).
pub fn forward() -> Vec<Case> {
    let mut cases = vec![];
    for (i, shape) in SHAPES.iter().enumerate() {
        let &(x, o, kernel, stride, pad) = shape;
        let mut case = Case::new(format!("conv2d {shape:?}"));
        let xs = case.input(&x);
        let wshape = [o, x[3], kernel[0], kernel[1]];
        let w = if i % 2 == 0 { case.input(&wshape) } else { case.state("w", &wshape) };
        let bias = (i % 3 != 0).then(|| case.state("b", &[o]));
        let y = case.graph.conv2d(xs, w, bias, stride, pad).expect("conv2d");
        case.expect(y, TOLERANCE);
        cases.push(case);
    }
    cases
}

/// Which parts of the epilogue a case has: addend, residual, scale.
pub type Epilogue = (bool, bool, bool);

pub const EPILOGUES: &[Epilogue] =
    &[(true, false, false), (false, true, false), (true, true, false), (true, true, true), (false, false, true), (false, true, true)];

/// What follows a convolution's result [N,P,Q,O].
fn with_epilogue(case: &mut Case, mut y: ValueId, (addend, residual, scale): Epilogue) -> ValueId {
    let shape = case.graph.shape(y).to_vec();
    if addend {
        let time = case.input(&[shape[0], 1, 1, shape[3]]);
        y = case.graph.add(time, y).expect("add");
    }
    if residual {
        let other = case.input(&shape);
        y = case.graph.add(y, other).expect("add");
    }
    if scale {
        y = case.graph.affine(y, 0.75, 0.0).expect("affine");
    }
    y
}

/// conv + addend + residual, times scale, written as separate nodes: the fusion pass makes one node of them.
pub fn fused_graph(name: String, shape: &Shape, epilogue: Epilogue) -> (Case, ValueId) {
    let &(x, o, kernel, stride, pad) = shape;
    let mut case = Case::new(name);
    let xs = case.input(&x);
    let w = case.state("w", &[o, x[3], kernel[0], kernel[1]]);
    let b = case.state("b", &[o]);
    let y = case.graph.conv2d(xs, w, Some(b), stride, pad).expect("conv2d");
    let y = with_epilogue(&mut case, y, epilogue);
    (case, y)
}

/// The numbers that x is rounded to: all of a byte, and so few that no sum of two products leaves 16 bits.
pub const ROUNDINGS: [Codes; 2] = [Codes::U8, Codes { high: 129, ..Codes::U8 }];

/// What stands for whole numbers: x rounded with one scale, w with one for each output.
pub fn rounded(case: &mut Case, x: ValueId, w: ValueId, codes: Codes) -> [ValueId; 2] {
    let (x, o) = (rounded_input(case, x, codes), case.graph.shape(w)[0]);
    let [w_scale, none] = weight_scales(case, o);
    [x, case.op(FakeQuantize { codes: Codes::WEIGHTS, axis: Some(0), scale_gradient: 1.0 }, &[w, w_scale, none])]
}

fn rounded_input(case: &mut Case, x: ValueId, codes: Codes) -> ValueId {
    let (scale, zero) = (case.data(&[1], &[2.3f32 / (codes.high as f32)]), case.data(&[1], &[(codes.high / 2) as u8]));
    case.op(FakeQuantize { codes, axis: None, scale_gradient: 1.0 }, &[x, scale, zero])
}

/// Scales of so many outputs, and their zero points.
fn weight_scales(case: &mut Case, o: usize) -> [ValueId; 2] {
    let scales: Vec<f32> = (0..o).map(|k| (1.0 + 0.3 * (k % 5) as f32) / 127.0).collect();
    let none = case.graph.constant("none", Tensor::from_slice(&[o], &vec![0i8; o]).expect("a tensor")).expect("a constant");
    [case.data(&[o], &scales), none]
}

/// Weights [O,C,R,S] that are whole numbers, of -127 to 127.
fn whole_weights(case: &mut Case, shape: &[usize]) -> ValueId {
    let numbers: Vec<i8> = (0..shape.iter().product()).map(|_| (case.noise.word() % 255) as u8 as i8).map(|w| w.max(-127)).collect();
    case.data(shape, &numbers)
}

/// What such stand for.
fn stored_weights(case: &mut Case, shape: &[usize]) -> ValueId {
    let whole = whole_weights(case, shape);
    let [scale, none] = weight_scales(case, shape[0]);
    case.op(Dequantize { axis: Some(0) }, &[whole, scale, none])
}

/// Convolutions of rounded x and w, with all that may follow one. `normed` puts a norm before.
pub fn quantized_graph(name: String, shape: &Shape, codes: Codes, normed: bool, epilogue: Epilogue) -> (Case, ValueId) {
    let &(x, o, kernel, stride, pad) = shape;
    let mut case = Case::new(name);
    let mut xs = case.input(&x);
    let w = case.state("w", &[o, x[3], kernel[0], kernel[1]]);
    let b = case.state("b", &[o]);
    if normed {
        let (gamma, beta) = (case.state("gamma", &[x[3]]), case.state("beta", &[x[3]]));
        xs = case.graph.group_norm(xs, gamma, beta, 1, 1e-5, epilogue.2).expect("a norm");
    }
    let [xs, w] = rounded(&mut case, xs, w, codes);
    let y = case.graph.conv2d(xs, w, Some(b), stride, pad).expect("conv2d");
    let y = with_epilogue(&mut case, y, epilogue);
    (case, y)
}

pub fn quantized() -> Vec<Case> {
    let mut cases = vec![];
    for (i, shape) in SHAPES.iter().enumerate() {
        for (codes, epilogue) in ROUNDINGS.into_iter().zip([EPILOGUES[0], EPILOGUES[i % EPILOGUES.len()]]) {
            let (mut case, y) = quantized_graph(format!("quantized {codes:?} {epilogue:?} {shape:?}"), shape, codes, false, epilogue);
            case.expect(y, TOLERANCE);
            cases.push(case);
        }
    }
    cases.extend(NUMBERS.iter().map(numbers));
    // A linear layer over tokens.
    let mut case = Case::new("quantized tokens");
    let (x, w, bias) = (case.input(&[2, 6, 20]), case.state("w", &[12, 20]), case.state("b", &[12]));
    let [x, w] = rounded(&mut case, x, w, Codes::U8);
    let y = case.graph.linear(x, w, Some(bias)).expect("a linear layer");
    case.expect(y, TOLERANCE);
    cases.push(case);
    cases
}

/// [N,H,W], channels of the values that are joined, O, kernel, stride, padding, and whether all numbers are the largest.
type Numbers = ([usize; 3], &'static [usize], usize, usize, usize, [usize; 4], bool);

/// Convolutions of whole numbers as such: paths of kernels that no pass leads to in a small case.
pub const NUMBERS: &[Numbers] = &[
    ([2, 5, 4], &[3, 6], 5, 3, 1, [1; 4], false),         // two sources, whose channels share a run of eight
    ([1, 6, 6], &[12, 20], 9, 3, 2, [0, 1, 2, 1], false), // the same, whole runs of four
    ([2, 4, 4], &[24, 40], 33, 1, 1, [0; 4], false),
    ([6, 16, 16], &[16], 64, 3, 1, [1; 4], false), // the CUDA backend's tall tiles
    ([9, 8, 8], &[20], 64, 3, 1, [1; 4], false),   // its large ones
    ([1, 8, 8], &[256], 40, 3, 1, [1; 4], false),  // sums in slices
    ([2, 3, 3], &[530], 7, 1, 1, [0; 4], false),   // two slabs of channels
    ([1, 1, 2], &[MOST_PRODUCTS], 3, 1, 1, [0; 4], true),
];

/// A convolution of whole numbers, w of which is there. At the limit every product has the same sign and is as large as one can be, and so has the zero
/// point's.
fn numbers(shape: &Numbers) -> Case {
    let &([n, h, w], joined, o, kernel, stride, pad, largest) = shape;
    let mut case = Case::new(format!("numbers {shape:?}"));
    let c: usize = joined.iter().sum();
    let mut operands: Vec<ValueId> =
        joined.iter().map(|own| if largest { case.data(&[n, h, w, *own], &vec![9f32; n * h * w * own]) } else { case.input(&[n, h, w, *own]) }).collect();
    let w = [o, c, kernel, kernel];
    let signs: Vec<i8> = (0..w.iter().product()).map(|i| if (i / c).is_multiple_of(2) { 127 } else { -127 }).collect();
    operands.push(if largest { case.data(&w, &signs) } else { whole_weights(&mut case, &w) });
    let (scale, zero) = if largest { (0.01f32, 0u8) } else { (0.01, 117) };
    let factors: Vec<f32> = (0..o).map(|k| 1e-5 * (1.0 + 0.3 * (k % 5) as f32)).collect();
    operands.extend([case.data(&[1], &[scale]), case.data(&[1], &[zero]), case.data(&[o], &factors), case.input(&[o])]);
    let conv = Conv2d { out_channels: o, geometry: ConvGeometry { kernel: [kernel; 2], stride, pad }, bias: true };
    let y = case.op(FusedConv2d { sources: joined.len(), quantized: Some(Codes::U8), ..conv.into() }, &operands);
    case.expect(y, TOLERANCE);
    case
}

/// Quantised convolutions (→ concat) → group norm → quantised convolution, on maps of whole tiles: the CUDA backend gives the norm the moments of the former
/// and does it in the latter. The channels of each of the former, and groups.
pub fn quantized_norm([n, h, w]: [usize; 3], joined: &[usize], groups: usize, silu: bool) -> (Case, ValueId) {
    let mut case = Case::new(format!("quantized norm {n} {h} {w} {joined:?} {groups} {silu}"));
    let mut sources = vec![];
    for (k, channels) in joined.iter().enumerate() {
        let x = case.input(&[n, h, w, 5]);
        let (weight, bias) = (stored_weights(&mut case, &[*channels, 5, 3, 3]), case.state(&format!("b{k}"), &[*channels]));
        let x = rounded_input(&mut case, x, Codes::U8);
        sources.push(case.graph.conv2d(x, weight, Some(bias), 1, [1; 4]).expect("conv2d"));
    }
    let x = if sources.len() > 1 { case.op(Concat, &sources) } else { sources[0] };
    let c = joined.iter().sum();
    let (gamma, beta) = (case.state("gamma", &[c]), case.state("beta", &[c]));
    let normed = case.graph.group_norm(x, gamma, beta, groups, 1e-5, silu).expect("a norm");
    let weight = stored_weights(&mut case, &[12, c, 3, 3]);
    let normed = rounded_input(&mut case, normed, Codes::U8);
    let y = case.graph.conv2d(normed, weight, None, 1, [1; 4]).expect("conv2d");
    case.graph.tap(y);
    (case, y)
}

pub fn fused() -> Vec<Case> {
    let mut cases = vec![];
    for shape in SHAPES.iter().step_by(2) {
        for epilogue in EPILOGUES {
            let (mut case, y) = fused_graph(format!("fused {epilogue:?} {shape:?}"), shape, *epilogue);
            case.expect(y, TOLERANCE);
            cases.push(case);
        }
    }
    cases
}

/// [N,H,W], channels of the values that are joined, groups, O of the convolution behind, its kernel, stride and padding.
type Normalised = ([usize; 3], &'static [usize], usize, usize, usize, usize, [usize; 4]);

/// Maps of whole tiles, so that the CUDA backend moves the norm into the convolution behind.
pub const NORMALISED: &[Normalised] = &[
    ([1, 8, 8], &[8], 4, 8, 3, 1, [1; 4]),
    ([3, 4, 8], &[20], 5, 7, 3, 1, [1; 4]),         // ragged chunks, several images
    ([2, 8, 8], &[12, 20], 4, 12, 3, 1, [1; 4]),    // a group has channels of both
    ([1, 16, 16], &[64], 32, 40, 3, 1, [1; 4]),     // moments of several tiles, sums in slices
    ([2, 16, 16], &[40, 24], 8, 40, 3, 1, [1; 4]),  // large tiles
    ([1, 8, 16], &[33], 1, 9, 1, 1, [0; 4]),        // one group
    ([1, 16, 16], &[16], 4, 8, 3, 2, [0, 0, 1, 1]), // downsampling
    ([2, 8, 8], &[6, 10], 8, 4, 5, 1, [2; 4]),
];

/// convolutions of inputs of five channels -> concat; the value and its channels.
fn joined_convolutions(case: &mut Case, [n, h, w]: [usize; 3], joined: &[usize]) -> (ValueId, usize) {
    let mut sources = vec![];
    for (k, channels) in joined.iter().enumerate() {
        let x = case.input(&[n, h, w, 5]);
        let (weight, bias) = (case.state(&format!("w{k}"), &[*channels, 5, 3, 3]), case.state(&format!("b{k}"), &[*channels]));
        sources.push(case.graph.conv2d(x, weight, Some(bias), 1, [1; 4]).expect("conv2d"));
    }
    let x = if sources.len() > 1 { case.op(Concat, &sources) } else { sources[0] };
    (x, joined.iter().sum())
}

/// convolutions -> concat -> group norm -> convolution.
pub fn normalised() -> Vec<Case> {
    let mut cases = vec![];
    for (i, shape) in NORMALISED.iter().enumerate() {
        let &([n, h, w], joined, groups, o, kernel, stride, pad) = shape;
        let mut case = Case::new(format!("normalised {shape:?}"));
        let (x, c) = joined_convolutions(&mut case, [n, h, w], joined);
        let (gamma, beta) = (case.state("gamma", &[c]), case.state("beta", &[c]));
        let normed = case.graph.group_norm(x, gamma, beta, groups, 1e-5, i % 2 == 0).expect("a norm");
        let weight = case.state("w", &[o, c, kernel, kernel]);
        let y = case.graph.conv2d(normed, weight, None, stride, pad).expect("conv2d");
        // The value before is read by others too.
        let plain = case.op(Affine { scale: 2.0, shift: 0.0 }, &[x]);
        case.expect(y, TOLERANCE);
        case.expect(plain, TOLERANCE);
        cases.push(case);
    }
    cases
}

/// [N,H,W], channels of the values that are joined, groups, SiLU, whether the norm sees [N,T,C].
type Measured = ([usize; 3], &'static [usize], usize, bool, bool);

/// Maps of whole tiles, so that the CUDA backend hands the moments of the convolutions' results to the norm behind.
pub const MEASURED: &[Measured] = &[
    ([1, 8, 8], &[8], 4, true, false),
    ([3, 4, 8], &[20], 5, false, false),      // no whole runs of halves
    ([2, 16, 16], &[24, 40], 4, true, false), // a group has channels of both
    ([6, 16, 16], &[64], 4, true, false),     // enough for tiles of 128 rows, two an image
    ([2, 8, 16], &[64], 1, false, true),
    ([2, 8, 8], &[520], 65, true, false), // two slabs
    ([1, 8, 8], &[3, 4], 7, true, false),
];

/// convolutions -> concat -> group norm, whose results are all read.
pub fn measured() -> Vec<Case> {
    let mut cases = vec![];
    for shape in MEASURED {
        let &([n, h, w], joined, groups, silu, tokens) = shape;
        let mut case = Case::new(format!("measured {shape:?}"));
        let (mut x, c) = joined_convolutions(&mut case, [n, h, w], joined);
        if tokens {
            x = case.graph.reshape(x, &[n, h * w, c]).expect("a view");
        }
        let (gamma, beta) = (case.state("gamma", &[c]), case.state("beta", &[c]));
        let out = case.ops(GroupNorm::new(groups, 1e-5, silu), &[x, gamma, beta]);
        for v in out {
            case.expect(v, TOLERANCE);
        }
        cases.push(case);
    }
    cases
}

/// [N,H,W], channels of the values that are joined, O and kernel of the convolution that reads the whole, and whether nobody need make it.
pub type Joined = ([usize; 3], &'static [usize], usize, usize, bool);

/// What a U-Net's up path does: norm and convolution of a whole, and its shortcut. Values of whole runs of 16 bytes in f32; maps of whole tiles.
pub const JOINED: &[Joined] = &[
    ([1, 8, 8], &[20, 28], 24, 3, true),
    ([2, 4, 8], &[16, 40], 33, 3, true),
    ([1, 16, 16], &[64, 64], 48, 3, true), // several tiles, chunks and blocks of taps
    ([2, 8, 8], &[8, 4], 12, 1, true),
    ([1, 8, 8], &[24, 24, 8], 8, 3, false), // more than two
];

/// convolutions -> concat -> group norm -> convolution, + shortcut of the concat; the whole is tapped where it shall stay. With the results.
pub fn joined_graph(shape: &Joined, stays: bool) -> (Case, [ValueId; 2]) {
    let &([n, h, w], joined, o, kernel, _) = shape;
    let mut case = Case::new(format!("joined {shape:?}"));
    let (x, c) = joined_convolutions(&mut case, [n, h, w], joined);
    let (gamma, beta) = (case.state("gamma", &[c]), case.state("beta", &[c]));
    let normed = case.graph.group_norm(x, gamma, beta, 4, 1e-5, true).expect("a norm");
    let (weight, shortcut) = (case.state("w", &[o, c, kernel, kernel]), case.state("shortcut", &[o, c, 1, 1]));
    let skip = case.graph.conv2d(x, shortcut, None, 1, [0; 4]).expect("conv2d");
    let y = case.graph.conv2d(normed, weight, None, 1, [kernel / 2; 4]).expect("conv2d");
    let sum = case.graph.add(y, skip).expect("add");
    // A linear layer sees it as tokens.
    let (tokens, matrix) = (case.graph.reshape(x, &[n, h * w, c]).expect("a view"), case.state("matrix", &[8, c]));
    let linear = case.graph.linear(tokens, matrix, None).expect("a linear layer");
    case.expect(sum, TOLERANCE);
    case.expect(linear, TOLERANCE);
    if stays {
        case.expect(x, TOLERANCE);
    }
    (case, [sum, linear])
}

pub fn joined() -> Vec<Case> {
    JOINED.iter().map(|shape| joined_graph(shape, false).0).collect()
}

/// Linear layers of one value, which the CUDA backend makes one product of: with and without bias, more than one concatenation joins, in slices.
pub fn merged() -> Vec<Case> {
    let mut cases = vec![];
    for (shape, outs, bias) in
        [([1usize, 1, 1, 24], &[8usize, 12, 64][..], true), ([2, 3, 5, 17], &[4, 4], false), ([1, 1, 9, 600], &[8; 11], true), ([3, 1, 1, 8], &[8; 20], true)]
    {
        let mut case = Case::new(format!("merged {shape:?} {outs:?}"));
        let x = case.input(&shape);
        for (k, o) in outs.iter().enumerate() {
            let weight = case.state(&format!("w{k}"), &[*o, shape[3]]);
            let bias = bias.then(|| case.state(&format!("b{k}"), &[*o]));
            let y = case.graph.linear(x, weight, bias).expect("a linear layer");
            case.expect(y, TOLERANCE);
        }
        cases.push(case);
    }
    cases
}

/// Input and weight gradient ops by themselves.
pub fn gradients() -> Vec<Case> {
    let mut cases = vec![];
    for (i, shape) in SHAPES.iter().enumerate() {
        let &(x, o, kernel, stride, pad) = shape;
        let geometry = ConvGeometry { kernel, stride, pad };
        let mut case = Case::new(format!("conv2d gradients {shape:?}"));
        let xs = case.input(&x);
        let dy = case.input(&output(shape));
        let wshape = [o, x[3], kernel[0], kernel[1]];
        let w = if i % 2 == 0 { case.state("w", &wshape) } else { case.input(&wshape) };
        let dx = case.op(Conv2dInputGrad { geometry, input: x.to_vec(), packed: false, bf16: false }, &[dy, w]);
        let dw = case.op(Conv2dWeightGrad { geometry, bf16: false }, &[xs, dy]);
        case.expect(dx, TOLERANCE);
        case.expect(dw, TOLERANCE);
        cases.push(case);
    }
    cases
}

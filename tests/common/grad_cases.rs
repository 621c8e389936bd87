//! Differentiable functions: each builds a value from operands; the test makes the loss sum(w y) of it.

use fewstep::Result;
use fewstep::graph::ops::*;
use fewstep::graph::{Graph, ValueId};

/// Appends the function to a graph.
pub type Build = dyn Fn(&mut Graph, &[ValueId]) -> Result<ValueId>;

/// A function of the operands; operands are parameters, the last `fixed` of them get no gradient.
pub struct GradCase {
    pub name: String,
    pub shapes: Vec<Vec<usize>>,
    pub fixed: usize,
    /// Keeps operands away from points where the function has a kink: those are moved by this much.
    pub kinks: Vec<f32>,
    pub build: Box<Build>,
}

fn case(name: impl Into<String>, shapes: &[&[usize]], build: impl Fn(&mut Graph, &[ValueId]) -> Result<ValueId> + 'static) -> GradCase {
    GradCase { name: name.into(), shapes: shapes.iter().map(|s| s.to_vec()).collect(), fixed: 0, kinks: vec![], build: Box::new(build) }
}

pub fn convolutions() -> Vec<GradCase> {
    let mut cases = vec![];
    for (x, o, kernel, stride, pad) in [
        ([1usize, 1, 1, 1], 1usize, [1usize, 1], 1usize, [0usize; 4]),
        ([2, 4, 5, 3], 4, [3, 3], 1, [1; 4]),
        ([1, 6, 6, 2], 3, [3, 3], 2, [0, 0, 1, 1]),
        ([1, 5, 5, 1], 2, [5, 5], 1, [2; 4]),
        ([2, 3, 3, 5], 4, [1, 1], 1, [0; 4]),
        ([1, 6, 5, 2], 3, [1, 1], 2, [0; 4]),
        ([1, 4, 7, 2], 2, [1, 4], 3, [2, 3, 0, 1]),
    ] {
        let w = [o, x[3], kernel[0], kernel[1]];
        cases.push(case(format!("conv2d {x:?} {o} {kernel:?} {stride} {pad:?}"), &[&x, &w, &[o]], move |g, v| g.conv2d(v[0], v[1], Some(v[2]), stride, pad)));
    }
    cases.push(case("linear, three axes", &[&[2, 3, 5], &[4, 5], &[4]], |g, v| g.linear(v[0], v[1], Some(v[2]))));
    cases.push(case("conv2d without bias", &[&[1, 3, 3, 2], &[2, 2, 3, 3]], |g, v| g.conv2d(v[0], v[1], None, 1, [1; 4])));
    // The same weights three times: the gradient is the sum over the uses.
    cases.push(case("conv2d weights used three times", &[&[1, 3, 3, 2], &[2, 2, 3, 3], &[2]], |g, v| {
        let mut x = v[0];
        for _ in 0..3 {
            x = g.conv2d(x, v[1], Some(v[2]), 1, [1; 4])?;
            x = g.unary(UnaryKind::Silu, x)?;
        }
        Ok(x)
    }));
    cases
}

/// x^2 + 0.5.
fn above_zero(g: &mut Graph, x: ValueId) -> Result<ValueId> {
    let square = g.unary(UnaryKind::Square, x)?;
    g.affine(square, 1.0, 0.5)
}

pub fn elementwise() -> Vec<GradCase> {
    let mut cases = vec![];
    for kind in super::cases::UNARY {
        let kinks = match kind {
            UnaryKind::Relu | UnaryKind::Abs => vec![0.0],
            UnaryKind::Huber(d) => vec![-d, *d],
            UnaryKind::Clamp(lo, hi) => vec![*lo, *hi],
            _ => vec![],
        };
        let kind = *kind;
        let function = move |g: &mut Graph, v: &[ValueId]| {
            // A root has no value below zero.
            let x = if kind == UnaryKind::Rsqrt { above_zero(g, v[0])? } else { v[0] };
            g.unary(kind, x)
        };
        cases.push(GradCase { kinks, ..case(format!("unary {kind:?}"), &[&[3, 5]], function) });
    }
    cases.push(case("affine", &[&[7]], |g, v| g.affine(v[0], -1.5, 0.25)));
    for kind in [BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul] {
        for (a, b) in super::cases::BROADCAST.iter().filter(|(a, b)| a.iter().product::<usize>().max(b.iter().product()) < 1000) {
            cases.push(case(format!("binary {kind:?} {a:?} {b:?}"), &[a, b], move |g, v| g.push1(Binary { kind }.into(), v)));
        }
    }
    cases.push(case("x x", &[&[3, 4]], |g, v| g.mul(v[0], v[0])));
    cases.push(case("x - x x", &[&[5]], |g, v| {
        let square = g.mul(v[0], v[0])?;
        g.sub(v[0], square)
    }));
    for (values, rows, first) in [(1usize, 1usize, 0usize), (3, 1, 1), (3, 2, 0)] {
        let mut shapes: Vec<&[usize]> = vec![&[2, 3, 2]; values];
        let coef = [rows, first + values];
        shapes.push(&coef);
        let build = move |g: &mut Graph, v: &[ValueId]| g.push1(Combine { first }.into(), &[&v[values..], &v[..values]].concat());
        cases.push(GradCase { fixed: 1, ..case(format!("combine of {values}, {rows} rows, from {first}"), &shapes, build) });
    }
    cases
}

pub fn moves() -> Vec<GradCase> {
    let mut cases = vec![
        case("upsample2x", &[&[2, 2, 3, 2]], |g, v| g.push1(Upsample2x.into(), v)),
        case("avg_pool2x", &[&[2, 4, 2, 3]], |g, v| g.push1(AvgPool2x.into(), v)),
        case("concat", &[&[2, 3, 1], &[2, 3, 4], &[2, 3, 2]], |g, v| g.push1(Concat.into(), v)),
        case("concat of a value with itself", &[&[2, 3]], |g, v| g.push1(Concat.into(), &[v[0], v[0]])),
        case("slice", &[&[2, 7]], |g, v| g.push1(Slice { start: 2, len: 3 }.into(), v)),
        case("pad", &[&[3, 2]], |g, v| g.push1(Pad { before: 2, after: 1 }.into(), v)),
        case("transpose", &[&[2, 2, 3, 4]], |g, v| g.transpose(v[0])),
        case("transpose of one column", &[&[3, 1]], |g, v| g.transpose(v[0])),
        case("reshape", &[&[3, 4]], |g, v| g.reshape(v[0], &[2, 6])),
    ];
    for (from, to) in super::cases::SUMS.iter().filter(|(from, _)| from.iter().product::<usize>() < 1000) {
        cases.push(case(format!("reduce_sum {from:?} to {to:?}"), &[from], move |g, v| g.push1(ReduceSum { shape: to.to_vec() }.into(), v)));
    }
    cases.push(case("mean", &[&[3, 4, 2]], |g, v| g.mean(v[0])));
    cases.push(case("gather, rows met twice and never", &[&[5, 3]], |g, v| {
        let index = g.constant("index", fewstep::tensor::Tensor::from_slice(&[4], &[1i32, 3, 1, 0])?)?;
        g.gather(v[0], index)
    }));
    cases
}

pub fn group_norms() -> Vec<GradCase> {
    let mut cases = vec![];
    for (shape, groups) in [(&[2usize, 3, 3, 4][..], 2usize), (&[1, 2, 2, 3], 1), (&[2, 5, 6], 3), (&[3, 4], 2), (&[2, 3, 2, 3], 3)] {
        for silu in [false, true] {
            let c = [shape[shape.len() - 1]];
            cases.push(case(format!("group_norm {shape:?} {groups} {silu}"), &[shape, &c, &c], move |g, v| g.group_norm(v[0], v[1], v[2], groups, 1e-5, silu)));
        }
    }
    cases
}

pub fn attentions() -> Vec<GradCase> {
    let mut cases = vec![];
    for (n, t, heads, d) in [(1usize, 1usize, 1usize, 1usize), (2, 3, 2, 5), (1, 7, 1, 3), (1, 5, 3, 2)] {
        let s = [n, t, heads * d];
        let scale = (d as f64).powf(-0.5);
        cases.push(case(format!("attention {n} {t} {heads} {d}"), &[&s, &s, &s], move |g, v| g.push1(Attention { heads, scale }.into(), v)));
    }
    for over in [Over::Tokens, Over::Rows, Over::Columns] {
        let (tokens, heads, rows, columns) = (3, 2, 4, 5);
        let [a, b] = [heads * rows, heads * columns].map(|width| [2, tokens, width]);
        let m = [2, heads * rows, columns];
        let shapes: [&[usize]; 2] = match over {
            Over::Tokens => [&a, &b],
            Over::Rows => [&a, &m],
            Over::Columns => [&b, &m],
        };
        cases.push(case(format!("head product over {over:?}"), &shapes, move |g, v| g.push1(HeadProduct { heads, over }.into(), v)));
    }
    cases.push(case("self attention of one value", &[&[1, 4, 6]], |g, v| g.push1(Attention { heads: 2, scale: 0.7 }.into(), &[v[0]; 3])));
    cases
}

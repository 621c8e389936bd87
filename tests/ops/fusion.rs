//! What the fusion pass makes one node of, and what it must leave apart.

use crate::common::{Case, conv_cases, models};
use crate::plan::{ready, run_ops, verified};
use fewstep::Result;
use fewstep::backend::Backend;
use fewstep::backend::cpu::CpuBackend;
use fewstep::graph::ops::*;
use fewstep::graph::{Op, OpDef, Plan, ValueId};

/// x -> conv, with w and bias; the common part of the corner cases.
pub fn conv(case: &mut Case, name: &str, x: ValueId) -> ValueId {
    let c = case.graph.shape(x)[3];
    let w = case.state(name, &[4, c, 3, 3]);
    case.graph.conv2d(x, w, None, 1, [1; 4]).expect("conv")
}

fn single_conv(plan: &Plan) -> &FusedConv2d {
    match run_ops(plan).as_slice() {
        [Op::FusedConv2d(c)] => c,
        other => panic!("expected one convolution, found {:?}", other.iter().map(|o| o.name()).collect::<Vec<_>>()),
    }
}

#[test]
fn epilogues_are_fused() -> Result<()> {
    let shape = ([2, 6, 5, 4], 7, [3, 3], 1, [1; 4]);
    for parts in conv_cases::EPILOGUES {
        let (mut case, y) = conv_cases::fused_graph(format!("{parts:?}"), &shape, *parts);
        case.expect(y, 1e-5);
        let exe = ready(&case)?;
        let conv = single_conv(exe.plan());
        assert_eq!((conv.addend, conv.residual, conv.scale != 1.0), *parts);
        verified(&case)?;
    }
    Ok(())
}

fn count(plan: &Plan, f: impl Fn(&Op) -> bool) -> usize {
    run_ops(plan).iter().filter(|op| f(op)).count()
}

#[test]
fn fusion_corner_cases() -> Result<()> {
    let start = |name: &str| {
        let mut case = Case::new(name);
        let x = case.input(&[2, 5, 5, 4]);
        (case, x)
    };
    let mut cases: Vec<(Case, usize)> = vec![]; // with the number of element-wise nodes that must be left
    // The residual is computed after the convolution.
    let (mut case, x) = start("late residual");
    let a = conv(&mut case, "a", x);
    let late = case.graph.unary(UnaryKind::Silu, x)?;
    let y = case.graph.add(a, late)?;
    case.expect(y, 1e-5);
    cases.push((case, 1));
    // A view between the convolution and the sum.
    let (mut case, x) = start("view between");
    let a = conv(&mut case, "a", x);
    let flat = case.graph.reshape(a, &[2, 100])?;
    let other = case.input(&[2, 100]);
    let y = case.graph.add(flat, other)?;
    case.expect(y, 1e-5);
    cases.push((case, 0));
    // A transformer's residual: a linear layer over tokens, seen as tokens again, and scaled behind another view.
    let mut case = Case::new("tokens");
    let (x, w, bias) = (case.input(&[2, 6, 4]), case.state("w", &[4, 4]), case.state("b", &[4]));
    let y = case.graph.linear(x, w, Some(bias))?;
    let sum = case.graph.add(x, y)?;
    let flat = case.graph.reshape(sum, &[12, 4])?;
    let y = case.graph.affine(flat, 0.5, 0.0)?;
    case.expect(y, 1e-5);
    cases.push((case, 0));
    // What is added to every token is no addend of the convolution, which has a sample a token.
    let mut case = Case::new("a sum per sample");
    let (x, w, other) = (case.input(&[2, 6, 4]), case.state("w", &[4, 4]), case.input(&[2, 1, 4]));
    let y = case.graph.linear(x, w, None)?;
    let y = case.graph.add(y, other)?;
    case.expect(y, 1e-5);
    cases.push((case, 1));
    // A tapped view stays readable.
    let mut case = Case::new("tapped view");
    let (x, w) = (case.input(&[2, 6, 4]), case.state("w", &[4, 4]));
    let y = case.graph.linear(x, w, None)?;
    let sum = case.graph.add(x, y)?;
    case.expect(y, 1e-5);
    case.expect(sum, 1e-5);
    cases.push((case, 1));
    // A tapped intermediate stays readable.
    let (mut case, x) = start("tapped");
    let a = conv(&mut case, "a", x);
    let y = case.graph.add(a, x)?;
    let z = case.graph.affine(y, 0.5, 0.0)?;
    case.expect(a, 1e-5);
    case.expect(z, 1e-5);
    cases.push((case, 2));
    let (mut case, x) = start("tapped in the middle");
    let a = conv(&mut case, "a", x);
    let y = case.graph.add(a, x)?;
    let z = case.graph.affine(y, 0.5, 0.0)?;
    case.expect(y, 1e-5);
    case.expect(z, 1e-5);
    cases.push((case, 1));
    // a + a, and a read twice.
    let (mut case, x) = start("twice");
    let a = conv(&mut case, "a", x);
    let y = case.graph.add(a, a)?;
    let z = case.graph.mul(y, a)?;
    case.expect(z, 1e-5);
    cases.push((case, 2));
    // Two convolutions feed one sum: the first takes it.
    let (mut case, x) = start("two convolutions");
    let (a, b) = (conv(&mut case, "a", x), conv(&mut case, "b", x));
    let y = case.graph.add(a, b)?;
    case.expect(y, 1e-5);
    cases.push((case, 0));
    // The second convolution still takes its own addend.
    let (mut case, x) = start("two convolutions, an addend");
    let time = case.input(&[2, 1, 1, 4]);
    let (a, b) = (conv(&mut case, "a", x), conv(&mut case, "b", x));
    let b = case.graph.add(b, time)?;
    let y = case.graph.add(a, b)?;
    case.expect(y, 1e-5);
    cases.push((case, 0));
    // Two residuals: only one fits; an addend after a residual does not.
    let (mut case, x) = start("two residuals");
    let other = case.input(&[2, 5, 5, 4]);
    let a = conv(&mut case, "a", x);
    let y = case.graph.add(a, x)?;
    let z = case.graph.add(y, other)?;
    case.expect(z, 1e-5);
    cases.push((case, 1));
    let (mut case, x) = start("addend last");
    let time = case.input(&[2, 1, 1, 4]);
    let a = conv(&mut case, "a", x);
    let y = case.graph.add(a, x)?;
    let z = case.graph.add(time, y)?;
    case.expect(z, 1e-5);
    cases.push((case, 1));
    // Scales: one is taken, a shift is not, what follows a scale is not.
    let (mut case, x) = start("scales");
    let mut y = conv(&mut case, "a", x);
    y = case.graph.affine(y, 2.0, 0.0)?;
    y = case.graph.affine(y, 0.3, 0.0)?;
    case.expect(y, 1e-5);
    cases.push((case, 1));
    let (mut case, x) = start("shift");
    let y = conv(&mut case, "a", x);
    let y = case.graph.affine(y, 2.0, 0.1)?;
    case.expect(y, 1e-5);
    cases.push((case, 1));
    let (mut case, x) = start("sum after scale");
    let y = conv(&mut case, "a", x);
    let y = case.graph.affine(y, 2.0, 0.0)?;
    let y = case.graph.add(y, x)?;
    case.expect(y, 1e-5);
    cases.push((case, 1));
    // The sum broadcasts the convolution's result.
    let mut case = Case::new("broadcast result");
    let (x, big) = (case.input(&[2, 1, 1, 4]), case.input(&[2, 3, 3, 4]));
    let a = conv(&mut case, "a", x);
    let y = case.graph.add(a, big)?;
    case.expect(y, 1e-5);
    cases.push((case, 1));
    // One pixel: what could be an addend is a residual, and the second one stays.
    let mut case = Case::new("one pixel");
    let (x, t, u) = (case.input(&[2, 1, 1, 4]), case.input(&[2, 1, 1, 4]), case.input(&[2, 1, 1, 4]));
    let a = conv(&mut case, "a", x);
    let y = case.graph.add(a, t)?;
    let y = case.graph.add(y, u)?;
    case.expect(y, 1e-5);
    cases.push((case, 1));
    for (case, left) in cases {
        let exe = ready(&case)?;
        let rest = count(exe.plan(), |op| matches!(op, Op::Binary(_) | Op::Affine(_) | Op::Unary(_)));
        assert_eq!(rest, left, "{}", case.name);
        verified(&case)?;
    }
    Ok(())
}

#[test]
fn fusion_keeps_state_order() -> Result<()> {
    // The weights are overwritten between the convolution and its sum: the convolution must not move behind that.
    let mut case = Case::new("weights overwritten");
    let (x, next) = (case.input(&[1, 5, 5, 4]), case.input(&[4, 4, 3, 3]));
    let w = case.state("w", &[4, 4, 3, 3]);
    let a = case.graph.conv2d(x, w, None, 1, [1; 4])?;
    let new = case.op(Assign, &[w, next]);
    let y = case.graph.add(a, x)?;
    let b = case.graph.conv2d(x, new, None, 1, [1; 4])?;
    case.expect(y, 1e-5);
    case.expect(b, 1e-5);
    verified(&case)?;
    // The same for the input.
    let mut case = Case::new("input overwritten");
    let x = case.state("x", &[1, 5, 5, 4]);
    let a = conv(&mut case, "a", x);
    let other = case.input(&[1, 5, 5, 4]);
    case.op(Assign, &[x, other]);
    let y = case.graph.add(a, other)?;
    case.expect(y, 1e-5);
    verified(&case)
}

#[test]
fn fusion_leaves_segments_alone() -> Result<()> {
    let mut case = Case::new("segments");
    let x = case.input(&[1, 5, 5, 4]);
    let a = conv(&mut case, "a", x);
    case.graph.begin_segment("second");
    let y = case.graph.add(a, x)?;
    case.expect(y, 1e-5);
    let exe = ready(&case)?;
    assert_eq!(exe.plan().segments().iter().map(|r| r.len()).collect::<Vec<_>>(), [1, 1]);
    verified(&case)
}

fn concatenations(plan: &Plan) -> usize {
    count(plan, |op| matches!(op, Op::Concat(_)))
}

/// What reads a concatenation reads its parts, and gets the same bytes.
#[test]
fn concatenations_are_spared() -> Result<()> {
    for shape in conv_cases::JOINED {
        let bytes = |stays: bool| -> Result<(usize, Vec<Vec<u8>>)> {
            let (case, results) = conv_cases::joined_graph(shape, stays);
            verified(&case)?;
            let mut exe = ready(&case)?;
            exe.run_all()?;
            let bytes = results.iter().map(|v| Ok(exe.read_bytes(*v)?.to_vec())).collect::<Result<_>>()?;
            Ok((concatenations(exe.plan()), bytes))
        };
        let ((spared, found), (made, expected)) = (bytes(false)?, bytes(true)?);
        assert_eq!((spared, made), (usize::from(!shape.4), 1), "{shape:?}");
        assert!(found == expected, "{shape:?}: other bytes than of the whole");
    }
    Ok(())
}

/// The student of the benchmarks joins six times.
#[test]
fn a_network_concatenates_nothing() -> Result<()> {
    let graph = models::student_s(1)?;
    assert_eq!(graph.nodes().iter().filter(|n| matches!(n.op, Op::Concat(_))).count(), 6);
    let exe = CpuBackend::new(1)?.compile(&graph)?;
    assert_eq!(concatenations(exe.plan()), 0);
    Ok(())
}

#[test]
fn concatenations_that_others_read_stay() -> Result<()> {
    let whole = |name: &str| {
        let mut case = Case::new(name);
        let (a, b) = (case.input(&[1, 6, 6, 12]), case.input(&[1, 6, 6, 8]));
        let x = case.op(Concat, &[a, b]);
        let y = conv(&mut case, "w", x);
        case.expect(y, 1e-5);
        (case, x, [a, b])
    };
    let mut cases = vec![];
    // By an op that reads one value.
    let (mut case, x, _) = whole("silu");
    let y = case.graph.unary(UnaryKind::Silu, x)?;
    case.expect(y, 1e-5);
    cases.push(case);
    // As a residual, beside being the input.
    let (mut case, x, _) = whole("residual");
    let w = case.state("same", &[20, 20, 1, 1]);
    let same = case.graph.conv2d(x, w, None, 1, [0; 4])?;
    let y = case.graph.add(same, x)?;
    case.expect(y, 1e-5);
    cases.push(case);
    // By a view with other channels.
    let (mut case, x, _) = whole("other channels");
    let (flat, w) = (case.graph.reshape(x, &[1, 18, 40])?, case.state("flat", &[4, 40]));
    let y = case.graph.linear(flat, w, None)?;
    case.expect(y, 1e-5);
    cases.push(case);
    // By the host.
    let (mut case, x, _) = whole("tapped");
    case.expect(x, 0.0);
    cases.push(case);
    // Few channels: their taps are read side by side.
    let mut case = Case::new("few channels");
    let (a, b) = (case.input(&[1, 6, 6, 4]), case.input(&[1, 6, 6, 8]));
    let x = case.op(Concat, &[a, b]);
    let y = conv(&mut case, "w", x);
    case.expect(y, 1e-5);
    cases.push(case);
    // A state is overwritten between: its old version is only in the whole.
    let mut case = Case::new("overwritten");
    let (a, b) = (case.input(&[1, 6, 6, 12]), case.state("b", &[1, 6, 6, 8]));
    let x = case.op(Concat, &[a, b]);
    let new = case.input(&[1, 6, 6, 8]);
    case.op(Assign, &[b, new]);
    let y = conv(&mut case, "w", x);
    case.expect(y, 1e-5);
    cases.push(case);
    for case in cases {
        let exe = ready(&case)?;
        assert_eq!(concatenations(exe.plan()), 1, "{}", case.name);
        verified(&case)?;
    }
    Ok(())
}

/// A convolution of constants and weights runs once, also where something of each run is added to it.
#[test]
fn fusion_leaves_what_runs_once() -> Result<()> {
    let mut case = Case::new("time and class");
    let (w, class) = (case.state("w", &[4, 4]), case.input(&[2, 4]));
    let t = case.graph.constant_fill("timestep", &[2, 4], 0.5)?;
    let time = case.graph.linear(t, w, None)?;
    let y = case.graph.add(time, class)?;
    case.expect(y, 1e-5);
    let exe = ready(&case)?;
    assert_eq!(run_ops(exe.plan()).iter().map(|op| op.name()).collect::<Vec<_>>(), ["binary"]);
    verified(&case)
}

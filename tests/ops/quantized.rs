//! Convolutions of whole numbers: what is folded into them, and that their bits are the same everywhere.

use crate::common::conv_cases::{EPILOGUES, ROUNDINGS, SHAPES, quantized_graph, quantized_norm, rounded};
use crate::common::{Answers, Case, TAKES_ALL, load};
use crate::random_graphs::same_meaning;
use fewstep::Result;
use fewstep::backend::Backend;
use fewstep::backend::cpu::kernels::int8::Set;
use fewstep::backend::cpu::{CpuBackend, Isa};
use fewstep::cancel::Stop;
use fewstep::graph::ops::*;
use fewstep::graph::{Graph, Numerics, Op, ValueId, gradients, passes};
use fewstep::tensor::{DType, Tensor};

/// The convolutions of whole numbers in a program after all passes of a backend that takes everything.
fn folded(graph: &Graph) -> Result<Vec<FusedConv2d>> {
    let done = passes::run(graph, &Numerics::F32, &TAKES_ALL, Stop::NEVER, &mut |_, _| Ok(()))?;
    Ok(of_numbers(&done.graph))
}

fn of_numbers(graph: &Graph) -> Vec<FusedConv2d> {
    let conv = |op: &Op| if let Op::FusedConv2d(op) = op { op.quantized.map(|_| op.clone()) } else { None };
    graph.nodes().iter().filter_map(|node| conv(&node.op)).collect()
}

fn has(graph: &Graph, f: impl Fn(&Op) -> bool) -> bool {
    graph.nodes().iter().any(|node| f(&node.op))
}

#[test]
fn quantisation_norms_and_epilogues_are_folded() -> Result<()> {
    for (i, shape) in SHAPES.iter().enumerate() {
        for normed in [false, true] {
            let epilogue = EPILOGUES[i % EPILOGUES.len()];
            let (mut case, y) = quantized_graph(format!("folded {normed} {epilogue:?} {shape:?}"), shape, ROUNDINGS[i % 2], normed, epilogue);
            case.expect(y, 1e-5);
            same_meaning(&case)?;
            let convs = folded(&case.graph)?;
            assert_eq!(convs.len(), 1, "{}", case.name);
            // Of a single pixel an addend and a residual are the same.
            let sums = |addend, residual| usize::from(addend) + usize::from(residual);
            let found = (sums(convs[0].addend, convs[0].residual), convs[0].scale != 1.0, convs[0].norm.is_some());
            assert_eq!(found, (sums(epilogue.0, epilogue.1), epilogue.2, normed), "{}", case.name);
            let done = passes::run(&case.graph, &Numerics::F32, &TAKES_ALL, Stop::NEVER, &mut |_, _| Ok(()))?;
            assert!(!has(&done.graph, |op| matches!(op, Op::FakeQuantize(_) | Op::GroupNorm(_))), "{}\n{}", case.name, done.graph);
        }
    }
    Ok(())
}

/// Where the backend takes moments from convolutions, it may from those of whole numbers, and normalise by them before it rounds; in any precision.
#[test]
fn moments_are_given_and_taken() -> Result<()> {
    for joined in [&[8][..], &[12, 20]] {
        let (mut case, y) = quantized_norm([2, 8, 8], joined, 4, true);
        case.expect(y, 1e-5);
        same_meaning(&case)?;
        for numerics in [Numerics::F32, Numerics::of(DType::F16)?] {
            let done = passes::run(&case.graph, &numerics, &TAKES_ALL, Stop::NEVER, &mut |_, _| Ok(()))?;
            let convs = of_numbers(&done.graph);
            let (last, before) = convs.split_last().expect("convolutions");
            assert!(before.len() == joined.len() && before.iter().all(|op| op.moments), "{}\n{}", case.name, done.graph);
            let found = (last.sources, last.norm.as_ref().map(|norm| norm.moments), last.moments);
            assert_eq!(found, (joined.len(), Some(joined.len()), false), "{}\n{}", case.name, done.graph);
        }
    }
    Ok(())
}

/// A convolution of a rounded x [2,4,4,8] and w [4,8,3,3].
struct Plain {
    case: Case,
    x: ValueId,
    w: ValueId,
}

impl Plain {
    fn new(name: &str) -> Self {
        let mut case = Case::new(name);
        let (x, w) = (case.input(&[2, 4, 4, 8]), case.state("w", &[4, 8, 3, 3]));
        Self { case, x, w }
    }

    fn conv(mut self, [x, w]: [ValueId; 2]) -> Case {
        let y = self.case.graph.conv2d(x, w, None, 1, [1; 4]).expect("conv2d");
        self.case.expect(y, 1e-5);
        self.case
    }

    fn fake(&mut self, value: ValueId, codes: Codes, axis: Option<usize>, zero: i8) -> ValueId {
        let channels = axis.map_or(1, |axis| self.case.graph.shape(value)[axis]);
        let scale = self.case.data(&[channels], &vec![0.01f32; channels]);
        let zero = match codes.dtype {
            DType::U8 => Tensor::from_slice(&[channels], &vec![100u8; channels]),
            _ => Tensor::from_slice(&[channels], &vec![zero; channels]),
        };
        let zero = self.case.graph.constant("zero", zero.expect("a tensor")).expect("a constant");
        self.case.op(FakeQuantize { codes, axis, scale_gradient: 1.0 }, &[value, scale, zero])
    }
}

#[test]
fn what_is_no_sum_of_whole_numbers_stays() -> Result<()> {
    let make = |name: &str, f: &dyn Fn(&mut Plain) -> [ValueId; 2]| {
        let mut plain = Plain::new(name);
        let operands = f(&mut plain);
        plain.conv(operands)
    };
    let (u8s, w8) = (Codes::U8, Codes::WEIGHTS);
    let cases = [
        (1, make("folded", &|p| [p.fake(p.x, u8s, None, 0), p.fake(p.w, w8, Some(0), 0)])),
        (0, make("x alone", &|p| [p.fake(p.x, u8s, None, 0), p.w])),
        (0, make("w alone", &|p| [p.x, p.fake(p.w, w8, Some(0), 0)])),
        (0, make("a scale for each channel of x", &|p| [p.fake(p.x, u8s, Some(3), 0), p.fake(p.w, w8, Some(0), 0)])),
        (0, make("one scale for w", &|p| [p.fake(p.x, u8s, None, 0), p.fake(p.w, w8, None, 0)])),
        (0, make("scales along the inputs of w", &|p| [p.fake(p.x, u8s, None, 0), p.fake(p.w, w8, Some(1), 0)])),
        (0, make("signed x", &|p| [p.fake(p.x, Codes::I8, None, 0), p.fake(p.w, w8, Some(0), 0)])),
        (0, make("-128 in w", &|p| [p.fake(p.x, u8s, None, 0), p.fake(p.w, Codes::I8, Some(0), 0)])),
        (0, make("a zero point of w", &|p| [p.fake(p.x, u8s, None, 0), p.fake(p.w, w8, Some(0), 3)])),
    ];
    for (expected, case) in &cases {
        same_meaning(case)?;
        assert_eq!(folded(&case.graph)?.len(), *expected, "{}", case.name);
    }
    // The weights change between their rounding and the convolution.
    let mut plain = Plain::new("overwritten");
    let operands = [plain.fake(plain.x, u8s, None, 0), plain.fake(plain.w, w8, Some(0), 0)];
    let next = plain.case.input(&[4, 8, 3, 3]);
    plain.case.op(Assign, &[plain.w, next]);
    let case = plain.conv(operands);
    same_meaning(&case)?;
    assert_eq!(folded(&case.graph)?.len(), 0);
    // More products than 32 bits are sure to hold.
    let mut case = Case::new("wide");
    let (x, w) = (case.input(&[1, 1, 1, 66_001]), case.state("w", &[1, 66_001, 1, 1]));
    let [x, w] = rounded(&mut case, x, w, u8s);
    let y = case.graph.conv2d(x, w, None, 1, [0; 4])?;
    case.expect(y, 1e-5);
    assert_eq!(folded(&case.graph)?.len(), 0);
    Ok(())
}

/// Whoever else reads the rounded x or the norm still has it.
#[test]
fn what_others_read_is_there_for_them() -> Result<()> {
    let (mut case, y) = quantized_graph("read twice".into(), &SHAPES[0], Codes::U8, true, EPILOGUES[0]);
    case.expect(y, 1e-5);
    let of = |case: &Case, f: fn(&Op) -> bool| case.graph.nodes().iter().find(|node| f(&node.op)).map(|node| node.outputs[0]).expect("a node");
    let (norm, fake) = (of(&case, |op| matches!(op, Op::GroupNorm(_))), of(&case, |op| matches!(op, Op::FakeQuantize(_))));
    for value in [norm, fake] {
        let other = case.graph.affine(value, 2.0, 0.0)?;
        case.expect(other, 1e-5);
    }
    same_meaning(&case)?;
    assert_eq!(folded(&case.graph)?.len(), 1);
    Ok(())
}

/// A norm that several convolutions read is computed once for them: each of them would do it again. Gradients do not count, which are no part of what samplers do.
#[test]
fn a_norm_of_several_convolutions_is_computed_once() -> Result<()> {
    for (readers, trained) in [(1, false), (1, true), (3, false), (3, true)] {
        let mut case = Case::new(format!("{readers} readers, trained: {trained}"));
        let (x, gamma, beta) = (case.input(&[2, 4, 4, 8]), case.state("gamma", &[8]), case.state("beta", &[8]));
        let normed = case.graph.group_norm(x, gamma, beta, 2, 1e-5, false)?;
        let mut sum = None;
        for reader in 0..readers {
            let w = case.state(&format!("w{reader}"), &[4, 8, 1, 1]);
            let [rounded_x, rounded_w] = rounded(&mut case, normed, w, Codes::U8);
            let y = case.graph.conv2d(rounded_x, rounded_w, None, 1, [0; 4])?;
            sum = Some(sum.map_or(Ok(y), |sum| case.graph.mul(sum, y))?);
        }
        let sum = sum.expect("a reader");
        case.expect(sum, 1e-5);
        if trained {
            let (loss, w) = (case.graph.mean(sum)?, case.state("w0", &[4, 8, 1, 1]));
            for gradient in gradients(&mut case.graph, loss, &[w, gamma], &[])? {
                case.expect(gradient, 1e-4);
            }
        }
        same_meaning(&case)?;
        let convs = folded(&case.graph)?;
        assert_eq!((convs.len(), convs.iter().filter(|conv| conv.norm.is_some()).count()), (readers, usize::from(readers == 1)), "{}", case.name);
    }
    Ok(())
}

/// Of a plan in half precision the weights are rounded as they are: in a narrower type they would be other numbers than those that are saved.
#[test]
fn weights_are_not_narrowed_before_they_are_rounded() -> Result<()> {
    let mut plain = Plain::new("narrow");
    let (x, w) = (plain.x, plain.w);
    let operands = [plain.fake(x, Codes::U8, None, 0), plain.fake(w, Codes::WEIGHTS, Some(0), 0)];
    let mut case = plain.conv(operands);
    let loss = case.graph.mean(case.expect[0].0)?;
    for gradient in gradients(&mut case.graph, loss, &[x, w], &[])? {
        case.graph.tap(gradient);
    }
    for dtype in [DType::F16, DType::Bf16] {
        for answers in [TAKES_ALL, Answers { accepts: false, packs: true }] {
            let done = passes::run(&case.graph, &Numerics::of(dtype)?, &answers, Stop::NEVER, &mut |_, _| Ok(()))?;
            let mut found = [0; 2];
            for node in done.graph.nodes() {
                let codes = match &node.op {
                    Op::FakeQuantize(op) => op.codes,
                    Op::FakeQuantizeGrad(op) => op.codes,
                    Op::Quantize(op) => op.codes,
                    _ => continue,
                };
                let weights = codes.dtype == DType::I8;
                found[usize::from(weights)] += 1;
                assert_eq!(done.graph.value(node.inputs[0]).ty.dtype, if weights { DType::F32 } else { dtype }, "{dtype:?} {:?}", node.op);
            }
            assert!(found.iter().all(|count| *count > 0), "{found:?}\n{}", done.graph);
        }
    }
    Ok(())
}

/// What is said of a convolution that stays one of floats is so behind packed weights too.
#[test]
fn the_reason_is_the_right_one() -> Result<()> {
    let reason = |name: &str, answers: &Answers, x: Codes, by_output: bool| -> Result<String> {
        let mut plain = Plain::new(name);
        let axis = by_output.then_some(0);
        let operands = [plain.fake(plain.x, x, None, 0), plain.fake(plain.w, Codes::WEIGHTS, axis, 0)];
        let case = plain.conv(operands);
        let done = passes::run(&case.graph, &Numerics::F32, answers, Stop::NEVER, &mut |_, _| Ok(()))?;
        let notes = passes::why_not(&done.graph)?;
        assert_eq!(notes.len(), 1, "{name}: {notes:?}");
        Ok(notes.concat())
    };
    for packs in [false, true] {
        let answers = Answers { accepts: false, packs };
        for (name, x, by_output, expected) in [
            ("refused", Codes::U8, true, "the backend does not take it"),
            ("signed", Codes::I8, true, "its numbers are not U8"),
            ("one scale", Codes::U8, false, "its numbers are not U8"),
        ] {
            let found = reason(name, &answers, x, by_output)?;
            assert!(found.contains(expected), "{name}, packed: {packs}: {found}");
        }
    }
    Ok(())
}

/// Bytes of a run on a backend, whose plan has this many convolutions of whole numbers.
fn bytes(backend: &dyn Backend, case: &Case) -> Result<Vec<u8>> {
    let mut exe = backend.compile(&case.graph)?;
    let convs = exe.plan().graph().nodes().iter().filter(|n| matches!(&n.op, Op::FusedConv2d(op) if op.quantized.is_some() && op.packed)).count();
    assert_eq!(convs, 1, "{}:\n{}", case.name, exe.plan().graph());
    load(&mut *exe, &case.graph, &case.given)?;
    exe.run_all()?;
    Ok(exe.read_bytes(case.expect[0].0)?.to_vec())
}

#[test]
fn bits_are_the_same_on_every_instruction_set_and_for_any_thread_count() -> Result<()> {
    let backends: Vec<_> = Set::all().flat_map(|set| (1..=3).map(move |threads| (set, threads))).collect();
    let backends = backends.into_iter().map(|(set, threads)| Ok((set, threads, CpuBackend::with_set(threads, set)?))).collect::<Result<Vec<_>>>()?;
    // A machine with AVX2 for floats has it for bytes.
    assert!(Isa::detect() == Isa::Portable || backends.iter().any(|(set, ..)| *set != Set::Portable), "{:?}", Set::all().collect::<Vec<_>>());
    for (i, shape) in SHAPES.iter().enumerate() {
        for normed in [false, true] {
            let epilogue = EPILOGUES[i % EPILOGUES.len()];
            let (mut case, y) = quantized_graph(format!("bits {normed} {epilogue:?} {shape:?}"), shape, ROUNDINGS[i / 2 % 2], normed, epilogue);
            case.expect(y, 0.0);
            let expected = bytes(&backends[0].2, &case)?;
            for (set, threads, backend) in &backends[1..] {
                assert!(bytes(backend, &case)? == expected, "{}: {set:?} with {threads} threads", case.name);
            }
        }
    }
    Ok(())
}

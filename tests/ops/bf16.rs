//! Products of bf16 on a CPU, on every kernel that this machine has: its tiles, if it has them, and their definition.

use crate::common::conv_cases::{EPILOGUES, Epilogue, ROUNDINGS, SHAPES, Shape, rounded};
use crate::common::{Case, check, compare, load, read};
use fewstep::backend::cpu::CpuBackend;
use fewstep::backend::cpu::kernels::bf16::{DEFINITION, Kernel};
use fewstep::backend::{Backend, Executable};
use fewstep::cancel::Stop;
use fewstep::graph::autodiff::gradients;
use fewstep::graph::ops::*;
use fewstep::graph::{Numerics, Op, Plan, TensorType, ValueId};
use fewstep::tensor::DType;
use fewstep::{Result, Status};

/// Sums in f32 of the factors that the reference rounds as well.
const TOLERANCE: f64 = 1e-5;
/// Behind a norm a factor may be rounded the other way, 2^-8 of it.
const NORMED: f64 = 6e-3;

/// Every kernel, for one to three threads: groups that must give equal bytes. All kernels give the same ones.
fn backends() -> Vec<CpuBackend> {
    Kernel::all().flat_map(|kernel| (1..=3).map(move |threads| CpuBackend::with_tiles(threads, kernel).expect("threads"))).collect()
}

fn run_table(cases: &[Case]) -> Result<()> {
    let backends = backends();
    for case in cases {
        let reference = case.reference()?;
        let mut first = None;
        for backend in &backends {
            let bytes = check(backend, case, &reference).unwrap_or_else(|e| panic!("{e}"));
            assert!(first.as_ref().is_none_or(|first| *first == bytes), "{}: bytes depend on threads or tiles", case.name);
            first = Some(bytes);
        }
    }
    Ok(())
}

/// What stands around a convolution of rounded factors.
fn fused(shape: &Shape, sources: &[usize], normed: Option<bool>, (addend, residual, scaled): Epilogue) -> Case {
    let &([n, h, w, c], o, kernel, stride, pad) = shape;
    let mut case = Case::new(format!("{shape:?} {sources:?} {normed:?} {addend} {residual} {scaled}"));
    let geometry = ConvGeometry { kernel, stride, pad };
    let [p, q] = geometry.output(h, w).expect("geometry");
    let mut operands: Vec<ValueId> = sources.iter().map(|own| case.input(&[n, h, w, *own])).collect();
    operands.push(case.state("w", &[o, c, kernel[0], kernel[1]]));
    operands.push(case.state("b", &[o]));
    operands.extend(addend.then(|| case.input(&[n, o])));
    operands.extend(residual.then(|| case.input(&[n, p, q, o])));
    if normed.is_some() {
        operands.extend([case.state("gamma", &[c]), case.state("beta", &[c])]);
    }
    let norm = normed.map(|silu| NormByMoments { norm: GroupNorm::new(1, 1e-5, silu), moments: 0 });
    let scale = if scaled { 0.75 } else { 1.0 };
    let op = FusedConv2d { sources: sources.len(), addend, residual, scale, bf16: true, norm, ..Conv2d::new(geometry, o, true).into() };
    let y = case.op(op, &operands);
    case.expect(y, if normed.is_some() { NORMED } else { TOLERANCE });
    case
}

#[test]
fn convolutions_are_what_the_op_means() -> Result<()> {
    let mut cases = vec![];
    for (i, shape) in SHAPES.iter().enumerate() {
        let c = shape.0[3];
        cases.push(fused(shape, &[c], None, EPILOGUES[i % EPILOGUES.len()]));
        cases.push(fused(shape, &[c], Some(i % 2 == 0), EPILOGUES[(i + 3) % EPILOGUES.len()]));
        if c > 1 {
            cases.push(fused(shape, &[c / 2, c - c / 2], None, (false, false, false)));
            cases.push(fused(shape, &[1, c - 1], Some(i % 2 == 1), (false, true, false)));
        }
    }
    run_table(&cases)
}

#[test]
fn gradients_are_what_the_ops_mean() -> Result<()> {
    let mut cases = vec![];
    for (i, shape) in SHAPES.iter().enumerate() {
        let &(x, o, kernel, stride, pad) = shape;
        let geometry = ConvGeometry { kernel, stride, pad };
        let [p, q] = geometry.output(x[1], x[2])?;
        let mut case = Case::new(format!("gradients {shape:?}"));
        let (xs, dy) = (case.input(&x), case.input(&[x[0], p, q, o]));
        let dw = case.op(Conv2dWeightGrad { geometry, bf16: true }, &[xs, dy]);
        case.expect(dw, TOLERANCE);
        let [top, left, bottom, right] = pad;
        if stride == 1 && top.max(bottom) < kernel[0] && left.max(right) < kernel[1] {
            let wshape = [o, x[3], kernel[0], kernel[1]];
            let w = if i % 2 == 0 { case.state("w", &wshape) } else { case.input(&wshape) };
            let dx = case.op(Conv2dInputGrad { geometry, input: x.to_vec(), packed: false, bf16: true }, &[dy, w]);
            case.expect(dx, TOLERANCE);
        }
        cases.push(case);
    }
    assert!(cases.iter().filter(|case| case.expect.len() == 2).count() >= 10);
    run_table(&cases)
}

fn compile(backend: &dyn Backend, case: &Case, dtype: DType) -> Result<Box<dyn Executable>> {
    let mut exe = backend.compile_until(&case.graph, &Numerics::of(dtype)?, Stop::NEVER)?;
    load(&mut *exe, &case.graph, &case.given)?;
    Ok(exe)
}

fn count(plan: &Plan, is: impl Fn(&Op) -> bool) -> usize {
    plan.graph().nodes().iter().filter(|node| is(&node.op)).count()
}

fn conv(case: &mut Case, name: &str, x: ValueId, o: usize) -> ValueId {
    let c = case.graph.shape(x)[3];
    let (w, b) = (case.state(name, &[o, c, 3, 3]), case.state(&format!("{name}.bias"), &[o]));
    case.graph.conv2d(x, w, Some(b), 1, [1; 4]).expect("a convolution")
}

fn norm(case: &mut Case, name: &str, x: ValueId) -> ValueId {
    let c = case.graph.shape(x)[3];
    let (gamma, beta) = (case.state(&format!("{name}.gamma"), &[c]), case.state(&format!("{name}.beta"), &[c]));
    case.graph.group_norm(x, gamma, beta, 4, 1e-5, true).expect("a norm")
}

/// A residual block with everything that is treated by itself: a first and a last convolution of few channels, norms that one and that two convolutions read, a
/// joined x, a linear layer of few rows and one of many.
fn network(learning: bool) -> (Case, Vec<ValueId>) {
    let mut case = Case::new("network");
    let image = case.input(&[2, 8, 8, 3]);
    let x = conv(&mut case, "in", image, 32);
    let h = norm(&mut case, "norm1", x);
    let h = conv(&mut case, "conv1", h, 32);
    let (time, w) = (case.input(&[2, 32]), case.state("time", &[32, 32]));
    let time = case.graph.linear(time, w, None).expect("a linear layer");
    let time = case.graph.reshape(time, &[2, 1, 1, 32]).expect("a view");
    let h = case.graph.add(h, time).expect("a sum");
    let h = norm(&mut case, "norm2", h);
    let (left, right) = (conv(&mut case, "conv2", h, 32), conv(&mut case, "conv3", h, 32));
    let joined = case.op(Concat, &[left, right]);
    let h = norm(&mut case, "norm3", joined);
    let h = conv(&mut case, "conv4", h, 32);
    let h = case.graph.add(h, x).expect("a sum");
    let tokens = case.graph.reshape(h, &[2, 64, 32]).expect("a view");
    let w = case.state("token", &[32, 32]);
    let tokens = case.graph.linear(tokens, w, None).expect("a linear layer");
    let h = case.graph.reshape(tokens, &[2, 8, 8, 32]).expect("a view");
    let y = conv(&mut case, "out", h, 3);
    let mut found = vec![y];
    if learning {
        let square = case.graph.unary(UnaryKind::Square, y).expect("a square");
        let loss = case.graph.mean(square).expect("a mean");
        let names = ["in", "conv1", "conv2", "conv4", "token", "norm1.gamma", "time", "out"];
        let parameters: Vec<ValueId> = names.iter().map(|name| case.graph.storages().iter().find(|s| s.name == *name).expect("a state").first).collect();
        found.push(loss);
        found.extend(gradients(&mut case.graph, loss, &parameters, &[]).expect("gradients"));
    }
    found.iter().for_each(|value| case.graph.tap(*value));
    (case, found)
}

/// Convolutions that fill tiles are of bf16, with the norms that only they read, and all else of f32.
#[test]
fn plans_round_what_large_products_multiply() -> Result<()> {
    let (case, found) = network(false);
    let reference = case.reference()?;
    for backend in backends() {
        let mut exe = compile(&backend, &case, DType::Bf16)?;
        let plan = exe.plan();
        let convs = |f: &dyn Fn(&FusedConv2d) -> bool| count(plan, |op| matches!(op, Op::FusedConv2d(op) if f(op)));
        assert_eq!([convs(&|op| op.bf16), convs(&|op| !op.bf16)], [5, 3], "four convolutions and the tokens; the others\n{}", plan.graph());
        assert_eq!(convs(&|op| op.norm.is_some()), 2, "norms that one convolution reads\n{}", plan.graph());
        assert_eq!(convs(&|op| op.bf16 && op.norm.is_some() && op.sources == 2), 1, "{}", plan.graph());
        assert_eq!(count(plan, |op| matches!(op, Op::GroupNorm(_) | Op::FusedGroupNorm(_))), 1, "the norm that two read\n{}", plan.graph());
        let packed = plan.graph().nodes().iter().filter(|n| matches!(&n.op, Op::PackConv(op) if op.packed.ty.dtype == DType::Bf16)).count();
        assert_eq!(packed, 5);
        let narrow = |ty: &TensorType| ty.dtype == DType::Bf16;
        assert_eq!(plan.graph().values().iter().filter(|value| narrow(&value.ty)).count(), packed, "nothing but packed weights is of bf16");
        exe.run_all()?;
        // Five products in a row, each of factors that are 2^-9 off at most: some thousandths.
        compare("bf16", &read(&*exe, &case.graph, found[0])?, &reference[&found[0]], 2e-2).unwrap_or_else(|e| panic!("{e}"));
    }
    Ok(())
}

/// Where gradients read a norm's result it stands by itself; the gradients' products are of bf16 as well.
#[test]
fn gradients_of_a_plan_are_near() -> Result<()> {
    let (case, found) = network(true);
    let reference = case.reference()?;
    let mut first = None;
    for backend in backends() {
        let mut exe = compile(&backend, &case, DType::Bf16)?;
        let plan = exe.plan();
        let of = |f: &dyn Fn(&Op) -> bool| count(plan, f);
        assert_eq!(of(&|op| matches!(op, Op::FusedConv2d(op) if op.bf16)), 5, "{}", plan.graph());
        assert_eq!(of(&|op| matches!(op, Op::FusedConv2d(op) if op.norm.is_some())), 0, "{}", plan.graph());
        assert_eq!(of(&|op| matches!(op, Op::Conv2dInputGrad(op) if op.bf16)), 5, "{}", plan.graph());
        assert_eq!(of(&|op| matches!(op, Op::Conv2dWeightGrad(op) if op.bf16)), 4, "of those that are asked for\n{}", plan.graph());
        exe.run_all()?;
        let mut bytes = vec![];
        for value in &found {
            // What a factor's 2^-9 becomes on the way through a dozen products.
            compare(&case.graph.value(*value).name, &read(&*exe, &case.graph, *value)?, &reference[value], 4e-2).unwrap_or_else(|e| panic!("{e}"));
            bytes.push(exe.read_bytes(*value)?.to_vec());
        }
        assert!(first.as_ref().is_none_or(|first| *first == bytes), "bytes depend on threads or tiles");
        first = Some(bytes);
    }
    Ok(())
}

/// Layers of whole numbers stay what they are: their sums are exact. The gradients of both kinds of layers are products of floats.
#[test]
fn whole_numbers_are_not_rounded_again() -> Result<()> {
    let mut case = Case::new("whole numbers");
    let (image, w) = (case.input(&[2, 8, 8, 32]), case.state("w", &[32, 32, 3, 3]));
    let x = conv(&mut case, "first", image, 32);
    let [x, whole] = rounded(&mut case, x, w, ROUNDINGS[0]);
    let y = case.graph.conv2d(x, whole, None, 1, [1; 4])?;
    let square = case.graph.unary(UnaryKind::Square, y)?;
    let loss = case.graph.mean(square)?;
    let first = case.graph.storages().iter().find(|s| s.name == "first").expect("a state").first;
    for gradient in gradients(&mut case.graph, loss, &[first, w], &[])? {
        case.graph.tap(gradient);
    }
    let exe = compile(&CpuBackend::with_tiles(1, &DEFINITION)?, &case, DType::Bf16)?;
    let of = |f: &dyn Fn(&Op) -> bool| count(exe.plan(), f);
    assert_eq!(of(&|op| matches!(op, Op::FusedConv2d(op) if op.quantized.is_some() && !op.bf16)), 1, "{}", exe.plan().graph());
    assert_eq!(of(&|op| matches!(op, Op::FusedConv2d(op) if op.quantized.is_none() && op.bf16)), 1, "{}", exe.plan().graph());
    assert_eq!(of(&|op| matches!(op, Op::Conv2dInputGrad(op) if op.bf16)), 1, "{}", exe.plan().graph());
    assert_eq!(of(&|op| matches!(op, Op::Conv2dWeightGrad(op) if op.bf16)), 2, "{}", exe.plan().graph());
    Ok(())
}

/// f32 is what it was, with tiles or without.
#[test]
fn plans_of_f32_have_nothing_of_it() -> Result<()> {
    let (case, found) = network(true);
    let mut bytes = vec![];
    for backend in [CpuBackend::new(1)?, CpuBackend::with_tiles(2, &DEFINITION)?] {
        let mut exe = compile(&backend, &case, DType::F32)?;
        assert!(exe.plan().graph().values().iter().all(|value| value.ty.dtype != DType::Bf16), "{}", exe.plan().graph());
        exe.run_all()?;
        bytes.push(found.iter().map(|value| Ok(exe.read_bytes(*value)?.to_vec())).collect::<Result<Vec<_>>>()?);
    }
    assert!(bytes[0] == bytes[1]);
    Ok(())
}

/// Marks the child that [`what_a_cpu_cannot_do_is_refused`] starts.
const CHILD: &str = "FEWSTEP_TEST_FORBIDDEN";

#[test]
fn what_a_cpu_cannot_do_is_refused() -> Result<()> {
    let (case, _) = network(false);
    let refused = |backend: &CpuBackend, dtype: DType, needles: &[&str]| -> Result<()> {
        let error = compile(backend, &case, dtype).map(drop).expect_err("no such plan");
        assert!(error.status == Status::Unsupported && needles.iter().all(|needle| error.message.contains(needle)), "{error}");
        Ok(())
    };
    let plain = CpuBackend::new(1)?;
    if std::env::var_os(CHILD).is_some() {
        return refused(&plain, DType::Bf16, &["AMX", "FEWSTEP_ISA=avx2", "use f32"]);
    }
    for backend in [&plain, &CpuBackend::with_tiles(1, &DEFINITION)?] {
        refused(backend, DType::F16, &["F16", "use f32", "bf16", "CUDA"])?;
    }
    match Kernel::detect() {
        Ok(_) => drop(compile(&plain, &case, DType::Bf16)?),
        Err(_) => refused(&plain, DType::Bf16, &["AMX", "use f32"])?,
    }
    let name = concat!(module_path!(), "::what_a_cpu_cannot_do_is_refused").split_once("::").expect("a module").1;
    let program = std::env::current_exe().expect("this program");
    let child = std::process::Command::new(program).args(["--exact", name]).env("FEWSTEP_ISA", "avx2").env(CHILD, "1").output().expect("a child");
    let out = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && out.contains("1 passed"), "{out}");
    Ok(())
}

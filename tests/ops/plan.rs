//! Plans: memory, splitting, hoisting, fusion, packing, dead code, taps, and the cost of planning.

use crate::common::{Answers, Case, TAKES_ALL, check, conv_cases, load, models, read};
use fewstep::backend::cpu::CpuBackend;
use fewstep::backend::{Backend, Executable};
use fewstep::cancel::Stop;
use fewstep::graph::ops::*;
use fewstep::graph::reference::{evaluate, to_array};
use fewstep::graph::{Numerics, Op, Plan, TensorType, ValueId};
use fewstep::{Result, Status};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// As the CPU's passes leave a program, packed weights of an invented size.
const PACKS: Answers = Answers { accepts: false, packs: true };

pub fn plan_ops(plan: &Plan) -> Vec<&Op> {
    plan.order().iter().map(|n| &plan.graph().nodes()[n.0 as usize].op).collect()
}

pub fn run_ops(plan: &Plan) -> Vec<&Op> {
    plan_ops(plan)[plan.prepared()..].to_vec()
}

pub fn ready(case: &Case) -> Result<Box<dyn Executable>> {
    let mut exe = CpuBackend::new(2)?.compile(&case.graph)?;
    load(&mut *exe, &case.graph, &case.given)?;
    Ok(exe)
}

pub fn verified(case: &Case) -> Result<()> {
    check(&CpuBackend::new(2)?, case, &case.reference()?).map(|_| ()).unwrap_or_else(|e| panic!("{e}"));
    Ok(())
}

/// Every graph of the zoo that runs without the norm and attention kernels.
fn zoo() -> Result<Vec<Case>> {
    Ok(vec![models::chain(1)?, models::chain(12)?, models::u_shape(false)?, models::training(false)?, models::sampling(3, false)?])
}

#[test]
fn the_arena_is_near_the_lower_bound() -> Result<()> {
    let mut cases = zoo()?;
    cases.extend([models::u_shape(true)?, models::training(true)?, models::sampling(4, true)?]);
    for case in cases {
        // No kernels needed: an invented workspace stands for theirs.
        let mut plan = Plan::new(&case.graph, &Numerics::F32, &PACKS, Stop::NEVER)?;
        let workspace: Vec<usize> = (0..plan.order().len()).map(|i| if i % 3 == 0 { 5000 * (i % 5) } else { 0 }).collect();
        plan.lay_out(&workspace, Stop::NEVER)?;
        let (arena, peak) = (plan.arena_bytes(), plan.peak_live_bytes());
        assert!(arena >= peak && arena * 10 <= peak * 11, "{}: arena {arena}, peak {peak}", case.name);
    }
    Ok(())
}

#[test]
fn zoo_matches_the_reference() -> Result<()> {
    zoo()?.iter().try_for_each(verified)
}

#[test]
fn zoo_with_norms_matches_the_reference() -> Result<()> {
    [models::u_shape(true)?, models::training(true)?, models::sampling(2, true)?].iter().try_for_each(verified)
}

#[test]
fn any_split_gives_the_same_bytes() -> Result<()> {
    for case in zoo()? {
        let bytes = |exe: &dyn Executable| -> Result<Vec<Vec<u8>>> { case.expect.iter().map(|(v, _)| Ok(exe.read_bytes(*v)?.to_vec())).collect() };
        let mut whole = ready(&case)?;
        whole.run_all()?;
        let expected = bytes(&*whole)?;
        for stride in [1, 2, 7] {
            let mut exe = ready(&case)?;
            let (mut at, end) = (exe.plan().prepared(), exe.plan().order().len());
            while at < end {
                let next = (at + stride).min(end);
                exe.run(at..next)?;
                at = next;
            }
            assert_eq!(bytes(&*exe)?, expected, "{} by {stride}", case.name);
        }
        let mut exe = ready(&case)?;
        let segments = exe.plan().segments().to_vec();
        assert_eq!(segments.len(), case.graph.segments().len());
        assert_eq!(segments.last().map(|s| s.end), Some(exe.plan().order().len()));
        let mut at = exe.plan().prepared();
        for segment in segments {
            assert_eq!(segment.start, at);
            at = segment.end;
            exe.run(segment)?;
        }
        assert_eq!(bytes(&*exe)?, expected, "{} by segments", case.name);
    }
    Ok(())
}

#[test]
fn a_second_run_starts_clean() -> Result<()> {
    let case = models::u_shape(false)?;
    let mut exe = ready(&case)?;
    exe.run_all()?;
    let first = exe.read_bytes(case.expect[0].0)?.to_vec();
    exe.run_all()?;
    assert_eq!(exe.read_bytes(case.expect[0].0)?[..], first);
    Ok(())
}

#[test]
fn frozen_work_is_hoisted() -> Result<()> {
    let case = models::sampling(3, false)?;
    let exe = ready(&case)?;
    let plan = exe.plan();
    let (before, after) = plan_ops(plan).into_iter().partition::<Vec<_>, _>(|op| matches!(op, Op::PackConv(_) | Op::TimestepEmbedding(_)));
    assert!(before.len() > 20 && !after.is_empty());
    assert!(run_ops(plan).iter().all(|op| !matches!(op, Op::PackConv(_) | Op::TimestepEmbedding(_))), "hoisted nodes run again");
    // Times are constant here, so the time path is too: only convolutions of activations are left.
    let convs = run_ops(plan).iter().filter(|op| matches!(op, Op::FusedConv2d(_))).count();
    let all = case.graph.nodes().iter().filter(|n| matches!(n.op, Op::Conv2d(_))).count();
    let time = case.graph.nodes().iter().filter(|n| matches!(&n.op, Op::Conv2d(_)) && case.graph.shape(n.outputs[0])[1..3] == [1, 1]).count();
    assert_eq!(convs, all - time);
    // A trained graph hoists nothing that depends on what it writes.
    let training = models::training(false)?;
    let exe = ready(&training)?;
    assert!(plan_ops(exe.plan())[..exe.plan().prepared()].iter().all(|op| !matches!(op, Op::PackConv(_))));
    Ok(())
}

#[test]
fn rebinding_and_preparing_again_takes_effect() -> Result<()> {
    let mut case = Case::new("rebind");
    let (x, w) = (case.input(&[1, 4, 4, 3]), case.state("w", &[5, 3, 3, 3]));
    let y = case.graph.conv2d(x, w, None, 1, [1; 4])?;
    case.expect(y, 1e-5);
    let mut exe = ready(&case)?;
    exe.run_all()?;
    let other = std::sync::Arc::new(fewstep::tensor::Tensor::from_slice(&[5, 3, 3, 3], &[0.25f32; 135])?);
    case.given.insert(w, other);
    load(&mut *exe, &case.graph, &case.given)?;
    exe.run_all()?;
    let got = read(&*exe, &case.graph, y)?;
    crate::common::compare("rebound", &got, &case.reference()?[&y], 1e-5).unwrap_or_else(|e| panic!("{e}"));
    Ok(())
}

#[test]
fn weights_are_packed_once() -> Result<()> {
    let mut case = Case::new("pack once");
    let (w, k) = (case.state("w", &[6, 6]), case.state("k", &[6, 6, 3, 3]));
    let mut x = case.input(&[2, 3, 3, 6]);
    for _ in 0..3 {
        x = case.graph.linear(x, w, None)?; // its weights are a new view each time
        x = case.graph.conv2d(x, k, None, 1, [1; 4])?;
        x = case.graph.affine(x, 0.05, 0.0)?;
    }
    case.expect(x, 2e-5);
    let exe = ready(&case)?;
    assert_eq!(plan_ops(exe.plan()).iter().filter(|op| matches!(op, Op::PackConv(_))).count(), 2);
    verified(&case)?;
    // Each version is packed anew.
    let mut case = Case::new("pack versions");
    let (x, w, next) = (case.input(&[2, 1, 1, 6]), case.state("w", &[6, 6]), case.input(&[6, 6]));
    let a = case.graph.linear(x, w, None)?;
    let w = case.op(Assign, &[w, next]);
    let b = case.graph.linear(x, w, None)?;
    case.expect(a, 1e-5);
    case.expect(b, 1e-5);
    verified(&case)
}

#[test]
fn dead_code_goes_and_updates_stay() -> Result<()> {
    let mut case = Case::new("dead");
    let x = case.input(&[3, 4]);
    let unused_input = case.input(&[2]);
    let unused = case.graph.unary(UnaryKind::Silu, x)?;
    let unused = case.graph.mul(unused, x)?;
    let slot = case.state("slot", &[3, 4]);
    let doubled = case.graph.affine(x, 2.0, 0.0)?;
    let new = case.op(Assign, &[slot, doubled]);
    case.expect(new, 0.0);
    let mut exe = ready(&case)?; // writes the unused input too
    exe.write_bytes(unused_input, &[0; 8])?;
    assert_eq!(run_ops(exe.plan()).len(), 2);
    assert!(exe.read_bytes(unused).is_err());
    verified(&case)
}

#[test]
fn taps_are_readable_whatever_they_are() -> Result<()> {
    let mut case = models::u_shape(false)?;
    let all: Vec<ValueId> = case.graph.nodes().iter().flat_map(|n| n.outputs.clone()).collect();
    let given: Vec<ValueId> = case.given.keys().copied().collect();
    let constant = case.graph.constant("table", fewstep::tensor::Tensor::from_slice(&[2], &[1f32, 2.0])?)?;
    for v in all {
        case.expect(v, 2e-4);
    }
    for v in given.into_iter().chain([constant]) {
        case.expect(v, 0.0);
    }
    verified(&case)?;
    // What is not tapped says so.
    let case = models::chain(2)?;
    let mut exe = ready(&case)?;
    exe.run_all()?;
    let inner = case.graph.nodes()[1].outputs[0];
    let foreign = ValueId(1_000_000);
    assert!(exe.read_bytes(foreign).is_err());
    // It may have been fused away or lie in the arena; either way the bytes must not be taken for its own.
    assert!(exe.read_bytes(inner).is_err(), "an untapped value was read");
    Ok(())
}

#[test]
fn segments_are_named_and_empty_ones_are_dropped() -> Result<()> {
    let mut case = Case::new("segments");
    case.graph.begin_segment("first");
    case.graph.begin_segment("renamed");
    let x = case.input(&[3]);
    let y = case.graph.affine(x, 2.0, 0.0)?;
    case.graph.begin_segment("second");
    let z = case.graph.affine(y, 2.0, 1.0)?;
    case.expect(z, 1e-6);
    assert_eq!(case.graph.segments(), ["renamed", "second"]);
    let exe = ready(&case)?;
    assert_eq!(exe.plan().segments(), [0..1, 1..2]);
    assert_eq!([exe.plan().segment("renamed")?, exe.plan().segment("second")?], [0..1, 1..2]);
    let error = exe.plan().segment("first").unwrap_err();
    assert!(error.status == Status::NotFound && error.message.contains("'first'") && error.message.contains("renamed, second"), "{error}");
    Ok(())
}

#[test]
fn sizes_that_overflow_are_refused() -> Result<()> {
    let mut case = Case::new("huge");
    let error = case.graph.input("x", TensorType::f32(&[1 << 40, 1 << 40])).expect_err("too large");
    assert_eq!(error.status, Status::Shape);
    // Each fits, the sum does not.
    let mut ends = vec![];
    for i in 0..12 {
        let x = case.graph.input(format!("x{i}"), TensorType::f32(&[1 << 59]))?;
        ends.push(case.graph.unary(UnaryKind::Silu, x)?);
    }
    ends.iter().for_each(|e| case.graph.tap(*e));
    let mut plan = Plan::new(&case.graph, &Numerics::F32, &Answers { packs: false, ..PACKS }, Stop::NEVER)?;
    let workspace = vec![0; plan.order().len()];
    assert_eq!(plan.lay_out(&workspace, Stop::NEVER).expect_err("too large").status, Status::OutOfMemory);
    Ok(())
}

/// How a pass must change a case.
enum Change {
    NormsGo,
    NormsTakeMoments,
    ProductsMerge,
}

/// Both graphs in f64: the passes change the program, not its meaning.
#[test]
fn absorbed_norms_and_merged_products_mean_the_same() -> Result<()> {
    let tables =
        [(conv_cases::normalised(), Change::NormsGo), (conv_cases::measured(), Change::NormsTakeMoments), (conv_cases::merged(), Change::ProductsMerge)];
    for (cases, change) in tables {
        for case in cases {
            let plan = Plan::new(&case.graph, &Numerics::F32, &TAKES_ALL, Stop::NEVER)?;
            let ops = plan_ops(&plan);
            let changed = match change {
                Change::NormsGo => !ops.iter().any(|op| matches!(op, Op::GroupNorm(_) | Op::FusedGroupNorm(_))),
                Change::NormsTakeMoments => ops.iter().any(|op| matches!(op, Op::FusedGroupNorm(op) if op.moments > 0)),
                Change::ProductsMerge => ops.iter().any(|op| matches!(op, Op::FusedConv2d(op) if !op.parts.is_empty())),
            };
            assert!(changed, "{}", case.name);
            let mut given = HashMap::new();
            for (id, tensor) in &case.given {
                given.insert(plan.resolve(*id)?, to_array(tensor)?);
            }
            let (expected, found) = (case.reference()?, evaluate(plan.graph(), &given)?);
            for (value, _) in &case.expect {
                let (a, b) = (&expected[value], &found[&plan.resolve(*value)?]);
                // f64 in another order of sums; variances of near-constant groups magnify it.
                let far = a.iter().zip(b).map(|(a, b)| (a - b).abs() / (1.0 + a.abs())).fold(0.0, f64::max);
                assert!(far < 1e-9, "{}: differs by {far}", case.name);
            }
        }
    }
    Ok(())
}

/// Twenty times the steps are twenty times the work and the same arena: a block is compared with its contemporaries alone.
#[test]
fn the_layout_is_linear() -> Result<()> {
    let lay_out = |steps: usize| -> Result<(usize, usize, usize)> {
        let case = models::sampling(steps, true)?;
        let mut plan = Plan::new(&case.graph, &Numerics::F32, &PACKS, Stop::NEVER)?;
        let workspace = vec![4096; plan.order().len()];
        plan.lay_out(&workspace, Stop::NEVER)?;
        Ok((plan.order().len(), plan.layout_comparisons(), plan.arena_bytes()))
    };
    let [short, long] = [lay_out(50)?, lay_out(1000)?];
    assert!(long.0 > 19 * short.0, "{} and {} nodes", short.0, long.0);
    let each = [short, long].map(|(nodes, comparisons, _)| comparisons as f64 / nodes as f64);
    // The two ends of a run have fewer neighbours than its middle.
    assert!(each[1] < 1.02 * each[0], "{} comparisons a node of 50 steps, {} of 1,000", each[0], each[1]);
    assert_eq!(short.2, long.2, "the arenas");
    Ok(())
}

/// Nodes that are alike share their kernel with its tables.
#[test]
fn more_steps_need_no_more_tables() -> Result<()> {
    // What the program has beside the plan, whose nodes and names are each step's own: kernels with their tables, and a slot an operand.
    let tables = |steps: usize| -> Result<usize> {
        let exe = CpuBackend::new(1)?.compile(&models::sampling(steps, true)?.graph)?;
        Ok(exe.memory().program - exe.plan().program_bytes())
    };
    let (one, two, many) = (tables(1)?, tables(2)?, tables(40)?);
    assert!(two - one < one / 3, "{one} bytes for a step, {two} for two");
    let each = (many - two) / 38;
    assert!(each < (two - one) * 11 / 10, "{} bytes for the second step, {each} for each of 38 more", two - one);
    Ok(())
}

/// Repeated numbers have no memory before the plan's own is taken, and equal ones share it.
#[test]
fn repeated_numbers_have_the_plan_s_memory() -> Result<()> {
    let mut case = Case::new("fills");
    let x = case.input(&[5, 100]);
    let numbers = [2.5f32, 2.5, -1.0, 0.0];
    let mut sum = x;
    for (i, number) in numbers.into_iter().enumerate() {
        let fill = case.graph.constant_fill(format!("fill {i}"), &[5, 100], number)?;
        sum = case.graph.add(sum, fill)?;
    }
    case.expect(sum, 1e-6);
    verified(&case)?;
    let exe = ready(&case)?;
    assert_eq!(case.graph.constant_bytes(), 0);
    assert_eq!(exe.memory().constants, 0);
    assert_eq!(exe.memory().persistent, 4 * 2048, "the input, and three numbers in 2,000 bytes of 64 each");
    // A whole terabyte costs nothing until it is asked for.
    let mut huge = Case::new("huge fill");
    huge.graph.constant_fill("fill", &[1 << 38], 1.0)?;
    Ok(())
}

/// Stopped anywhere, also in the middle of a node, a run goes on to the same bytes.
#[test]
fn a_run_that_is_stopped_goes_on() -> Result<()> {
    let case = models::training(true)?;
    let mut whole = ready(&case)?;
    whole.run_all()?;
    let mut stopped = ready(&case)?;
    let (start, end) = (stopped.plan().prepared(), stopped.plan().order().len());
    let flag = AtomicBool::new(true);
    assert_eq!(stopped.run_until(start..end, Stop::from(&flag))?, start, "nothing runs");
    let over = AtomicBool::new(false);
    let stops = std::thread::scope(|scope| -> Result<usize> {
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                flag.store(true, Ordering::Release);
                std::thread::yield_now();
                flag.store(false, Ordering::Release);
                std::thread::sleep(std::time::Duration::from_micros(20));
            }
        });
        let (mut at, mut stops) = (start, 0);
        let done = loop {
            match stopped.run_until(at..end, Stop::from(&flag)) {
                Ok(next) if next < end => (at, stops) = (next, stops + 1),
                done => break done,
            }
        };
        over.store(true, Ordering::Release);
        done.map(|_| stops)
    })?;
    for storage in case.graph.storages() {
        assert_eq!(whole.storage_bytes(&storage.name)?[..], stopped.storage_bytes(&storage.name)?[..], "'{}' after {stops} stops", storage.name);
    }
    Ok(())
}

#[test]
fn planning_and_preparing_stop() -> Result<()> {
    let case = models::training(true)?;
    let (backend, flag) = (CpuBackend::new(2)?, AtomicBool::new(true));
    let stop = Stop::from(&flag);
    assert_eq!(backend.compile_until(&case.graph, &Numerics::F32, stop).err().map(|e| e.status), Some(Status::Cancelled));
    let mut exe = ready(&case)?;
    assert_eq!(exe.prepare_until(stop).expect_err("stopped").status, Status::Cancelled);
    assert_eq!(exe.run_all().expect_err("half prepared").status, Status::State);
    exe.prepare()?;
    exe.run_all()
}

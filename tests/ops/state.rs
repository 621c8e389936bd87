//! Versions of states: order is checked, updates happen in place.

use crate::common::{Case, load, read};
use fewstep::backend::Backend;
use fewstep::backend::cpu::CpuBackend;
use fewstep::graph::ops::*;
use fewstep::graph::{Graph, TensorType, ValueId};
use fewstep::{Result, Status};

fn adamw(parameters: usize) -> AdamW {
    AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, parameters }
}

/// p, m, v and a gradient; returns the head operands too.
fn training_states(case: &mut Case, scale: f32) -> [ValueId; 7] {
    let (lr, step, scale) = (case.data(&[1], &[0.1f32]), case.data(&[1], &[1i64]), case.data(&[1], &[scale]));
    let (p, m) = (case.state("p", &[7]), case.state("m", &[7]));
    let v = case.state("v", &[7]);
    case.given.insert(v, std::sync::Arc::new(fewstep::tensor::Tensor::from_slice(&[7], &[0.5f32; 7]).expect("tensor")));
    let g = case.input(&[7]);
    [lr, step, scale, p, m, v, g]
}

#[test]
fn reading_an_overwritten_version_is_refused() -> Result<()> {
    for through_view in [false, true] {
        let mut case = Case::new("overwritten");
        let (p, x) = (case.state("p", &[2, 3]), case.input(&[2, 3]));
        let old = if through_view { case.graph.reshape(p, &[6])? } else { p };
        case.op(Assign, &[p, x]);
        let late = case.graph.affine(old, 2.0, 0.0)?;
        case.graph.tap(late);
        let error = case.graph.verify().expect_err("a read after the overwrite");
        assert!(error.message.contains("overwritten") && error.message.contains("'p'"), "{error}");
        assert!(CpuBackend::new(1)?.compile(&case.graph).is_err());
    }
    Ok(())
}

#[test]
fn a_view_of_an_old_version_counts_as_that_version() -> Result<()> {
    // The view is made after the overwrite, or of a view.
    let mut case = Case::new("views");
    let (p, x) = (case.state("p", &[2, 3]), case.input(&[2, 3]));
    let flat = case.graph.reshape(p, &[6])?;
    let stopped = case.op(StopGradient, &[flat]);
    case.op(Assign, &[p, x]);
    let late = case.graph.affine(stopped, 2.0, 0.0)?;
    case.graph.tap(late);
    assert!(case.graph.verify().is_err());
    Ok(())
}

#[test]
fn tapping_an_overwritten_version_is_refused() -> Result<()> {
    // After the run its storage holds the newer version: the tap would silently read that.
    let mut case = Case::new("tap");
    let (p, x) = (case.state("p", &[2, 3]), case.input(&[2, 3]));
    case.graph.tap(p);
    case.graph.verify()?;
    case.op(Assign, &[p, x]);
    let error = case.graph.verify().expect_err("the tapped version is gone after the run");
    assert!(error.message.contains("'p'"), "{error}");
    Ok(())
}

#[test]
fn an_update_may_not_read_what_another_pair_writes() -> Result<()> {
    // Chunks of one node run in any order: p1 would be read while it is written.
    let mut case = Case::new("race");
    let [lr, step, scale, p, m, v, _] = training_states(&mut case, 1.0);
    let (p1, m1, v1) = (case.state("p1", &[7]), case.state("m1", &[7]), case.state("v1", &[7]));
    let g = case.input(&[7]);
    case.ops(adamw(2), &[lr, step, scale, p, m, v, p1, p1, m1, v1, g]);
    assert!(case.graph.verify().is_err());
    Ok(())
}

#[test]
fn updating_an_old_version_is_refused() -> Result<()> {
    let mut case = Case::new("old");
    let (p, x) = (case.state("p", &[3]), case.input(&[3]));
    let new = case.op(Assign, &[p, x]);
    assert!(case.graph.push(Assign.into(), &[p, x]).is_err());
    assert!(case.graph.push(Assign.into(), &[x, p]).is_err(), "x is no state");
    // A refused node leaves the graph as it was.
    let (count, storage) = (case.graph.values().len(), case.graph.storage("p").expect("p"));
    let (lr, step) = (case.data(&[1], &[0.1f32]), case.data(&[1], &[1i64]));
    let (a, b) = (case.state("a", &[3]), case.state("b", &[3]));
    assert!(case.graph.push(adamw(1).into(), &[lr, step, lr, a, b, p, x]).is_err(), "p is an old version");
    assert!(case.graph.push(adamw(1).into(), &[lr, step, lr, a, a, b, x]).is_err(), "a is updated twice");
    assert_eq!(case.graph.values().len(), count + 4);
    assert_eq!(case.graph.current(storage), new);
    assert_eq!(case.graph.current(case.graph.storage("a").expect("a")), a);
    case.graph.verify()
}

#[test]
fn updates_happen_in_place() -> Result<()> {
    let mut case = Case::new("in place");
    let [lr, step, scale, p, m, v, g] = training_states(&mut case, 1.0);
    let new = case.ops(adamw(1), &[lr, step, scale, p, m, v, g]);
    let (decay, average) = (case.data(&[1], &[0.9f32]), case.state("average", &[7]));
    let ema = case.op(Ema { parameters: 1 }, &[decay, scale, average, new[0]]);
    let slot = case.state("slot", &[7]);
    let copied = case.op(Assign, &[slot, ema]);
    let reference = case.reference()?;
    let backend = CpuBackend::new(2)?;
    let mut exe = backend.compile(&case.graph)?;
    load(&mut *exe, &case.graph, &case.given)?;
    let before = exe.storage_bytes("p")?.as_ptr();
    exe.run_all()?;
    assert_eq!(exe.storage_bytes("p")?.as_ptr(), before);
    for (name, version) in [("p", new[0]), ("m", new[1]), ("v", new[2]), ("average", ema), ("slot", copied)] {
        // Untapped versions of a state can be read too: they are the storage.
        assert_eq!(exe.read_bytes(version)?[..], exe.storage_bytes(name)?[..]);
        let got = read(&*exe, &case.graph, version)?;
        crate::common::compare(name, &got, &reference[&version], 2e-6).unwrap_or_else(|e| panic!("{e}"));
    }
    // A second run goes on from there.
    let first = exe.storage_bytes("p")?.to_vec();
    exe.run_all()?;
    assert_ne!(exe.storage_bytes("p")?[..], first);
    Ok(())
}

#[test]
fn a_nan_scale_changes_nothing() -> Result<()> {
    let mut case = Case::new("nan");
    let [lr, step, _, p, m, v, g] = training_states(&mut case, 1.0);
    let norm = case.op(GlobalNorm, &[g]);
    let loss = case.data(&[1], &[f32::NAN]);
    let scale = case.op(ClipScale { max_norm: 1.0 }, &[norm, loss]);
    let new = case.ops(adamw(1), &[lr, step, scale, p, m, v, g]);
    let (decay, average) = (case.data(&[1], &[0.9f32]), case.state("average", &[7]));
    case.op(Ema { parameters: 1 }, &[decay, scale, average, new[0]]);
    let backend = CpuBackend::new(2)?;
    let mut exe = backend.compile(&case.graph)?;
    load(&mut *exe, &case.graph, &case.given)?;
    exe.run_all()?;
    for id in [p, m, v, average] {
        assert_eq!(exe.storage_bytes(&case.graph.value(id).name)?[..], *case.given[&id].bytes());
    }
    exe.write_bytes(loss, fewstep::backend::as_bytes(&[1f32]))?;
    exe.run_all()?;
    for id in [p, m, v, average] {
        assert_ne!(exe.storage_bytes(&case.graph.value(id).name)?[..], *case.given[&id].bytes());
    }
    Ok(())
}

#[test]
fn storages_are_guarded() -> Result<()> {
    let mut case = Case::new("guards");
    let (p, q, x) = (case.state("p", &[3]), case.state("q", &[3]), case.input(&[3]));
    let sum = case.graph.add(q, x)?;
    case.op(Assign, &[p, sum]);
    let backend = CpuBackend::new(1)?;
    let mut exe = backend.compile(&case.graph)?;
    assert_eq!(exe.run_all().expect_err("not prepared").status, Status::State);
    assert_eq!(exe.prepare().expect_err("q is unbound").status, Status::State);
    load(&mut *exe, &case.graph, &case.given)?;
    assert!(exe.bind("p", case.given[&p].clone()).is_err(), "a written storage is not shared");
    assert_eq!(exe.write_storage("p", &[0; 5]).expect_err("length").status, Status::Shape);
    assert_eq!(exe.write_bytes(x, &[0; 5]).expect_err("length").status, Status::Shape);
    let wrong = std::sync::Arc::new(fewstep::tensor::Tensor::from_slice(&[4], &[0f32; 4])?);
    assert_eq!(exe.bind("q", wrong).expect_err("shape").status, Status::Shape);
    assert_eq!(exe.storage_bytes("none").expect_err("name").status, Status::NotFound);
    // A rebound storage needs a new prepare.
    exe.bind("q", case.given[&q].clone())?;
    assert_eq!(exe.run_all().expect_err("not prepared").status, Status::State);
    exe.prepare()?;
    exe.run_all()?;
    let end = exe.plan().order().len();
    assert!(exe.run(0..end + 1).is_err(), "past the end");
    Ok(())
}

#[test]
fn a_state_keeps_its_type() -> Result<()> {
    let mut g = Graph::new();
    let first = g.state("p", TensorType::f32(&[2, 3]))?;
    assert_eq!(g.state("p", TensorType::f32(&[2, 3]))?, first);
    let error = g.state("p", TensorType::f32(&[3, 2])).expect_err("another shape");
    assert_eq!(error.status, Status::Shape);
    assert!(error.message.contains("[2, 3]") && error.message.contains("[3, 2]"), "{error}");
    Ok(())
}

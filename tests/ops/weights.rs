//! Packed weights: one copy for all executables of a backend that are bound to the same tensors.

use crate::common::{Case, check, compare, load, models, read};
use fewstep::Result;
use fewstep::backend::cpu::CpuBackend;
use fewstep::backend::{Backend, Executable};
use fewstep::graph::ops::{Assign, Codes, Dequantize, FakeQuantize};
use fewstep::graph::{Graph, TensorType, ValueId};
use fewstep::tensor::{DType, Tensor};
use std::sync::{Arc, Barrier};

/// A convolution and a linear layer of `batch` samples of the same weights as those of every other batch.
fn network(batch: usize) -> Result<(Case, ValueId)> {
    let mut case = Case::new("the same weights");
    let (w, m) = (case.state("w", &[24, 8, 3, 3]), case.state("m", &[16, 24]));
    let x = case.input(&[batch, 6, 6, 8]);
    let y = case.graph.conv2d(x, w, None, 1, [1; 4])?;
    let y = case.graph.linear(y, m, None)?;
    case.expect(y, 1e-5);
    Ok((case, y))
}

fn executable(backend: &CpuBackend, case: &Case) -> Result<Box<dyn Executable>> {
    let mut exe = backend.compile(&case.graph)?;
    load(&mut *exe, &case.graph, &case.given)?;
    Ok(exe)
}

/// The same weights as another case's, by tensor and not by value.
fn with_weights_of(mut case: Case, other: &Case) -> Case {
    for storage in other.graph.storages() {
        let own = case.graph.storage(&storage.name).expect("a storage");
        case.given.insert(case.graph.storages()[own.0 as usize].first, other.given[&storage.first].clone());
    }
    case
}

fn right(exe: &mut dyn Executable, case: &Case, y: ValueId) -> Result<()> {
    exe.run_all()?;
    compare(&case.name, &read(exe, &case.graph, y)?, &case.reference()?[&y], 1e-5).unwrap_or_else(|e| panic!("{e}"));
    Ok(())
}

#[test]
fn a_second_executable_costs_no_weights() -> Result<()> {
    let backend = CpuBackend::new(2)?;
    let (first, y) = network(1)?;
    let mut one = executable(&backend, &first)?;
    let bytes = backend.packed_bytes();
    assert!(bytes >= 4 * (24 * 72 + 16 * 24) && bytes == one.memory().shared, "{bytes} bytes");
    let (second, z) = network(3)?;
    let second = with_weights_of(second, &first);
    let mut two = executable(&backend, &second)?;
    assert_eq!((backend.packed_bytes(), two.memory().shared), (bytes, bytes));
    // Nothing but inputs is prepared by each for itself.
    assert_eq!(two.memory().persistent, two.plan().input_bytes());
    right(&mut *one, &first, y)?;
    right(&mut *two, &second, z)?;
    // The first goes, and the second keeps what it reads.
    drop(one);
    assert_eq!(backend.packed_bytes(), bytes);
    right(&mut *two, &second, z)?;
    drop(two);
    assert_eq!(backend.packed_bytes(), 0);
    Ok(())
}

/// The floats that numbers stand for, and the numbers that floats are rounded to, are packed once for all executables too.
#[test]
fn a_second_executable_costs_no_quantised_weights() -> Result<()> {
    let quantised = |batch: usize, step: f32| -> Result<(Case, ValueId)> {
        let mut case = Case::new("quantised weights");
        let (q, scale) = (case.graph.state("q", TensorType::new(DType::I8, &[24, 8, 3, 3]))?, case.state("q.scale", &[24]));
        let (w, w_scale) = (case.state("w", &[16, 24, 1, 1]), case.state("w.scale", &[16]));
        let numbers: Vec<i8> = (0..24 * 72).map(|i| (i * 37 % 255 - 127) as i8).collect();
        case.given.insert(q, Arc::new(Tensor::from_slice(&[24, 8, 3, 3], &numbers)?));
        case.given.insert(scale, Arc::new(Tensor::from_slice(&[24], &[0.01f32; 24])?));
        case.given.insert(w_scale, Arc::new(Tensor::from_slice(&[16], &[1f32 / 127.0; 16])?));
        let x = case.input(&[batch, 6, 6, 8]);
        let zeros = case.graph.constant("zeros", Tensor::zeros(DType::I8, &[24])?)?;
        let weight = case.op(Dequantize { axis: Some(0) }, &[q, scale, zeros]);
        let y = case.graph.conv2d(x, weight, None, 1, [1; 4])?;
        let (x_scale, x_zero) = (case.data(&[1], &[step]), case.data(&[1], &[100u8]));
        let y = case.op(FakeQuantize { codes: Codes::U8, axis: None, scale_gradient: 1.0 }, &[y, x_scale, x_zero]);
        let zeros = case.graph.constant("zeros", Tensor::zeros(DType::I8, &[16])?)?;
        let weight = case.op(FakeQuantize { codes: Codes::WEIGHTS, axis: Some(0), scale_gradient: 1.0 }, &[w, w_scale, zeros]);
        let y = case.graph.conv2d(y, weight, None, 1, [0; 4])?;
        case.expect(y, 1e-5);
        Ok((case, y))
    };
    let backend = CpuBackend::new(2)?;
    let (first, _) = quantised(1, 0.05)?;
    let one = executable(&backend, &first)?;
    let bytes = backend.packed_bytes();
    // Floats of the first, bytes of the second.
    assert!(bytes >= 4 * 24 * 72 + 16 * 24 && bytes == one.memory().shared, "{bytes} bytes");
    let (second, _) = quantised(3, 0.07)?;
    let two = executable(&backend, &with_weights_of(second, &first))?;
    assert_eq!((backend.packed_bytes(), two.memory().shared), (bytes, bytes));
    drop((one, two));
    assert_eq!(backend.packed_bytes(), 0);
    Ok(())
}

/// Constants are part of what is packed: others are other weights.
#[test]
fn other_zero_points_are_other_weights() -> Result<()> {
    let network = |zero: i8| -> Result<Case> {
        let mut case = Case::new("zero points");
        let (q, scale) = (case.graph.state("q", TensorType::new(DType::I8, &[4, 8, 1, 1]))?, case.state("q.scale", &[4]));
        case.given.insert(q, Arc::new(Tensor::from_slice(&[4, 8, 1, 1], &[5i8; 32])?));
        let x = case.input(&[1, 3, 3, 8]);
        let zeros = case.graph.constant("zeros", Tensor::from_slice(&[4], &[zero; 4])?)?;
        let weight = case.op(Dequantize { axis: Some(0) }, &[q, scale, zeros]);
        let y = case.graph.conv2d(x, weight, None, 1, [0; 4])?;
        case.expect(y, 1e-5);
        Ok(case)
    };
    let backend = CpuBackend::new(1)?;
    let first = network(0)?;
    let _one = executable(&backend, &first)?;
    let bytes = backend.packed_bytes();
    assert!(bytes > 0);
    for (zero, expected) in [(0, bytes), (3, 2 * bytes)] {
        let case = with_weights_of(network(zero)?, &first);
        let mut other = executable(&backend, &case)?;
        assert_eq!(backend.packed_bytes(), expected, "{zero}");
        right(&mut *other, &case, case.expect[0].0)?;
    }
    Ok(())
}

#[test]
fn other_tensors_are_other_weights() -> Result<()> {
    let backend = CpuBackend::new(1)?;
    let ((first, y), (mut second, z)) = (network(1)?, network(1)?);
    // Equal in shape and name alone.
    let w = second.graph.storages()[0].first;
    second.given.insert(w, Arc::new(Tensor::zeros(DType::F32, &[24, 8, 3, 3])?));
    let (mut one, mut two) = (executable(&backend, &first)?, executable(&backend, &second)?);
    assert_eq!(backend.packed_bytes(), one.memory().shared + two.memory().shared);
    right(&mut *one, &first, y)?;
    right(&mut *two, &second, z)?;
    // Bound anew, to those of the first: its own are gone.
    let second = with_weights_of(second, &first);
    load(&mut *two, &second.graph, &second.given)?;
    assert_eq!(backend.packed_bytes(), one.memory().shared);
    right(&mut *two, &second, z)
}

#[test]
fn threads_that_prepare_at_once_pack_once() -> Result<()> {
    let backend = CpuBackend::new(2)?;
    let (case, y) = network(2)?;
    let start = Barrier::new(4);
    let done: Vec<usize> = std::thread::scope(|scope| {
        let one = || -> Result<usize> {
            let mut exe = backend.compile(&case.graph)?;
            start.wait();
            load(&mut *exe, &case.graph, &case.given)?;
            right(&mut *exe, &case, y)?;
            start.wait();
            let bytes = backend.packed_bytes();
            start.wait();
            assert_eq!(bytes, exe.memory().shared);
            Ok(bytes)
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Result<_>>()
    })?;
    assert!(done[0] > 0 && done.iter().all(|bytes| *bytes == done[0]), "{done:?}");
    Ok(())
}

/// Weights that the program writes are its own.
#[test]
fn trained_weights_are_not_shared() -> Result<()> {
    let backend = CpuBackend::new(1)?;
    let (mut case, _) = network(1)?;
    let w = case.state("w", &[24, 8, 3, 3]);
    let next = case.input(&[24, 8, 3, 3]);
    case.op(Assign, &[w, next]);
    let exe = executable(&backend, &case)?;
    assert_eq!(backend.packed_bytes(), exe.memory().shared);
    let packed: usize = exe.plan().shared().len();
    assert_eq!(packed, 1, "the linear layer's alone");
    check(&backend, &case, &case.reference()?).map(|_| ()).unwrap_or_else(|e| panic!("{e}"));
    Ok(())
}

/// A network's samplers of several batches, as an application has them.
#[test]
fn networks_share_all_their_weights() -> Result<()> {
    let backend = CpuBackend::new(2)?;
    let prepared = |graph: &Graph, weights: &[(String, Arc<Tensor>)]| -> Result<Box<dyn Executable>> {
        let mut exe = backend.compile(graph)?;
        weights.iter().try_for_each(|(name, tensor)| exe.bind(name, tensor.clone()))?;
        exe.prepare()?;
        Ok(exe)
    };
    let graph = models::student_s(1)?;
    let zeros = |s: &fewstep::graph::Storage| Ok((s.name.clone(), Arc::new(Tensor::zeros(DType::F32, &s.ty.shape)?)));
    let weights: Vec<(String, Arc<Tensor>)> = graph.storages().iter().map(zeros).collect::<Result<_>>()?;
    let one = prepared(&graph, &weights)?;
    let bytes = backend.packed_bytes();
    let parameters: usize = weights.iter().map(|(_, w)| w.bytes().len()).sum();
    assert!(bytes > parameters * 9 / 10, "{bytes} bytes of {parameters} are packed");
    let two = prepared(&models::student_s(2)?, &weights)?;
    assert_eq!(backend.packed_bytes(), bytes);
    assert!(two.memory().persistent < bytes / 100 && one.memory().persistent < bytes / 100);
    Ok(())
}

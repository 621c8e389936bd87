//! How many things the GPU is asked to do: with 5 microseconds a launch, a small network's time is its number of launches.

use crate::common::conv_cases;
use crate::common::models::student_s;
use crate::gpu;
use fewstep::Result;
use fewstep::backend::cuda::{CudaBackend, Device};
use fewstep::backend::{Backend, Executable};
use fewstep::cancel::Stop;
use fewstep::graph::{Graph, Numerics, Op, OpDef};
use fewstep::tensor::{DType, Tensor};
use std::sync::Arc;

/// What the emulated driver has counted. A real one does not count.
pub struct Log(libloading::Library);

impl Log {
    /// That of the emulated driver. Tests that ask it are ignored, unless told not to be, so that none of them passes where nothing was counted.
    pub fn open() -> Self {
        Self::if_emulated().expect("a driver that counts: make test-cuda")
    }

    /// `None` where the driver is a real one.
    pub fn if_emulated() -> Option<Self> {
        // SAFETY: the library is loaded already; loading it again runs nothing.
        let library = unsafe { libloading::Library::new("libcuda.so.1") }.expect("the driver");
        // SAFETY: only looked up.
        let emulated = unsafe { library.get::<unsafe extern "C" fn()>(b"fewstep_emu_log_count\0") }.is_ok();
        emulated.then_some(Self(library))
    }

    /// What devices that are opened from now on say they have; returns what they said before.
    fn set_multiprocessors(&self, count: i32) -> i32 {
        // SAFETY: as cuda/emulator/libcuda/driver.h declares it.
        unsafe { self.0.get::<unsafe extern "C" fn(i32) -> i32>(b"fewstep_emu_set_multiprocessors\0").expect("a function")(count) }
    }

    pub fn count(&self, name: &std::ffi::CStr) -> u64 {
        // SAFETY: as cuda/emulator/libcuda/driver.h declares it.
        unsafe { self.0.get::<unsafe extern "C" fn(*const std::ffi::c_char) -> u64>(b"fewstep_emu_log_count\0").expect("a function")(name.as_ptr()) }
    }
}

fn in_half(gpu: &CudaBackend, graph: &Graph) -> Result<Box<dyn Executable>> {
    gpu.compile_until(graph, &Numerics::of(DType::F16)?, Stop::NEVER)
}

/// What one evaluation of student_s takes.
const MOST_LAUNCHES: u64 = 60;

/// Multiprocessors of an H200: launches are chosen for them.
const MULTIPROCESSORS: i32 = 132;

#[test]
#[ignore = "asks the emulated driver, which counts: make test-cuda"]
fn student_s_takes_few_launches() {
    let log = Log::open();
    let graph = student_s(1).expect("a graph");
    let before = log.set_multiprocessors(MULTIPROCESSORS);
    let gpu = gpu();
    log.set_multiprocessors(before);
    let mut exe = in_half(&gpu, &graph).expect("a plan");
    for storage in graph.storages() {
        exe.bind(&storage.name, Arc::new(Tensor::zeros(DType::F32, &storage.ty.shape).expect("memory"))).expect("weights");
    }
    exe.prepare().expect("a graph");
    let before = log.count(c"launches");
    // Node by node, so that each launch is a call of its own.
    for at in exe.plan().prepared()..exe.plan().order().len() {
        exe.run(at..at + 1).expect("a run");
    }
    let launches = log.count(c"launches") - before;
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for id in &exe.plan().order()[exe.plan().prepared()..] {
        *counts.entry(exe.plan().graph().nodes()[id.0 as usize].op.name()).or_default() += 1;
    }
    println!("{launches} launches of {counts:?}");
    assert!((1..=MOST_LAUNCHES).contains(&launches), "{launches} launches of {counts:?}");
}

/// Where they are asked to and the GPU can: `make test-cuda` runs the op tables so, and the emulator finds what a kernel does too early.
#[test]
#[ignore = "asks the emulated driver, which counts: make test-cuda"]
fn launches_overlap() {
    let log = Log::open();
    let can = Device::at(0).expect("a device").capability >= 90;
    let asked = std::env::var("FEWSTEP_CUDA_OVERLAP").is_ok_and(|value| value == "1");
    let counts = || (log.count(c"launches"), log.count(c"overlapping_launches"));
    let before = counts();
    let case = conv_cases::normalised().remove(0);
    crate::check(&gpu(), &case).expect("a run");
    let after = counts();
    let (launches, overlapping) = (after.0 - before.0, after.1 - before.1);
    assert!(launches > 0);
    assert_eq!(overlapping, if can && asked { launches } else { 0 });
}

/// The cases are made so that the norm goes; were it left, they would test something else.
#[test]
#[ignore = "asks the emulated driver, which counts: make test-cuda"]
fn norms_go_into_convolutions() {
    Log::open(); // on a GPU with more multiprocessors the tiles are others
    for case in conv_cases::normalised() {
        let exe = gpu().compile(&case.graph).expect("a plan");
        let left = exe.plan().graph().nodes().iter().filter(|n| matches!(n.op, Op::GroupNorm(_) | Op::FusedGroupNorm(_))).count();
        assert_eq!(left, 0, "{}", case.name);
    }
}

/// A norm with moments has one launch and reads its input once.
#[test]
#[ignore = "asks the emulated driver, which counts: make test-cuda"]
fn norms_take_moments() {
    Log::open(); // as above
    for case in conv_cases::measured() {
        let exe = gpu().compile(&case.graph).expect("a plan");
        let helped = exe.plan().graph().nodes().iter().filter(|n| matches!(&n.op, Op::FusedGroupNorm(op) if op.moments > 0)).count();
        assert_eq!(helped, 1, "{}", case.name);
    }
}

/// Nobody joins what a norm and a convolution, or two convolutions, can read where it is.
#[test]
#[ignore = "asks the emulated driver, which counts: make test-cuda"]
fn concatenations_are_spared() {
    let log = Log::open();
    // Weights are joined too, once.
    let count = |exe: &dyn Executable| {
        let (plan, nodes) = (exe.plan(), exe.plan().graph().nodes());
        plan.order()[plan.prepared()..].iter().filter(|id| matches!(nodes[id.0 as usize].op, Op::Concat(_))).count()
    };
    for (shape, case) in conv_cases::JOINED.iter().zip(conv_cases::joined()) {
        assert_eq!(count(&*gpu().compile(&case.graph).expect("a plan")), usize::from(!shape.4), "{}", case.name);
    }
    let before = log.set_multiprocessors(MULTIPROCESSORS);
    let gpu = gpu();
    log.set_multiprocessors(before);
    for batch in [1, 128] {
        let exe = in_half(&gpu, &student_s(batch).expect("a graph")).expect("a plan");
        assert_eq!(count(&*exe), 0, "batch {batch}");
    }
}

/// A second sampler of a model has no weights of its own on the device, packed or raw; the last one frees them.
#[test]
#[ignore = "asks the emulated driver, which counts: make test-cuda"]
fn a_second_sampler_costs_no_weights() {
    let log = Log::open();
    let gpu = gpu();
    let weights: Vec<_> = {
        let graph = student_s(1).expect("a graph");
        let tensor = |s: &fewstep::graph::Storage| (s.name.clone(), Arc::new(Tensor::zeros(DType::F32, &s.ty.shape).expect("memory")));
        graph.storages().iter().map(tensor).collect()
    };
    let sampler = |batch: usize| {
        let mut exe = in_half(&gpu, &student_s(batch).expect("a graph")).expect("a plan");
        weights.iter().for_each(|(name, tensor)| exe.bind(name, tensor.clone()).expect("weights"));
        exe.prepare().expect("a graph");
        exe
    };
    let live = || log.count(c"bytes_live") as usize;
    let before = live();
    let one = sampler(1);
    let (first, parameters) = (live() - before, weights.iter().map(|(_, w)| w.bytes().len()).sum::<usize>());
    let packed = gpu.packed_bytes();
    // In half precision they are half as large. Of the f32 copies only those of biases and norms are left.
    assert!(packed > parameters * 9 / 20 && packed < parameters * 11 / 20, "{packed} bytes packed of {parameters}");
    let own = one.memory().arena + one.memory().persistent;
    assert!(first - packed - own < parameters / 20, "{first} bytes live, {packed} packed, {own} of its own, {parameters} of parameters");
    let two = sampler(1);
    let second = live() - before - first;
    assert!(second < own + own / 10 + (1 << 20), "{second} bytes live for the second, {own} its own");
    assert_eq!(gpu.packed_bytes(), packed);
    drop((one, two));
    assert_eq!(gpu.packed_bytes(), 0);
}

/// At a batch where no norm goes into a convolution, all read their input once.
#[test]
#[ignore = "asks the emulated driver, which counts: make test-cuda"]
fn norms_of_a_large_batch_take_moments() {
    let log = Log::open();
    let before = log.set_multiprocessors(MULTIPROCESSORS);
    let gpu = gpu();
    log.set_multiprocessors(before);
    let exe = in_half(&gpu, &student_s(128).expect("a graph")).expect("a plan");
    let moments = |op: &Op| match op {
        Op::GroupNorm(_) => Some(0),
        Op::FusedGroupNorm(op) => Some(op.moments),
        _ => None,
    };
    let norms: Vec<_> = exe.plan().graph().nodes().iter().filter_map(|n| moments(&n.op)).collect();
    println!("values that the norms have moments of: {norms:?}");
    assert!(norms.len() > 20 && norms.iter().all(|moments| *moments > 0), "values that the norms have moments of: {norms:?}");
}

#[test]
fn linear_layers_of_one_value_are_one_product() {
    for case in conv_cases::merged() {
        let exe = gpu().compile(&case.graph).expect("a plan");
        let products = exe.plan().graph().nodes().iter().filter(|n| matches!(n.op, Op::FusedConv2d(_))).count();
        assert_eq!(products, case.expect.len().div_ceil(16), "{}", case.name);
    }
}

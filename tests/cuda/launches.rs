//! How many things the GPU is asked to do: with 5 microseconds a launch, a small network's time is its number of launches.

use crate::common::conv_cases;
use crate::gpu;
use fewstep::Result;
use fewstep::backend::cuda::{CudaBackend, Device};
use fewstep::backend::{Backend, Executable};
use fewstep::cancel::Stop;
use fewstep::graph::{Graph, Numerics, Op, OpDef, TensorType};
use fewstep::nn::{Inputs, Scope, families};
use fewstep::tensor::{DType, Tensor};
use std::sync::Arc;

/// `student_s` of benches/peers.py: 4.44 M parameters, attention at 8x8.
const STUDENT_S: &str = r#"{"_class_name": "UNet2DModel", "sample_size": 32, "in_channels": 3, "out_channels": 3, "layers_per_block": 1,
    "block_out_channels": [64, 128, 128], "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"], "attention_head_dim": 32, "norm_num_groups": 32}"#;

/// What the emulated driver has counted. A real one does not count.
pub struct Log(libloading::Library);

impl Log {
    pub fn open() -> Option<Self> {
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

fn student_s(batch: usize) -> Result<Graph> {
    let network = families::parse(STUDENT_S, "student_s")?;
    let mut graph = Graph::new();
    let (x, t) = (graph.input("x", TensorType::f32(&[batch, 32, 32, 3]))?, graph.input("t", TensorType::f32(&[batch]))?);
    let out = network.build(&mut graph, &Scope::new(""), &Inputs { x, t, conditions: &[] })?;
    graph.tap(out);
    Ok(graph)
}

fn in_half(gpu: &CudaBackend, graph: &Graph) -> Result<Box<dyn Executable>> {
    gpu.compile_until(graph, &Numerics::of(DType::F16)?, Stop::NEVER)
}

/// What one evaluation of student_s takes.
const MOST_LAUNCHES: u64 = 70;

/// Multiprocessors of an H200: launches are chosen for them.
const MULTIPROCESSORS: i32 = 132;

#[test]
fn student_s_takes_few_launches() {
    let Some(log) = Log::open() else { return };
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
fn launches_overlap() {
    let Some(log) = Log::open() else { return };
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
fn norms_go_into_convolutions() {
    if Log::open().is_none() {
        return; // on a GPU with more multiprocessors the tiles are others
    }
    for case in conv_cases::normalised() {
        let exe = gpu().compile(&case.graph).expect("a plan");
        let left = exe.plan().graph().nodes().iter().filter(|n| matches!(n.op, Op::GroupNorm(_))).count();
        assert_eq!(left, 0, "{}", case.name);
    }
}

/// A norm with moments has one launch and reads its input once.
#[test]
fn norms_take_moments() {
    if Log::open().is_none() {
        return; // as above
    }
    for case in conv_cases::measured() {
        let exe = gpu().compile(&case.graph).expect("a plan");
        let helped = exe.plan().graph().nodes().iter().filter(|n| matches!(&n.op, Op::GroupNorm(op) if op.sources > 0)).count();
        assert_eq!(helped, 1, "{}", case.name);
    }
}

/// At a batch where no norm goes into a convolution, all read their input once.
#[test]
fn norms_of_a_large_batch_take_moments() {
    let Some(log) = Log::open() else { return };
    let before = log.set_multiprocessors(MULTIPROCESSORS);
    let gpu = gpu();
    log.set_multiprocessors(before);
    let exe = in_half(&gpu, &student_s(128).expect("a graph")).expect("a plan");
    let norms: Vec<_> = exe.plan().graph().nodes().iter().filter_map(|n| if let Op::GroupNorm(op) = &n.op { Some(op.sources) } else { None }).collect();
    println!("sources of the norms: {norms:?}");
    assert!(norms.len() > 20 && norms.iter().all(|sources| *sources > 0), "sources of the norms: {norms:?}");
}

#[test]
fn linear_layers_of_one_value_are_one_product() {
    for case in conv_cases::merged() {
        let exe = gpu().compile(&case.graph).expect("a plan");
        let products = exe.plan().graph().nodes().iter().filter(|n| matches!(n.op, Op::Conv2d(_))).count();
        assert_eq!(products, case.expect.len().div_ceil(16), "{}", case.name);
    }
}

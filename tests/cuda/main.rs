//! The CUDA backend: conformance of every op, whole networks, graphs. `make test-cuda` runs it, on a real GPU where there is a driver, else on the
//! emulated one. Not part of plain `cargo test`: without either it fails.

mod abi;
#[path = "../common/mod.rs"]
mod common;
mod conformance;
#[path = "../ffi_common/mod.rs"]
mod ffi_common;
mod foreign;
mod launches;
mod networks;
mod quantized;
mod training;

use common::{Case, compare, load, read};
use fewstep::backend::Backend;
use fewstep::backend::cuda::{CudaBackend, Device};
use fewstep::cancel::Stop;
use fewstep::graph::Numerics;
use fewstep::tensor::{DType, Tensor};
use std::collections::HashMap;
use std::sync::Arc;

/// The first GPU.
fn gpu() -> CudaBackend {
    CudaBackend::new(Device::at(0).expect("a CUDA driver, real or emulated: run `make test-cuda`")).expect("a context")
}

/// Runs a case as one graph, and again node by node: both meet the f64 reference, with equal bytes.
fn check(backend: &dyn Backend, case: &Case) -> Result<(), String> {
    let named = |e: fewstep::Error| format!("{}: {e}", case.name);
    let reference = case.reference().map_err(named)?;
    let whole = common::check(backend, case, &reference)?;
    let mut exe = backend.compile(&case.graph).map_err(named)?;
    load(&mut *exe, &case.graph, &case.given).map_err(named)?;
    for at in exe.plan().prepared()..exe.plan().order().len() {
        exe.run(at..at + 1).map_err(named)?;
    }
    let mut single = vec![];
    for (value, tolerance) in &case.expect {
        let got = read(&*exe, &case.graph, *value).map_err(named)?;
        compare(&format!("{} '{}'", case.name, case.graph.value(*value).name), &got, &reference[value], *tolerance)?;
        single.extend_from_slice(&exe.read_bytes(*value).map_err(named)?);
    }
    if single != whole {
        return Err(format!("{}: node by node the bytes differ from those of the captured graph", case.name));
    }
    Ok(())
}

/// Largest sum of squared errors over sum of squares of a value in f16 and in bf16: what roundings of 2^-11 and 2^-8 add up to over the few
/// operations of a case.
const NMSE: [(DType, f64); 2] = [(DType::F16, 1e-5), (DType::Bf16, 1e-3)];

/// The numbers of a tensor of floats rounded to `dtype`, still as f32.
fn rounded(tensor: &Arc<Tensor>, dtype: DType) -> Arc<Tensor> {
    let Ok(values) = tensor.as_slice::<f32>() else { return tensor.clone() };
    let round = |v: &f32| if dtype == DType::F16 { half::f16::from_f32(*v).to_f32() } else { half::bf16::from_f32(*v).to_f32() };
    Arc::new(Tensor::from_slice(tensor.shape(), &values.iter().map(round).collect::<Vec<_>>()).expect("a tensor"))
}

/// The same with activations of a narrow type, by normalised mean squared error: single small elements may be far off.
fn check_narrow(backend: &dyn Backend, case: &Case, dtype: DType, tolerance: f64) -> Result<(), String> {
    let named = |e: fewstep::Error| format!("{} in {dtype:?}: {e}", case.name);
    // On numbers that the type has: rounding the operands is not the kernel's error.
    let given: HashMap<_, _> = case.given.iter().map(|(id, tensor)| (*id, rounded(tensor, dtype))).collect();
    let reference = case.reference_of(&given).map_err(named)?;
    let numerics = Numerics::of(dtype).map_err(named)?;
    let mut exe = backend.compile_until(&case.graph, &numerics, Stop::NEVER).map_err(named)?;
    load(&mut *exe, &case.graph, &given).map_err(named)?;
    exe.run_all().map_err(named)?;
    for (value, _) in &case.expect {
        let got = read(&*exe, &case.graph, *value).map_err(named)?;
        let want = &reference[value];
        let error: f64 = got.iter().zip(want).map(|(g, w)| if g == w || g.is_nan() && w.is_nan() { 0.0 } else { (g - w).powi(2) }).sum();
        let size: f64 = want.iter().filter(|w| w.is_finite()).map(|w| w * w).sum();
        if !(error <= tolerance * size) {
            return Err(format!("{} in {dtype:?} '{}': NMSE {:.2e}, allowed {tolerance:e}", case.name, case.graph.value(*value).name, error / size));
        }
    }
    Ok(())
}

/// Checks a table in every precision; panics with all failures.
fn run_table(cases: Vec<Case>) {
    let backend = gpu();
    let mut failures: Vec<String> = cases.iter().filter_map(|case| check(&backend, case).err()).collect();
    for (dtype, tolerance) in NMSE {
        failures.extend(cases.iter().filter_map(|case| check_narrow(&backend, case, dtype, tolerance).err()));
    }
    assert!(
        failures.is_empty(),
        "{} failures in {} cases, each in three precisions:\n{}",
        failures.len(),
        cases.len(),
        failures[..failures.len().min(20)].join("\n")
    );
}

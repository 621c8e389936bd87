//! The CUDA backend: conformance of every op, whole networks, graphs. `make test-cuda` runs it, on a real GPU where there is a driver, else on the
//! emulated one. Not part of plain `cargo test`: without either it fails.

mod common;
#[path = "cuda/conformance.rs"]
mod conformance;
#[path = "cuda/networks.rs"]
mod networks;

use common::{Case, compare, load, read};
use fewstep::backend::Backend;
use fewstep::backend::cuda::{CudaBackend, Device};

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

/// Checks a table; panics with all failures.
fn run_table(cases: Vec<Case>) {
    let backend = gpu();
    let failures: Vec<String> = cases.iter().filter_map(|case| check(&backend, case).err()).collect();
    assert!(failures.is_empty(), "{} of {} cases failed:\n{}", failures.len(), cases.len(), failures[..failures.len().min(20)].join("\n"));
}

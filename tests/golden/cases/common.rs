//! What all golden cases share: tolerant comparison and layout changes.

use fewstep::backend::cpu::CpuBackend;
use fewstep::backend::cuda::{CudaBackend, Device};
use fewstep::backend::{Backend, Executable, as_bytes};
use fewstep::graph::ValueId;
use fewstep::io::safetensors::TensorFile;
use fewstep::tensor::Tensor;
use std::fmt::Display;

/// Outcome of a case; the text says which tensor is off and by how much.
pub type Check = Result<(), String>;

pub fn fail(context: impl Display, e: impl Display) -> String {
    format!("{context}: {e}")
}

pub fn text<T>(result: fewstep::Result<T>) -> Result<T, String> {
    result.map_err(|e| e.to_string())
}

/// The CPU, or the first GPU with FEWSTEP_GOLDEN_DEVICE=cuda.
pub fn backend() -> Result<Box<dyn Backend>, String> {
    match std::env::var("FEWSTEP_GOLDEN_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Ok(Box::new(text(CpuBackend::new(2))?)),
        Ok("cuda") => Ok(Box::new(text(Device::at(0).and_then(CudaBackend::new))?)),
        Ok(other) => Err(format!("FEWSTEP_GOLDEN_DEVICE is '{other}'; known are cpu and cuda")),
    }
}

/// max|found - expected| <= tolerance * max(max|expected|, floor).
pub fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f64, floor: f64) -> Check {
    if found.len() != expected.len() {
        return Err(format!("{what}: {} elements, expected {}", found.len(), expected.len()));
    }
    let scale = expected.iter().fold(floor, |m, v| m.max(f64::from(v.abs())));
    let worst =
        found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs()).fold(0f64, |m, d| if d.is_nan() { f64::INFINITY } else { m.max(d) });
    if worst <= tolerance * scale { Ok(()) } else { Err(format!("{what}: off by {worst:.3e}, allowed {:.3e}", tolerance * scale)) }
}

/// [N,C,H,W] to [N,H,W,C]; other ranks stay as they are.
pub fn to_nhwc(t: &Tensor) -> Result<Vec<f32>, String> {
    let x = text(t.to_f32_vec())?;
    let &[n, c, h, w] = t.shape() else { return Ok(x) };
    let mut y = vec![0.0; x.len()];
    for i in 0..n {
        for ch in 0..c {
            for p in 0..h * w {
                y[(i * h * w + p) * c + ch] = x[(i * c + ch) * h * w + p];
            }
        }
    }
    Ok(y)
}

pub fn values(file: &TensorFile, name: &str) -> Result<Vec<f32>, String> {
    text(text(file.get(name))?.to_f32_vec())
}

pub fn integers(file: &TensorFile, name: &str) -> Result<Vec<i32>, String> {
    Ok(values(file, name)?.into_iter().map(|v| v as i32).collect())
}

pub fn write<T: fewstep::tensor::Element>(exec: &mut dyn Executable, id: ValueId, data: &[T]) -> Check {
    text(exec.write_bytes(id, as_bytes(data)))
}

pub fn read(exec: &dyn Executable, id: ValueId) -> Result<Vec<f32>, String> {
    Ok(text(text(exec.read_bytes(id))?.of::<f32>())?.to_vec())
}

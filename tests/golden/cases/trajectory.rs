//! The bundled teacher's 20-step DDIM run, state by state.

use crate::common::{Check, backend, close, integers, text, to_nhwc, values};
use fewstep::diffusion::{DdimConfig, SamplerConfig};
use fewstep::io::safetensors::TensorFile;
use fewstep::nn::conditions::Values;
use fewstep::nn::{ConditionKind, Model};
use fewstep::random::Purpose;
use fewstep::sampling::{RunSpec, SamplingRun, UNROLLED};
use fewstep::tensor::Tensor;
use std::path::PathBuf;

/// `$FEWSTEP_GOLDEN_TEACHER` or the teacher that the examples ship.
pub fn teacher_dir() -> PathBuf {
    std::env::var_os("FEWSTEP_GOLDEN_TEACHER").map_or_else(|| PathBuf::from("examples-c/data/digits_teacher"), PathBuf::from)
}

pub fn run() -> Check {
    let dir = PathBuf::from("examples-c/data/digits_teacher");
    let teacher = text(Model::open(&dir))?;
    let io = text(TensorFile::open(&dir.join("ddim20_trajectory.safetensors")))?;
    let all = text(io.get("states"))?;
    let (steps, shape) = (all.shape()[0] - 1, all.shape()[1..].to_vec());
    let data = text(all.to_f32_vec())?;
    let len: usize = shape.iter().product();
    let state = |k: usize| -> Result<Vec<f32>, String> { to_nhwc(&text(Tensor::from_slice(&shape, &data[k * len..][..len]))?) };
    let table = text(SamplerConfig::Ddim(DdimConfig::default()).table(&text(teacher.scheduler.noise_schedule())?, teacher.scheduler.prediction(), steps))?;
    let recorded = values(&io, "timesteps")?;
    if table.steps.iter().map(|s| s.t as f32).collect::<Vec<_>>() != recorded {
        return Err(format!("timesteps differ from {recorded:?}"));
    }
    let spec = RunSpec {
        table: &table,
        batch: shape[0],
        size: [shape[2], shape[3]],
        purpose: Purpose::Evaluation,
        precision: fewstep::tensor::DType::F32,
        guidance: None,
        unrolled: UNROLLED,
    };
    let mut run = text(SamplingRun::new(backend()?.as_ref(), &teacher, &spec))?;
    let samples: Vec<i32> = (0..shape[0] as i32).collect();
    let labels = integers(&io, "class_labels")?;
    text(run.begin(0, &samples, &[(ConditionKind::Labels { classes: 10 }, Values::I32(&labels))], Some(&state(0)?)))?;
    for k in 1..=steps {
        text(run.step(None, false))?;
        close(&format!("state {k}"), &text(run.read())?, &state(k)?, 1e-4, 0.0)?;
    }
    Ok(())
}

//! What users wait for, through the crate's own layers: network evaluations, sampling runs and a training step of the digits models on two threads.

mod digits;

use criterion::{Criterion, criterion_group, criterion_main};
use fewstep::Result;
use fewstep::backend::cpu::CpuBackend;
use fewstep::diffusion::{DdimConfig, SamplerConfig};
use fewstep::diffusion::{Weight, grid};
use fewstep::distill::{NormKind, Objective, Trainer, TrainerOptions};
use fewstep::nn::conditions::Values;
use fewstep::nn::{ConditionKind, Model};
use fewstep::random::Purpose;
use fewstep::sampling::{RunSpec, SamplingRun, UNROLLED};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

const THREADS: usize = 2;

fn bench_run(c: &mut Criterion, name: &str, model: &Model, steps: usize, batch: usize) -> Result<()> {
    let table = SamplerConfig::Ddim(DdimConfig::default()).table(&model.scheduler.noise_schedule()?, model.scheduler.prediction(), steps)?;
    let spec = RunSpec {
        table: &table,
        batch,
        size: model.size()?,
        purpose: Purpose::Evaluation,
        precision: fewstep::tensor::DType::F32,
        guidance: None,
        unrolled: UNROLLED,
    };
    let mut run = SamplingRun::new(&CpuBackend::new(THREADS)?, model, &spec)?;
    let samples: Vec<i32> = (0..batch as i32).collect();
    let labels: Vec<i32> = samples.iter().map(|i| i % 10).collect();
    let mut once = move || -> Result<f32> {
        run.begin(7, &samples, &[(ConditionKind::Labels { classes: 10 }, Values::I32(&labels))], None)?;
        run.step(None, true)?;
        Ok(run.read()?[0])
    };
    once()?;
    c.bench_function(name, |b| b.iter(|| black_box(once())));
    Ok(())
}

/// Gather, forward, backward, clip, AdamW and moving average at the demo's batch; the cache is small because only its rows of one batch are read.
fn bench_training(c: &mut Criterion, teacher: &Model, student: &Model) -> Result<()> {
    let options = TrainerOptions {
        batch: 64,
        terms: vec![Objective::TeacherForced.term(Weight::State, NormKind::L2)],
        pairs: grid::trailing_pairs(student.scheduler.num_train_timesteps, 2)?,
        substeps: 1,
        cache_size: 512,
        ..TrainerOptions::default()
    };
    let mut trainer = Trainer::new(Arc::new(CpuBackend::new(THREADS)?), student, Some(teacher), None, options)?;
    trainer.step()?;
    c.bench_function("training step of the demo's student, batch 64", |b| b.iter(|| black_box(trainer.step())));
    Ok(())
}

fn all(c: &mut Criterion) -> Result<()> {
    let teacher = digits::teacher()?;
    let student = digits::student(&teacher, 0)?;
    // One DDIM step is one evaluation and one cheap update.
    bench_run(c, "teacher evaluation, batch 1", &teacher, 1, 1)?;
    bench_run(c, "teacher evaluation, batch 16", &teacher, 1, 16)?;
    bench_run(c, "teacher, 50 steps, batch 1", &teacher, 50, 1)?;
    bench_run(c, "student, 2 steps, batch 16", &student, 2, 16)?;
    bench_training(c, &teacher, &student)
}

fn network(c: &mut Criterion) {
    if let Err(e) = all(c) {
        panic!("{e}");
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    targets = network
}
criterion_main!(benches);

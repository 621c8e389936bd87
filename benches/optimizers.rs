//! What an optimizer wins: the demo's student on a grid of two steps after as many samples with AdamW and with Muon, for two seeds. Error of the last state
//! against the teacher's, on noises that nobody trained on, and seconds of one thread.
//!
//! usage: cargo bench --bench optimizers -- [ITERATIONS [BATCH]]        (default 768 and 64; minutes)

mod digits;

use fewstep::backend::cpu::CpuBackend;
use fewstep::cancel::Stop;
use fewstep::diffusion::{Clip, Weight, grid};
use fewstep::distill::cache::CacheSpec;
use fewstep::distill::{NormKind, Objective, Optimizer, OptimizerKind, Trainer, TrainerOptions, TrajectoryCache, WeightsKind};
use fewstep::error::{Error, Result};
use fewstep::nn::Model;
use fewstep::tensor::DType;
use half::f16;
use std::sync::Arc;

const SUBSTEPS: usize = 4;
const TRAJECTORIES: usize = 4096;
const HELD_OUT: usize = 512;

/// Seconds that this thread has computed (Linux).
fn seconds() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").map_err(|e| Error::internal(e.to_string()))?;
    let nanoseconds = text.split(' ').next().and_then(|word| word.parse::<f64>().ok());
    nanoseconds.map(|ns| ns / 1e9).ok_or_else(|| Error::internal("schedstat"))
}

/// Where a model arrives from the held-out noises.
fn endpoints(model: &Model, pairs: &[(i64, i64)], substeps: usize, clip: Clip) -> Result<Vec<f32>> {
    let (schedule, backend) = (model.scheduler.noise_schedule()?, CpuBackend::new(2)?);
    let spec = CacheSpec {
        schedule: &schedule,
        prediction: model.scheduler.prediction(),
        clip,
        pairs,
        substeps,
        count: HELD_OUT,
        size: model.size()?,
        seed: 77,
        batch: 128,
        guidance: None,
        rows: &[],
        precision: DType::F32,
    };
    let cache = TrajectoryCache::build(&backend, model, &spec, &mut |_, _| true, Stop::NEVER)?;
    let states = cache.states.as_slice::<f16>()?;
    Ok(states[states.len() / (pairs.len() + 1) * pairs.len()..].iter().map(|v| v.to_f32()).collect())
}

fn rmse(a: &[f32], b: &[f32]) -> f64 {
    (a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64).sqrt()
}

fn main() -> Result<()> {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let (iterations, batch) = (numbers.first().copied().unwrap_or(768), numbers.get(1).copied().unwrap_or(64));
    let teacher = digits::teacher()?;
    let student = digits::student(&teacher)?;
    let pairs = grid::trailing_pairs(student.scheduler.num_train_timesteps, 2)?;
    let expected = endpoints(&teacher, &pairs, SUBSTEPS, teacher.scheduler.clip())?;
    println!("| optimizer | seed | iterations | batch | loss | held-out RMSE | its average's | ms a step |\n| --- | --- | --- | --- | --- | --- | --- | --- |");
    for seed in [1, 2] {
        for kind in [OptimizerKind::AdamW, OptimizerKind::Muon] {
            let optimizer = Optimizer { kind, learning_rate: 2e-3, total_steps: iterations as u64, ..Optimizer::default() };
            let options = TrainerOptions {
                seed,
                batch,
                terms: vec![Objective::TeacherForced.term(Weight::State, NormKind::L2)],
                pairs: pairs.clone(),
                substeps: SUBSTEPS,
                cache_size: TRAJECTORIES,
                optimizer,
                ..TrainerOptions::default()
            };
            let mut trainer = Trainer::new(Arc::new(CpuBackend::new(1)?), &student, Some(&teacher), None, options)?;
            trainer.prepare(&mut |_, _| true, Stop::NEVER)?;
            let (start, mut last) = (seconds()?, 0.0);
            for _ in 0..iterations {
                last = trainer.step()?.loss;
            }
            let spent = 1e3 * (seconds()? - start) / iterations as f64;
            let error = |kind| Ok::<_, Error>(rmse(&endpoints(&trainer.snapshot(kind)?, &pairs, 1, Clip::None)?, &expected));
            let (raw, average) = (error(WeightsKind::Raw)?, error(WeightsKind::Ema)?);
            println!("| {kind:?} | {seed} | {iterations} | {batch} | {last:.5} | {raw:.4} | {average:.4} | {spent:.2} |");
        }
    }
    Ok(())
}

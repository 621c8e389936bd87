//! Teachers that are not there: a callback of the host's, and trajectories from a file.

use super::cache::{CacheSpec, HostTeacher};
use super::tests::{bytes_of, model, options, scratch};
use super::*;
use crate::backend::cpu::CpuBackend;
use crate::cancel::Stop;
use crate::diffusion::Clip;
use crate::error::{Error, Result, Status};
use crate::nn::Model;
use crate::sampling::{Evaluator, Given};
use crate::tensor::{DType, Tensor};
use half::f16;
use std::sync::Arc;

fn trainer(teacher: Option<&Model>, options: TrainerOptions) -> Result<Trainer> {
    Trainer::new(Arc::new(CpuBackend::new(1)?), &model()?, teacher, None, options)
}

/// A network of ours as a host would call it, with a bad number after so many calls.
struct Called {
    evaluator: Evaluator,
    calls: usize,
    bad: usize,
}

impl HostTeacher for Called {
    fn predict(&mut self, x_t: &[f32], timestep: f64, given: &[Given], prediction: &mut [f32]) -> Result<()> {
        self.calls += 1;
        let rows = x_t.len() / 64;
        // As many as there are, the last one repeated.
        let x: Vec<f32> = (0..4).flat_map(|i| x_t[rows.min(i + 1) * 64 - 64..][..64].to_vec()).collect();
        let out = self.evaluator.run(&x, &[timestep as f32; 4], given, Stop::NEVER)?;
        prediction.copy_from_slice(&out[..prediction.len()]);
        if self.calls == self.bad {
            prediction[0] = f32::NAN;
        }
        Ok(())
    }
}

/// What the host computes for these options.
fn hosted(options: &TrainerOptions, bad: usize) -> Result<TrajectorySet> {
    let (teacher, backend) = (model()?, CpuBackend::new(1)?);
    let evaluator = Evaluator::new_until(&backend, &teacher, 4, [8, 8], DType::F32, Stop::NEVER)?;
    let spec = CacheSpec {
        schedule: teacher.scheduler.noise_schedule()?,
        prediction: teacher.scheduler.prediction(),
        pairs: options.pairs.clone(),
        walk: options.walk(None),
        count: options.cache_size,
        size: [8, 8],
        batch: options.cache_batch,
        guidance: None,
        rows: vec![],
        precision: DType::F32,
    };
    TrajectorySet::compute(&backend, &teacher, Box::new(Called { evaluator, calls: 0, bad }), (spec, options.seed), &mut |_, _| true, Stop::NEVER)
}

/// A host that evaluates the very teacher gives its trajectories: for every solver, with clipping, with a batch that is not full, unrolled and looped.
#[test]
fn a_callback_is_as_good_as_the_network() -> Result<()> {
    for (order, substeps, clip) in [(1, 2, Clip::None), (2, 3, Clip::Range(1.0)), (3, 9, Clip::None), (2, 2, Clip::Dynamic { ratio: 0.995, max: 1.0 })] {
        let options = TrainerOptions { teacher_order: order, substeps, trajectory_clip: Some(clip), cache_size: 7, ..options() };
        let mut own = trainer(Some(&model()?), options.clone())?;
        own.prepare(&mut |_, _| true, Stop::NEVER)?;
        let own = own.trajectories.of(0).expect("trajectories").states.to_f32_vec()?;
        let called = hosted(&options, 0)?.cache.states.to_f32_vec()?;
        let size = own.iter().fold(0f32, |m, v| m.max(v.abs()));
        let off = own.iter().zip(&called).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        // A rounding of f32 before one of f16.
        assert!(off <= 2e-3 * size, "order {order}: off by {off} of {size}");
    }
    let error = hosted(&options(), 2).expect_err("a bad prediction");
    assert!(error.status == Status::Numeric && error.message.contains("trajectory 0 at timestep"), "{error}");
    Ok(())
}

#[test]
fn trajectories_from_a_file_train_without_their_teacher() -> Result<()> {
    let dir = scratch("trajectories");
    let path = dir.join("trajectories.safetensors");
    let set = hosted(&options(), 0)?;
    set.save(&path)?;
    let opened = Arc::new(TrajectorySet::open(&path, &model()?)?);
    assert_eq!(opened.cache.states.bytes(), set.cache.states.bytes());
    let with = |set: &Arc<TrajectorySet>| TrainerOptions { trajectories: Some(set.clone()), ..options() };
    let mut alone = trainer(None, with(&opened))?;
    assert!(alone.is_prepared());
    for _ in 0..3 {
        alone.step()?;
    }
    let checkpoint = dir.join("checkpoint");
    alone.save(&checkpoint)?;
    alone.step()?;
    let mut resumed = trainer(None, with(&opened))?;
    resumed.resume(&checkpoint, 0)?;
    resumed.step()?;
    assert_eq!(bytes_of(&alone)?, bytes_of(&resumed)?);
    // Others are not taken for them.
    let mut other = set.clone();
    other.cache.states = Arc::new(Tensor::zeros(DType::F16, set.cache.states.shape())?);
    let error = trainer(None, with(&Arc::new(other)))?.resume(&checkpoint, 0).unwrap_err();
    assert!(error.message.contains("option trajectories"), "{error}");
    let error = alone.target_error(50, 4, 1, Stop::NEVER).unwrap_err();
    assert!(error.message.contains("there is no teacher, only its trajectories"), "{error}");
    std::fs::remove_dir_all(dir).expect("clean up");
    Ok(())
}

#[test]
fn trajectories_that_do_not_fit_are_named() -> Result<()> {
    let set = hosted(&options(), 0)?;
    let of = |options: TrainerOptions| trainer(None, TrainerOptions { trajectories: Some(Arc::new(set.clone())), ..options });
    let other = vec![(999, 599), (599, -1)];
    for (options, needle) in [
        (TrainerOptions { pairs: other, ..options() }, "for the grid"),
        (TrainerOptions { cache_size: 5, ..options() }, "cache_size is 5, the trajectories are 4"),
        (TrainerOptions { cache_refresh: 5, ..options() }, "only a teacher makes fresh ones"),
        (TrainerOptions { size: Some([16, 8]), ..options() }, "[8, 8, 1] (H, W, C), the student takes [16, 8, 1]"),
    ] {
        let error = of(options).err().expect(needle);
        assert!(error.message.contains(needle), "{error}");
    }
    let error = trainer(None, options()).err().expect("no teacher");
    assert!(error.message.contains("a teacher, or trajectories of one"), "{error}");
    let dir = scratch("bad-trajectories");
    let path = dir.join("file");
    let spoil = |change: &dyn Fn(&mut TrajectorySet) -> Result<()>| -> Result<Error> {
        let mut bad = set.clone();
        change(&mut bad)?;
        bad.save(&path)?;
        Ok(TrajectorySet::open(&path, &model()?).expect_err("damage"))
    };
    let infinite = |set: &mut TrajectorySet| {
        let mut states = Tensor::from_slice(set.cache.states.shape(), set.cache.states.as_slice::<f16>()?)?;
        states.as_mut_slice::<f16>()?[5 * 64 + 3] = f16::INFINITY;
        set.cache.states = Arc::new(states);
        Ok(())
    };
    let floats = |set: &mut TrajectorySet| {
        set.cache.states = Arc::new(set.cache.states.to_f32()?);
        Ok(())
    };
    for (error, needle) in [
        (spoil(&infinite)?, "state 1 of trajectory 1 is not finite"),
        (spoil(&floats)?, "f16 [3 M, H, W, C], found F32"),
        (
            spoil(&|set| {
                set.pairs.push((3, -1));
                Ok(())
            })?,
            "pair 2",
        ),
    ] {
        assert!(error.status == Status::CorruptFile && error.message.contains(needle), "{needle}: {error}");
    }
    std::fs::write(&path, b"no file").expect("written");
    assert!(TrajectorySet::open(&path, &model()?).is_err());
    std::fs::remove_dir_all(dir).expect("clean up");
    Ok(())
}
